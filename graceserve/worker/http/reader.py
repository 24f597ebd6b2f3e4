"""A connection's requests, out of its bytes. Pure; used in a worker.

Finds where a head ends and that it is within its limits, has a parser read it and the policy judge it, unless the memo
knows what comes of it, and reads the body behind it. It stops behind each request until it is asked again, so a
pipelined one costs nothing before its turn.
"""

from enum import Enum
from typing import TypeAlias

from graceserve.worker.http.chunked import COMPLETE, Chunked
from graceserve.worker.http.memo import Memo
from graceserve.worker.http.policy import Admitted, Body, Refused, admit
from graceserve.worker.http.port import Broken, Head, Heads, Limits

_NOT_HTTP = 0x21  # no request line begins with a control character or a space: TLS, noise


class End(Enum):
    """The body is complete."""

    END = "end"


END = End.END
_NONE, _LENGTH, _CHUNKED = Body.NONE, Body.LENGTH, Body.CHUNKED  # looked up once: 100 ns each on Python 3.11
Event: TypeAlias = Admitted | bytes | End | Refused


class Reader:
    """One a connection. `receive` bytes, then ask for events until there is none."""

    __slots__ = ("_body", "_heads", "_left", "_limits", "_memo", "_searched", "_start", "_unsuspicious_bytes",
                 "held")  # fmt: skip

    def __init__(self, heads: Heads, limits: Limits, memo: Memo | None = None) -> None:
        """`memo` must be of this parser and these limits; readers share it."""
        self._heads = heads
        self._limits = limits
        self._memo = memo or Memo(limits)
        self._unsuspicious_bytes = limits.unsuspicious_bytes
        self.held = b""  # what has come, but for what was used; empty when all of it was. Not to be changed
        self._start = 0  # what is before it has been used, too
        self._searched = 0  # from here on the end of the head may be
        self._body: Body = _NONE
        self._left: int | Chunked = 0

    @property
    def held_bytes(self) -> int:
        """How many bytes are kept that no event has given yet. 0 between requests: the connection is idle."""
        return len(self.held) - self._start

    @property
    def bodyless(self) -> bool:
        """Whether the request that was given last is complete without a body."""
        return self._body is _NONE

    def receive(self, data: bytes) -> None:
        """Keep bytes from the client."""
        if not self.held:
            self.held = data
        else:
            self.held = self.held[self._start :] + data
            self._searched -= self._start
            self._start = 0

    def next_event(self) -> Event | None:
        """`Admitted`, then pieces of its body (never empty) and `END` if it has one; None if it takes more bytes.

        After `Refused` not to be asked again.
        """
        if self._body is _NONE:
            raw = self.held
            if not self._start and len(raw) <= self._memo.head_bytes_max:
                known = self._memo.recall(raw)
                if known is not None:
                    self.held, self._searched = b"", 0  # an idle connection keeps no memory
                    return known
            return self._next_head()
        return self._next_of_length() if self._body is _LENGTH else self._next_of_chunked()

    def unserved(self, request: Admitted | None, body: bytes) -> bytes:
        """The bytes that bring another reader to where this one is: `request`, the last one given, if it was not served
        yet, with as much of its body as was given; and all that is held."""
        rest = self.held[self._start :]
        if request is None:
            return rest
        if request.body is not _CHUNKED:
            return request.raw + body + rest
        coded = _whole(body) if self._body is _NONE else self._coded_so_far(body)
        return request.raw + coded + rest

    def _coded_so_far(self, body: bytes) -> bytes:
        assert isinstance(self._left, Chunked)
        return self._left.coded(body)

    # --- the head

    def _next_head(self) -> Admitted | Refused | None:
        raw = self.held
        # Has just one head come, and no large one? (To ask a `bytes` by `in` costs three times as much as by `find`.)
        whole = not self._start and len(raw) <= self._unsuspicious_bytes
        if not whole or not raw.find(b"\r\n\r\n") == len(raw) - 4 >= 0 or raw[0] < _NOT_HTTP:
            found = self._find()
            if not isinstance(found, bytes):
                return found
            raw = found
        self._use(len(raw))
        return self._parse(raw)

    def _parse(self, raw: bytes) -> Admitted | Refused:
        head = self._heads.parse(raw)
        if type(head) is not Head:
            assert isinstance(head, Broken)
            return Refused(head.status, head.reason)
        admitted = admit(head, self._limits)
        if type(admitted) is Admitted:
            admitted.raw = raw
            if admitted.body is _NONE:
                self._memo.learn(raw, admitted)
            else:
                self._body = admitted.body
                self._left = admitted.body_bytes if admitted.body is _LENGTH else Chunked()
        return admitted

    def _find(self) -> bytes | Refused | None:
        """The head, if all of it is there and within its limits, and it begins as one, behind empty lines."""
        held = self.held
        while held.startswith(b"\r\n", self._start):  # RFC 9112 2.2: old clients send a CRLF behind a body
            self._start += 2
        self._searched = max(self._searched, self._start)
        rest = held[self._start : self._start + 2]
        if not rest or rest == b"\r":  # perhaps half of an empty line
            self._use(0)
            return None
        if rest[0] < _NOT_HTTP:
            return Refused(400, "no request line")
        end = _blank_line(held, self._searched)
        self._searched = max(self._start, len(held) - 3)
        raw = held[self._start : end] if end else held[self._start :]
        if len(raw) > self._unsuspicious_bytes:
            refused = self._measure(raw)
            if refused is not None:
                return refused
        return raw if end else None

    def _measure(self, raw: bytes) -> Refused | None:
        """Whether a head, or what there is of it, breaks a limit."""
        limits = self._limits
        line, *fields = raw.removesuffix(b"\r").split(b"\r\n")
        if len(line) > limits.line_bytes_max:
            return Refused(414, f"request line over {limits.line_bytes_max} bytes")
        if max(map(len, fields), default=0) > limits.field_bytes_max:
            return Refused(431, f"header field over {limits.field_bytes_max} bytes")
        if len(raw) > limits.head_bytes_max:
            return Refused(431, f"head over {limits.head_bytes_max} bytes")
        if len(fields) - (2 if raw.endswith(b"\r\n\r\n") else 1) > limits.fields_max:
            return Refused(431, f"more than {limits.fields_max} header fields")
        return None

    # --- the body

    def _next_of_length(self) -> bytes | End | None:
        assert isinstance(self._left, int)
        if not self._left:
            return self._end()
        piece = self.held[self._start : self._start + self._left]
        self._left -= len(piece)
        self._use(len(piece))
        return piece or None

    def _next_of_chunked(self) -> bytes | End | Refused | None:
        assert isinstance(self._left, Chunked)
        event = self._left.next(self.held, self._start)
        self._use(self._left.taken - self._start)
        if isinstance(event, Broken):
            return Refused(event.status, event.reason)
        if self._left.data_bytes > self._limits.body_bytes_max:
            return Refused(413, f"body over {self._limits.body_bytes_max} bytes")
        return self._end() if event is COMPLETE else event

    def _use(self, size: int) -> None:
        self._start += size
        self._searched = self._start
        if self._start == len(self.held):
            self.held, self._start, self._searched = b"", 0, 0

    def _end(self) -> End:
        self._body, self._left = _NONE, 0
        while self.held.startswith(b"\r\n", self._start):  # an idle connection holds nothing
            self._use(2)
        return END


def _blank_line(held: bytes, start: int) -> int:
    """Behind the first empty line, 0 if there is none. LF alone counts: where a lenient hop sees the end, we must."""
    crlf = held.find(b"\n\r\n", start)
    lf = held.find(b"\n\n", start, crlf + 1 if crlf >= 0 else len(held))  # not through all that is pipelined behind it
    if lf >= 0:
        return lf + 2
    return crlf + 3 if crlf >= 0 else 0


def _whole(body: bytes) -> bytes:
    """A body as one chunk, and the last one."""
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
