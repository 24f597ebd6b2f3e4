"""One call of the app: the rules of PEP 3333, and the response as pieces. Shell (calls the app); used in a worker.

An `Exchange` does no I/O of its own. Whoever runs it (`runs.py`) pulls pieces from it, on the loop thread or on a pool
thread, as fast as the client takes them; the first piece begins with the head. Whatever the app raises, also
`SystemExit`, ends this exchange and nothing else.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from types import TracebackType
from typing import Any, TypeAlias

from graceserve.logs import Log
from graceserve.template.load import WSGIApplication, stack
from graceserve.wire.messages import tail
from graceserve.worker.http.response import (
    Framing,
    Header,
    check_headers,
    check_status,
    content_length,
    has_no_body,
    http_date,
    plain,
    render,
)

ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None]


class ClientGone(ConnectionError):
    """Raised into an app that calls `write()` when nobody reads any more."""


class Outcome(Enum):
    """How an exchange ended."""

    OPEN = "not yet"
    COMPLETE = "complete"  # the client knows that it has everything
    BROKEN = "broken"  # it has a part: only the end of the connection can tell it so


class Exchange:
    """A request and its response. Only one thread at a time uses it."""

    __slots__ = (
        "_app", "_close_now", "_closed", "_emit", "_environ", "_framing", "_head_sent", "_headers", "_http10",
        "_is_head", "_iterator", "_left", "_log", "_result", "_status", "_whole_bytes", "keep_alive", "outcome",
    )  # fmt: skip

    def __init__(
        self,
        app: WSGIApplication,
        environ: dict[str, Any],
        log: Log,
        *,
        keep_alive: bool,
        close_now: Callable[[], bool],
    ) -> None:
        """`keep_alive`: the client allows it. `close_now`: asked when the head is made."""
        self._app = app
        self._environ = environ
        self._log = log
        self.keep_alive = keep_alive
        self._close_now = close_now
        self._emit: Callable[[bytes], None] = _refuse_write
        self._http10 = environ["SERVER_PROTOCOL"] == "HTTP/1.0"
        self._is_head = environ["REQUEST_METHOD"] == "HEAD"
        self._status = ""  # empty until start_response
        self._headers: list[Header] = []
        self._head_sent = False
        self._framing = Framing.NONE
        self._left: int | None = None  # bytes that Content-Length still promises
        self._whole_bytes: int | None = None  # of a body that is known as a whole
        self._result: Iterable[bytes] | None = None
        self._iterator: Iterator[bytes] | None = None
        self._closed = False
        self.outcome = Outcome.OPEN

    @property
    def ends_by_close(self) -> bool:
        """Whether an end of the connection looks like the end of the body."""
        return self._framing is Framing.CLOSE

    @property
    def status(self) -> int:
        """What the client is told, 0 before that is known."""
        return int(self._status[:3]) if self._status else 0

    @property
    def status_line(self) -> str:
        """`status` with its reason, as "404 Not Found"."""
        return self._status

    def set_emit(self, emit: Callable[[bytes], None]) -> None:
        """Where the pieces of an app that calls `write()` go. Raises `ClientGone` when nobody reads."""
        self._emit = emit

    def pull(self) -> bytes | None:
        """The next piece, None at the end. Calls the app at first. Never raises."""
        try:
            return self._next()
        except BaseException as error:  # SystemExit, too: an app must not end its server
            return self._failed(error)

    def close(self) -> None:
        """Call the iterable's close(), once. Never raises."""
        if self._closed:
            return
        self._closed = True
        self._iterator = None
        try:
            close = getattr(self._result, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._log_error("app-close-error", error)
        self._result = None

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
        elif self._status:
            raise RuntimeError("start_response was called twice, without exc_info")
        status = check_status(status)
        check_headers(headers)
        self._left = content_length(headers)
        self._status, self._headers = status, headers
        return self._write

    def _write(self, data: bytes) -> None:
        self._emit(self._framed(_bytes(data)))

    # --- pieces

    def _next(self) -> bytes | None:
        if self.outcome is not Outcome.OPEN:
            return None
        if self._iterator is None:
            self._call()
        assert self._iterator is not None
        for item in self._iterator:
            data = _bytes(item)
            if data and not self._has_no_body():
                return self._framed(data)
            if self._status and self._has_no_body():
                break  # the head is all there is
        return self._end()

    def _call(self) -> None:
        result = self._app(self._environ, self.start_response)
        self._result = result
        if type(result) in (list, tuple) and not self._head_sent:
            whole = b"".join(result)
            self._whole_bytes = len(whole)
            self._iterator = iter((whole,))
        else:
            self._iterator = iter(result)

    def _framed(self, data: bytes) -> bytes:
        head = b"" if self._head_sent else self._head()
        if self._has_no_body():
            return head
        if self._framing is Framing.CHUNKED:
            return b"%b%x\r\n%b\r\n" % (head, len(data), data) if data else head
        if self._framing is Framing.LENGTH:
            data = self._within_length(data)
        return head + data if head else data

    def _within_length(self, data: bytes) -> bytes:
        assert self._left is not None
        if len(data) > self._left:
            self._log.error("app-body-too-long", over_bytes=len(data) - self._left, **self._what())
            data = data[: self._left]
            self.outcome = Outcome.COMPLETE  # the client has what it was promised
        self._left -= len(data)
        return data

    def _head(self) -> bytes:
        if not self._status:
            raise RuntimeError("the app gave its body before it called start_response")
        own = self._choose_framing()
        self.keep_alive = self.keep_alive and self._framing is not Framing.CLOSE and not self._close_now()
        connection = self._connection()
        if connection:
            own.append(f"Connection: {connection}")
        self._head_sent = True
        return render(self._status, self._headers, own, _date())

    def _choose_framing(self) -> list[str]:
        """The header lines that tell it."""
        if self._has_no_body():
            self._framing = Framing.NONE
        elif self._left is not None:
            self._framing = Framing.LENGTH
        elif self._whole_bytes is not None:
            self._framing, self._left = Framing.LENGTH, self._whole_bytes
            return [f"Content-Length: {self._left}"]
        elif self._http10:
            self._framing = Framing.CLOSE
        else:
            self._framing = Framing.CHUNKED
            return ["Transfer-Encoding: chunked"]
        return []

    def _connection(self) -> str:
        if not self.keep_alive:
            return "close"
        return "keep-alive" if self._http10 else ""

    def _end(self) -> bytes | None:
        if not self._head_sent:
            if not self._status:
                raise RuntimeError("the app returned without calling start_response")
            if self._left and not self._has_no_body():
                raise RuntimeError(f"Content-Length promises {self._left} bytes, the body is empty")
            self._whole_bytes = 0
            head = self._head()
            self.outcome = Outcome.COMPLETE
            return head
        if self._framing is Framing.LENGTH and self._left:
            self._log.error("app-body-too-short", missing_bytes=self._left, **self._what())
            self.outcome = Outcome.BROKEN
            return None
        self.outcome = Outcome.COMPLETE
        return b"0\r\n\r\n" if self._framing is Framing.CHUNKED else None

    def _failed(self, error: BaseException) -> bytes | None:
        if isinstance(error, ClientGone):
            self.outcome = Outcome.BROKEN
            return None
        self._log_error("app-error", error)
        if self._head_sent:
            self.outcome = Outcome.BROKEN
            return None
        self.outcome = Outcome.COMPLETE
        self.keep_alive = self.keep_alive and not self._close_now()
        self._head_sent, self._status = True, "500 Internal Server Error"
        return plain(500, _date(), self._connection(), body=not self._is_head)

    def _has_no_body(self) -> bool:
        return self._is_head or (bool(self._status) and has_no_body(self._status))

    def _what(self) -> dict[str, str]:
        return {"method": self._environ.get("REQUEST_METHOD", ""), "path": self._environ.get("PATH_INFO", "")}

    def _log_error(self, event: str, error: BaseException) -> None:
        try:
            name, detail = type(error).__name__, tail(stack(error))
        except BaseException:  # its __str__ or its very traceback fails: say at least that
            name, detail = "unprintable", ""
        self._log.error(event, detail, error=name, **self._what())


def _bytes(item: object) -> bytes:
    if type(item) is bytes:
        return item
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    raise TypeError(f"the body must be bytes, not {type(item).__name__}")


def _refuse_write(data: bytes) -> None:
    raise RuntimeError("write() outside of the app's call")


def _date() -> str:
    return http_date(int(time.time()))  # the one place where a worker needs the wall clock
