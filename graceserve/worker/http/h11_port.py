"""The parser port on h11. Pure; used in a worker.

h11 parses heads and the chunked coding. The head's bytes are found, measured and looked over here first, because h11
does not tell bare LF or folded lines from good ones; a body of known length needs no parser. Each request gets an h11
connection of its own, since one that never sends a response can't go on to the next request.
"""

from enum import Enum
from typing import TypeAlias

import h11

from graceserve.worker.http.port import END, Broken, Event, Head, Limits, Oddity

CHUNKED_SLICE_BYTES = 16_384  # what h11 is given at a time; what it has not used of that comes back behind the body
_NOT_HTTP = 0x21  # no request line begins with a control character or a space: TLS, SSH, noise

_Found: TypeAlias = int | Broken | None


class _At(Enum):
    HEAD = "head"
    LENGTH = "a body of known length"
    CHUNKED = "a chunked body"


class H11Parser:
    """See `port.Parser`."""

    __slots__ = ("_at", "_h11", "_left", "_limits", "_pending", "_searched")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pending = bytearray()
        self._searched = 0  # so far there is no end of a head in `_pending`
        self._at = _At.HEAD
        self._left = 0  # bytes of a body of known length that have not come
        self._h11: h11.Connection | None = None

    @property
    def held_bytes(self) -> int:
        """See `port.Parser`."""
        return len(self._pending)

    def receive(self, data: bytes) -> None:
        """See `port.Parser`."""
        self._pending += data
        if self._at is _At.HEAD:
            self._skip_blank_lines()

    def next_event(self) -> Event | None:
        """See `port.Parser`."""
        match self._at:
            case _At.HEAD:
                return self._next_head()
            case _At.LENGTH:
                return self._next_of_length()
            case _At.CHUNKED:
                return self._next_of_chunked()

    # --- the head

    def _skip_blank_lines(self) -> None:
        """RFC 9112 2.2: old clients send a CRLF behind a body."""
        while self._pending.startswith(b"\r\n"):
            del self._pending[:2]

    def _next_head(self) -> Event | None:
        end = self._find_end()
        if not isinstance(end, int):
            return end
        raw = bytes(self._pending[:end])
        del self._pending[:end]
        self._searched = 0
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=self._limits.head_bytes_max)
        parser.receive_data(raw)
        try:
            request = parser.next_event()
        except h11.RemoteProtocolError as error:
            return Broken(error.error_status_hint, str(error))
        assert isinstance(request, h11.Request), "a whole head is a request or an error"
        headers = list(request.headers)
        self._frame(parser, headers)
        return Head(request.method, request.target, request.http_version, headers, _oddities(raw))

    def _find_end(self) -> _Found:
        """Where the head ends, None if that has not come."""
        pending, limits = self._pending, self._limits
        if not pending or pending == b"\r":  # perhaps half of a blank line
            return None
        if pending[0] < _NOT_HTTP:
            return Broken(400, "no request line")
        end = _blank_line(pending, max(0, self._searched - 3))
        line_end = pending.find(b"\n", 0, limits.line_bytes_max + 2)
        if line_end < 0 and len(pending) > limits.line_bytes_max + 1:
            return Broken(414, f"request line over {limits.line_bytes_max} bytes")
        if (end if end > 0 else len(pending)) > limits.head_bytes_max:
            return Broken(431, f"head over {limits.head_bytes_max} bytes")
        self._searched = len(pending)
        return end if end > 0 else None

    def _frame(self, parser: h11.Connection, headers: list[tuple[bytes, bytes]]) -> None:
        """As h11: a chunked coding wins over a length (the policy refuses both together), neither is no body."""
        fields = dict(headers)
        if b"transfer-encoding" in fields:
            self._at, self._h11 = _At.CHUNKED, parser
        else:
            self._at, self._left = _At.LENGTH, int(fields.get(b"content-length", 0))

    # --- the body

    def _next_of_length(self) -> Event | None:
        if not self._left:
            return self._end()
        if not self._pending:
            return None
        data = self._pending[: self._left]
        del self._pending[: self._left]
        self._left -= len(data)
        return data

    def _next_of_chunked(self) -> Event | None:
        parser = self._h11
        assert parser is not None, "set with the state"
        while True:
            try:
                event = parser.next_event()
            except h11.RemoteProtocolError as error:
                return Broken(error.error_status_hint, str(error))
            if isinstance(event, h11.Data):
                return event.data
            if isinstance(event, h11.EndOfMessage):
                self._pending[:0] = parser.trailing_data[0]
                return self._end()
            if not self._pending:
                return None
            parser.receive_data(bytes(self._pending[:CHUNKED_SLICE_BYTES]))
            del self._pending[:CHUNKED_SLICE_BYTES]

    def _end(self) -> Event:
        self._at, self._h11 = _At.HEAD, None
        self._skip_blank_lines()
        return END


def _blank_line(data: bytearray, start: int) -> int:
    """Behind the first blank line, 0 if there is none. LF alone counts: where a lenient hop sees the end, we must."""
    crlf, lf = data.find(b"\n\r\n", start), data.find(b"\n\n", start)
    if lf >= 0 and (crlf < 0 or lf < crlf):
        return lf + 2
    return crlf + 3 if crlf >= 0 else 0


def _oddities(raw: bytes) -> tuple[Oddity, ...]:
    lines = raw.count(b"\r\n")
    if raw.count(b"\n") == lines == raw.count(b"\r") and b"\n " not in raw and b"\n\t" not in raw and b"\0" not in raw:
        return ()
    seen = {
        Oddity.BARE_LF: raw.count(b"\n") > lines,
        Oddity.BARE_CR: raw.count(b"\r") > lines,
        Oddity.OBS_FOLD: b"\n " in raw or b"\n\t" in raw,
        Oddity.NUL: b"\0" in raw,
    }
    return tuple(oddity for oddity, there in seen.items() if there)
