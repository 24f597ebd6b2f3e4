"""The chunked coding of a request body (RFC 9112 7.1), for whatever parser read the head. Pure; used in a worker.

    SIZE --size line--> DATA --all of it--> DATA_END --CRLF--> SIZE ...
      +-- size 0 --> TRAILERS --empty line--> (complete)

Strict, since a proxy that sees the end of a body elsewhere is how requests are smuggled: CRLF ends a line and nothing
else does. Extensions and trailers are checked, bounded and dropped; what is not data must stay in proportion to it.
"""

import re
from enum import Enum

from graceserve.worker.http.port import Broken

LINE_BYTES_MAX = 4096  # of a size with its extensions, and of a trailer
TRAILER_BYTES_MAX = 16_384  # of all of them
# Size lines and line ends beside the data: a fixed allowance, and what chunks of one byte without extensions take.
OVERHEAD_BYTES_MAX = 65_536
OVERHEAD_PER_BYTE = 5

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")


class _At(Enum):
    SIZE = "a size line"
    DATA = "data"
    DATA_END = "the line end behind data"
    TRAILERS = "trailers"


class Complete(Enum):
    """The body has ended."""

    COMPLETE = "complete"


COMPLETE = Complete.COMPLETE


class Chunked:
    """One a body. `next` is asked for pieces until it has none."""

    __slots__ = ("_at", "_left", "_overhead_bytes", "_trailer_bytes", "data_bytes", "taken")

    def __init__(self) -> None:
        self._at = _At.SIZE
        self._left = 0  # of the chunk
        self.data_bytes = 0  # given so far
        self._overhead_bytes = 0
        self._trailer_bytes = 0
        self.taken = 0  # how far the last `next` has read

    def next(self, held: bytes, start: int) -> bytes | Complete | Broken | None:
        """The next piece of data in `held` from `start` on; None if it takes more bytes. `taken` is where to go on."""
        self.taken = start
        while True:
            if self._at is _At.DATA:
                return self._data(held)
            line = self._data_end(held) if self._at is _At.DATA_END else self._line(held)
            if not isinstance(line, bytes):
                return line
            done = self._on_line(line)
            if done is not None:
                return done

    def coded(self, data: bytes) -> bytes:
        """A body that has given `data` so far as it may have come, up to where the next byte belongs."""
        chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        match self._at:
            case _At.DATA:
                return b"%b%x\r\n" % (chunk, self._left)
            case _At.DATA_END:
                return chunk[:-2]
            case _At.TRAILERS:
                return chunk + b"0\r\n"
            case _:
                return chunk

    def _data(self, held: bytes) -> bytes | None:
        start = self.taken
        piece = held[start : start + self._left] if start or self._left < len(held) else held
        self.taken += len(piece)
        self._left -= len(piece)
        self.data_bytes += len(piece)
        if not self._left:
            self._at = _At.DATA_END
        return piece or None

    def _line(self, held: bytes) -> bytes | Broken | None:
        """A line without its end."""
        end = held.find(b"\r\n", self.taken, self.taken + LINE_BYTES_MAX + 2)
        if end < 0:
            return self._no_line(held)
        line = held[self.taken : end]
        self.taken = end + 2
        self._overhead_bytes += len(line) + 2
        if self._overhead_bytes > OVERHEAD_BYTES_MAX + OVERHEAD_PER_BYTE * self.data_bytes:
            return Broken(431, "more chunk sizes and extensions than data")
        return line

    def _no_line(self, held: bytes) -> Broken | None:
        """What can't become a line any more is refused at once."""
        rest = held[self.taken : self.taken + LINE_BYTES_MAX + 1]
        if b"\n" in rest or b"\r" in rest[:-1]:
            return Broken(400, "bad line end in the chunked body")
        if len(rest) <= LINE_BYTES_MAX:
            return None
        if rest.endswith(b"\r"):  # of a line just as long as one may be
            more = len(held) - self.taken > len(rest)
            return Broken(400, "bad line end in the chunked body") if more else None
        return Broken(431, f"a line of the chunked body over {LINE_BYTES_MAX} bytes")

    def _data_end(self, held: bytes) -> bytes | Broken | None:
        """The line end behind a chunk's data, as an empty line."""
        rest = held[self.taken : self.taken + 2]
        if rest == b"\r\n":
            self.taken += 2
            self._overhead_bytes += 2
            return b""
        return None if rest in (b"", b"\r") else Broken(400, "a chunk longer than its size")

    def _on_line(self, line: bytes) -> Complete | Broken | None:
        match self._at:
            case _At.SIZE:
                return self._on_size(line)
            case _At.DATA_END:
                self._at = _At.SIZE
                return None
            case _:
                return self._on_trailer(line)

    def _on_size(self, line: bytes) -> Broken | None:
        size = _SIZE.fullmatch(line)
        if not size:
            return Broken(400, "bad chunk size")
        self._left = int(size[1], 16)
        self._at = _At.DATA if self._left else _At.TRAILERS
        return None

    def _on_trailer(self, line: bytes) -> Complete | Broken | None:
        if not line:
            return COMPLETE
        self._trailer_bytes += len(line)
        if self._trailer_bytes > TRAILER_BYTES_MAX:
            return Broken(431, f"trailers over {TRAILER_BYTES_MAX} bytes")
        return None if _TRAILER.fullmatch(line) else Broken(400, "bad trailer")
