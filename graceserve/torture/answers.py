"""The responses on one connection, in the order of its requests. Pure; used by the clients of `graceserve torture`.

h11 is the reader: strict, and a run of this program asks a few hundred requests a second, not 100,000.
"""

from collections import deque
from dataclasses import dataclass

import h11

_HEAD_BYTES_MAX = 256 * 1024


class Broken(Exception):
    """What came is no response, or not the whole of one. `str()` says what."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole response. `closes`: nothing follows on this connection, and the server has said so."""

    status: int
    body_bytes: int
    closes: bool


class Answers:
    """Knows which requests were sent (`expect`), is fed what came, gives the answers. After `Broken` it is spent."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES_MAX)
        self._expected: deque[h11.Request] = deque()
        self._asked = False  # whether h11 knows of the first of them
        self._status = 0  # of the response whose head has come
        self._body_bytes = 0
        self._bytes = 0  # of the response so far, or of what was read behind it
        self._closed = False  # a response has said so
        self._ended = False  # the stream, which is how some bodies are framed

    @property
    def waiting(self) -> int:
        """How many requests are not answered yet."""
        return len(self._expected)

    @property
    def begun(self) -> bool:
        """Whether something of the next answer has come."""
        return bool(self._expected) and self._bytes > 0

    def expect(self, method: str, close: bool = False) -> None:
        """A request was sent; `close` if it said that it is the last one."""
        # h11 needs to know only what a response's framing depends on; bodies are the client's own business.
        fields = [("Host", "x"), *([("Connection", "close")] if close else [])]
        self._expected.append(h11.Request(method=method, target="/", headers=fields))

    def feed(self, data: bytes) -> list[Answer]:
        """The answers that `data` completes; b"" is the end of the stream. Raises `Broken`."""
        if self._closed:  # what follows an announced close is nobody's
            return []
        self._bytes += len(data)
        self._ended = not data
        self._ask()
        if not self._expected:
            if data:
                raise Broken(f"{len(data)} bytes that nobody has asked for: {data[:40]!r}")
            return []
        found: list[Answer] = []
        try:
            self._h11.receive_data(data)
            while (answer := self._next()) is not None:
                found.append(answer)
        except h11.RemoteProtocolError as error:
            raise Broken(self._why(data, error)) from None
        return found

    def _next(self) -> Answer | None:
        """The next whole response of what has come, None if there is none yet."""
        while self._expected and not self._closed:
            match self._h11.next_event():
                case h11.Response(status_code=status):
                    self._status = status
                case h11.Data(data=part):
                    self._body_bytes += len(part)
                case h11.EndOfMessage():
                    return self._whole()
                case h11.InformationalResponse(status_code=101):
                    raise Broken("status 101, which nobody has asked for")
                case h11.InformationalResponse():
                    continue
                case _:  # NEED_DATA, PAUSED, ConnectionClosed
                    return None
        return None

    def _whole(self) -> Answer:
        closes = self._ended or {self._h11.their_state, self._h11.our_state} != {h11.DONE}
        answer = Answer(self._status, self._body_bytes, closes)
        self._expected.popleft()
        self._asked, self._closed = False, closes
        self._status = self._body_bytes = 0
        if not closes:
            self._go_on()
        return answer

    def _go_on(self) -> None:
        behind = self._h11.trailing_data[0]
        if behind and not self._expected:
            raise Broken(f"{len(behind)} bytes behind a response: {behind[:40]!r}")
        self._bytes = len(behind)
        self._h11.start_next_cycle()
        self._ask()

    def _ask(self) -> None:
        if self._expected and not self._asked:
            self._asked = True
            self._h11.send(self._expected[0])
            self._h11.send(h11.EndOfMessage())

    def _why(self, data: bytes, error: Exception) -> str:
        if data:
            return f"this is not HTTP ({error}): {data[:40]!r}"
        if self._status:
            return f"closed after {self._body_bytes} bytes of the body of a response ({self._status})"
        return f"closed after {self._bytes} bytes of a head" if self._bytes else "closed without an answer"
