"""One call of the app: the rules of PEP 3333, and the response as pieces. Shell (calls the app); used in a worker.

An `Exchange` does no I/O of its own. Whoever runs it (`runs.py`) pulls pieces from it, on the loop thread or on a pool
thread, as fast as the client takes them; the first piece begins with the head. Whatever the app raises, also
`SystemExit`, ends this exchange and nothing else.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from time import time
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from graceserve.logs import Log
from graceserve.template.load import WSGIApplication, stack
from graceserve.wire.messages import tail
from graceserve.worker.filewrapper import FilePart, FileWrapper, part_of
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.response import (
    Framing,
    Header,
    Written,
    begin,
    early_hints,
    length_end,
    length_line,
    plain,
)

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]
Piece: TypeAlias = bytes | FilePart


class ClientGone(ConnectionError):
    """Raised into an app that calls `write()` when nobody reads any more."""


class Writer(Protocol):
    """Where the pieces of `write()` go."""

    def emit(self, piece: bytes) -> None:
        """Raises `ClientGone` if nobody reads."""


class Outcome(Enum):
    """How an exchange ended."""

    OPEN = "not yet"
    COMPLETE = "complete"  # the client knows that it has everything
    BROKEN = "broken"  # it has a part: only the end of the connection can tell it so


COPIED_BYTES_MAX = 65_536  # a longer body is sent as the app's own object: a thousand slow readers may share it
_NO_ENVIRON: dict[str, Any] = {}
OPEN, COMPLETE, BROKEN = Outcome  # a member looked up in its class takes 100 ns on Python 3.11
_LENGTH = Framing.LENGTH


@dataclass(slots=True)
class Gateway:
    """What all exchanges of a worker have in common. `close_now` is asked when a head is made, once `draining`."""

    app: WSGIApplication
    log: Log
    close_now: Callable[[], bool]
    draining: bool = False  # only the worker sets it
    keeps_environ: bool = True  # for the access log; else what it holds is free as soon as a request is over


class Exchange:
    """A request and its response. Only one thread at a time uses it."""

    # What most exchanges never change are defaults of the class. What is looked at in all of them is not: that would
    # take longer than to store it (Python 3.11).
    headers: list[Header] = []  # noqa: RUF012  # the app's own list; never changed here
    body_bytes = 0  # of the response's body so far
    writer: Writer  # for an app that calls write(); the run's to set
    sends_files = True  # whether `pull` may give a `FilePart`
    _written: Written  # the status line and the app's headers, from start_response on
    _bodyless = False  # HEAD, 204, 304; from start_response on
    _framing = Framing.NONE
    _left: int | None = None  # bytes that Content-Length still promises
    _iterator: Iterator[bytes] | None = None
    _file: FilePart | None = None
    _closed = False

    def __init__(self, gateway: Gateway, request: Admitted, environ: dict[str, Any]) -> None:
        self.gateway = gateway
        self.request = request
        self.environ = environ
        self.keep_alive = request.keep_alive
        self.outcome = OPEN
        self.status = ""  # "404 Not Found"; empty until start_response
        self._result: Iterable[bytes] | None = None
        self._head_sent = False
        environ["wsgi.early_hints"] = self._hint

    @property
    def ends_by_close(self) -> bool:
        """Whether an end of the connection looks like the end of the body."""
        return self._framing is Framing.CLOSE

    @property
    def status_code(self) -> int:
        """What the client is told, 0 before that is known."""
        return int(self.status[:3]) if self.status else 0

    def begin(self) -> Piece | None:
        """Call the app. The first piece, which begins with the head; as for `pull`."""
        piece: Piece | None
        try:
            gateway = self.gateway
            result = self._result = gateway.app(self.environ, self.start_response)
            if type(result) is list and len(result) == 1 and not (self._head_sent or gateway.draining):
                piece = self._at_once(result[0])  # most responses
                if piece is not None:
                    return piece
            piece = self._whole(result) if type(result) is list or type(result) is tuple else self._lazily(result)
        except BaseException as error:  # SystemExit, too: an app must not end its server
            piece = self._failed(error)
        if self.outcome is not OPEN:
            self.close()
        return piece

    def pull(self) -> Piece | None:
        """The next piece, None at the end (and the last one may be known by its `outcome`). Calls `close` when that was
        all. Never raises."""
        if self.outcome is not OPEN:
            return None
        if self._result is None:
            return self.begin()
        try:
            piece = self._next()
        except BaseException as error:
            piece = self._failed(error)
        if self.outcome is not OPEN:
            self.close()
        return piece

    def close(self) -> None:
        """Call the iterable's close(), once. Never raises."""
        if self._closed:
            return
        self._closed = True
        result = self._result
        self._result = self._iterator = None
        if type(result) is not list:
            try:
                close = getattr(result, "close", None)
                if close is not None:
                    close()
            except BaseException as error:
                self._log_error("app-close-error", error)
        self._part_with_environ()

    def _part_with_environ(self) -> None:
        """Or with what of it would be a cycle: it holds this exchange."""
        if self.gateway.keeps_environ:
            self.environ.pop("wsgi.early_hints", None)
        else:
            self.environ = _NO_ENVIRON

    # --- the app's side

    def start_response(
        self, status: str, headers: list[Header], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333."""
        if exc_info:
            try:
                if self._head_sent:
                    raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # a cycle through the frame otherwise
        elif self.status:
            raise RuntimeError("start_response was called twice, without exc_info")
        self._written = written = begin(status, headers)
        self.status, self.headers = status, headers
        self._left = written.length
        self._bodyless = written.bodyless or self.request.is_head
        return self._write

    def _write(self, data: bytes) -> None:
        if self.outcome is not OPEN or self._closed:  # else what an app has kept would write into a later response
            raise RuntimeError("write() after the end of the response")
        self.writer.emit(self._framed(_bytes(data)))

    def _hint(self, headers: list[Header]) -> None:
        """`wsgi.early_hints` (as gunicorn's): a 103 response in front of the one to come. RFC 8297."""
        in_time = not self._head_sent and not self._closed
        if in_time and not self.request.is_http10:  # RFC 9110 15.2: no 1xx to older clients
            self.writer.emit(early_hints(headers))

    # --- pieces

    def _at_once(self, data: bytes) -> bytes | None:
        """All of a usual response with this body: one write, and nothing to be closed. None if it is not usual."""
        request = self.request
        if not self.status or self._bodyless or request.is_http10 or not self.keep_alive or type(data) is not bytes:
            return None
        size, length = len(data), self._left
        if size > COPIED_BYTES_MAX or (length is not None and length != size):
            return None
        now_s = time()
        second, begun, head = self._written.dated
        if not second <= now_s < second + 1:
            _, begun, head = self._written.date(now_s)
        self.outcome, self.body_bytes, self._head_sent = COMPLETE, size, True
        if self.gateway.keeps_environ:  # as `_part_with_environ`
            self.environ.pop("wsgi.early_hints", None)
        else:
            self.environ = _NO_ENVIRON
        return head + data if length is not None else begun + length_end(size) + data

    def _whole(self, result: Sequence[bytes]) -> Piece | None:
        """A body that is known as a whole, and so is all of the response (unless its length is a lie)."""
        data = result[0] if len(result) == 1 else b"".join(result)
        if type(data) is not bytes:
            data = _bytes(data)
        left = self._left
        if self._bodyless or self._head_sent or (left is not None and left != len(data)):
            self._iterator = iter((data,))
            return self._next()
        head = self._head(length_line(len(data)) if left is None else b"")
        if len(data) > COPIED_BYTES_MAX:
            self._framing, self._left, self._iterator = _LENGTH, len(data), iter((data,))
            return head
        self.body_bytes = len(data)
        self.outcome = COMPLETE
        return head + data

    def _lazily(self, result: Iterable[bytes]) -> Piece | None:
        """A body whose end is not known."""
        if type(result) is FileWrapper and self.sends_files and not self._head_sent and not self._bodyless:
            part = part_of(result)
            if part is not None:
                return self._file_head(part)
        self._iterator = iter(result)
        if _is_single(result):  # PEP 3333, "Handling the Content-Length Header"
            for item in self._iterator:
                return self._whole((item,))
        return self._next()

    def _next(self) -> Piece | None:
        if self._file is not None:
            return self._file_next(self._file)
        assert self._iterator is not None
        for item in self._iterator:
            data = item if type(item) is bytes else _bytes(item)
            if data:
                if self._bodyless:
                    break  # the head is all there is
                return self._framed(data)
        return self._end()

    def _file_head(self, part: FilePart) -> bytes:
        """The head in front of a file that the kernel sends, as much of it as was promised."""
        if self._left is None:
            self._left = part.left_bytes
            own = length_line(self._left)
        else:
            own, part.left_bytes = b"", self._left
        head = self._head(own)
        self._framing = _LENGTH
        if not self._left:
            self.outcome = COMPLETE
        self._file = part
        return head

    def _file_next(self, part: FilePart) -> FilePart | None:
        if self._left:
            self._left = 0
            self.body_bytes = part.left_bytes
            return part
        self._left, self.body_bytes = part.left_bytes, self.body_bytes - part.left_bytes
        self._end()
        return None

    def _framed(self, data: bytes) -> bytes:
        head = b"" if self._head_sent else self._head(self._choose_framing())
        if self._bodyless:
            return head
        if self._framing is Framing.CHUNKED:
            self.body_bytes += len(data)
            return b"%b%x\r\n%b\r\n" % (head, len(data), data) if data else head
        if self._framing is _LENGTH:
            data = self._within_length(data)
        self.body_bytes += len(data)
        return head + data if head else data

    def _within_length(self, data: bytes) -> bytes:
        assert self._left is not None
        if len(data) > self._left:
            self.gateway.log.error("app-body-too-long", over_bytes=len(data) - self._left, **self._what())
            data = data[: self._left]
            self.outcome = COMPLETE  # the client has what it was promised
        self._left -= len(data)
        return data

    def _head(self, own: bytes) -> bytes:
        """`own` are the header lines that tell the framing."""
        if not self.status:
            raise RuntimeError("the app gave its body before it called start_response")
        if self.gateway.draining and self.gateway.close_now():
            self.keep_alive = False
        if not self.keep_alive:
            own += b"Connection: close\r\n"
        elif self.request.is_http10:
            own += b"Connection: keep-alive\r\n"
        self._head_sent = True
        return self._written.head(own, time())

    def _choose_framing(self) -> bytes:
        """The header lines that tell it."""
        if self._bodyless:
            self._framing = Framing.NONE
        elif self._left is not None:
            self._framing = _LENGTH
        elif self.request.is_http10:
            self._framing = Framing.CLOSE
            self.keep_alive = False
        else:
            self._framing = Framing.CHUNKED
            return b"Transfer-Encoding: chunked\r\n"
        return b""

    def _end(self) -> bytes | None:
        if not self._head_sent:
            return self._without_body()
        if self._framing is _LENGTH and self._left:
            self.gateway.log.error("app-body-too-short", missing_bytes=self._left, **self._what())
            self.outcome = BROKEN
            return None
        self.outcome = COMPLETE
        return b"0\r\n\r\n" if self._framing is Framing.CHUNKED else None

    def _without_body(self) -> bytes:
        """A head is all there is."""
        if not self.status:
            raise RuntimeError("the app returned without calling start_response")
        if self._bodyless:
            head = self._head(b"")
        elif self._left:
            raise RuntimeError(f"Content-Length promises {self._left} bytes, the body is empty")
        else:
            head = self._head(length_line(0) if self._left is None else b"")
            self._framing = _LENGTH
        self.outcome = COMPLETE
        return head

    def _failed(self, error: BaseException) -> bytes | None:
        if isinstance(error, ClientGone):
            self.outcome = BROKEN
            return None
        self._log_error("app-error", error)
        if self._head_sent:
            self.outcome = BROKEN
            return None
        self.outcome = COMPLETE
        self._head_sent, self.status, self.headers = True, "500 Internal Server Error", []
        if self.gateway.draining and self.gateway.close_now():
            self.keep_alive = False
        connection = ("keep-alive" if self.request.is_http10 else "") if self.keep_alive else "close"
        return plain(500, time(), connection, body=self.request.method != "HEAD")

    def _what(self) -> dict[str, str]:
        return {"method": self.request.method, "path": self.request.path}

    def _log_error(self, event: str, error: BaseException) -> None:
        try:
            name, detail = type(error).__name__, tail(stack(error))
        except BaseException:  # its __str__ or its very traceback fails: say at least that
            name, detail = "unprintable", ""
        self.gateway.log.error(event, detail, error=name, **self._what())


def _is_single(result: Iterable[bytes]) -> bool:
    try:
        return len(result) == 1  # type: ignore[arg-type]  # most have no length
    except Exception:
        return False


def _bytes(item: object) -> bytes:
    if type(item) is bytes:
        return item
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise TypeError(f"the body must be bytes, not {type(item).__name__}")
