"""The rules of WSGI: what an app may do, and the bytes that come of it."""

import gc
import os
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from typing import Any
from wsgiref.validate import validator

import pytest

from graceserve.logs import Log
from graceserve.worker.environ import Environs, Peer, Route, Site, constants
from graceserve.worker.filewrapper import FilePart, FileWrapper
from graceserve.worker.forwarded import Trust
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.response import begin, http_date
from graceserve.worker.wsgi import ClientGone, Exchange, Gateway, Outcome

TEXT = [("Content-Type", "text/plain")]
Start = Callable[..., Callable[[bytes], None]]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


class Pieces:
    """See `wsgi.Writer`."""

    def __init__(self, emit: Callable[[bytes], None]) -> None:
        self.emit = emit


class Run:
    """An exchange, pulled to its end."""

    def __init__(
        self, app: App, *, method: str = "GET", http10: bool = False, keep_alive: bool = True, closing: bool = False
    ) -> None:
        reader, writer = os.pipe()
        request = Admitted(
            {
                "REQUEST_METHOD": method, "RAW_URI": "/p", "REQUEST_URI": "/p", "PATH_INFO": "/p", "QUERY_STRING": "",
                "SERVER_PROTOCOL": "HTTP/1.0" if http10 else "HTTP/1.1", "HTTP_HOST": "h",
            }
        )  # fmt: skip
        request.keep_alive = keep_alive
        environs = Environs(constants(1, 1, None, sys.stderr, FileWrapper), Trust.of(""), frozenset())
        route = Route(Site("s", "h", "1"), Peer("p"))
        environs.welcome(route)
        self.pieces: list[bytes] = []
        gateway = Gateway(app, Log(writer), lambda: closing, draining=closing)
        self.exchange = Exchange(gateway, request, environs.make(request, BytesIO(), 0, route))
        self.exchange.sends_files = False
        self.exchange.writer = Pieces(self.pieces.append)
        while (piece := self.exchange.pull()) is not None:
            assert not isinstance(piece, FilePart), "was not asked for"
            self.pieces.append(piece)
        self.exchange.close()
        self.exchange.close()  # once is enough, twice does no harm
        self.outcome = self.exchange.outcome
        os.close(writer)
        with open(reader) as file:
            self.log = file.read()
        head, _, self.body = b"".join(self.pieces).partition(b"\r\n\r\n")
        self.status, *lines = head.decode("latin-1").split("\r\n")
        self.headers = dict(line.split(": ", 1) for line in lines)


def says(*pieces: bytes, status: str = "200 OK", headers: Any = None, lazily: bool = False) -> App:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start(status, TEXT if headers is None else headers)
        return iter(pieces) if lazily else list(pieces)

    return app


# --- framing


def test_a_list_has_a_length() -> None:
    run = Run(says(b"ab", b"", b"c"))
    assert (run.status, run.headers["Content-Length"], run.body) == ("HTTP/1.1 200 OK", "3", b"abc")
    assert len(run.pieces) == 1, "head and body in one write"
    assert run.outcome is Outcome.COMPLETE and run.exchange.keep_alive


def test_an_iterator_is_chunked() -> None:
    run = Run(says(b"ab", b"", b"c" * 17, lazily=True))
    assert run.headers["Transfer-Encoding"] == "chunked"
    assert run.body == b"2\r\nab\r\n11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n"
    assert "Content-Length" not in run.headers


def test_an_iterator_for_http_1_0_ends_with_the_connection() -> None:
    run = Run(says(b"ab", lazily=True), http10=True)
    assert (run.body, run.headers["Connection"], run.exchange.keep_alive) == (b"ab", "close", False)
    assert run.exchange.ends_by_close


def test_http_1_0_keeps_alive_when_it_asked() -> None:
    run = Run(says(b"ab"), http10=True)
    assert (run.headers["Connection"], run.exchange.keep_alive) == ("keep-alive", True)


@pytest.mark.parametrize("lazily", [False, True])
def test_nothing_at_all_has_a_length_of_zero(lazily: bool) -> None:
    run = Run(says(lazily=lazily))
    assert (run.headers["Content-Length"], run.body) == ("0", b"")


def test_the_app_s_own_length_is_kept() -> None:
    run = Run(says(b"ab", b"c", headers=[("content-length", "3")], lazily=True))
    assert run.headers["content-length"] == "3" and run.body == b"abc"
    assert "Transfer-Encoding" not in run.headers


def test_more_than_promised_is_cut_off() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"abcd"

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", "6")])
        return endless()

    run = Run(app)
    assert run.body == b"abcdab" and run.outcome is Outcome.COMPLETE
    assert "app-body-too-long" in run.log


def test_less_than_promised_breaks_the_connection() -> None:
    run = Run(says(b"ab", headers=[("Content-Length", "3")]))
    assert run.outcome is Outcome.BROKEN and "app-body-too-short" in run.log


def test_a_promise_without_any_body_is_an_error_of_the_app() -> None:
    run = Run(says(headers=[("Content-Length", "3")]))
    assert run.status == "HTTP/1.1 500 Internal Server Error" and run.outcome is Outcome.COMPLETE


@pytest.mark.parametrize("lazily", [False, True])
def test_head_has_no_body(lazily: bool) -> None:
    run = Run(says(b"abc", headers=[("Content-Length", "3")], lazily=lazily), method="HEAD")
    assert (run.headers["Content-Length"], run.body, run.outcome) == ("3", b"", Outcome.COMPLETE)
    bare = Run(says(b"abc", lazily=lazily), method="HEAD")
    assert bare.body == b"" and "Transfer-Encoding" not in bare.headers


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_some_statuses_have_no_body(status: str) -> None:
    run = Run(says(b"abc", status=status, lazily=True))
    assert run.body == b"" and run.outcome is Outcome.COMPLETE
    assert not {"Transfer-Encoding", "Content-Length"} & set(run.headers)


def test_204_has_no_length_either() -> None:
    assert "Content-Length" not in Run(says(status="204 No Content", headers=[("Content-Length", "0")])).headers
    assert Run(says(status="304 Not Modified", headers=[("Content-Length", "9")])).headers["Content-Length"] == "9"


def test_a_draining_worker_announces_the_close() -> None:
    run = Run(says(b"a"), closing=True)
    assert run.headers["Connection"] == "close" and not run.exchange.keep_alive


@pytest.mark.parametrize("lazily", [False, True])
def test_the_close_that_a_client_asked_for_is_said(lazily: bool) -> None:
    assert Run(says(b"a", lazily=lazily), keep_alive=False).headers["Connection"] == "close"
    assert "Connection" not in Run(says(b"a", lazily=lazily)).headers


def test_the_date_is_of_the_second() -> None:
    written = begin("200 OK", TEXT)
    for unix_s, second in ((9.999, 9), (10.0, 10), (10.999, 10), (11.0, 11), (3.5, 3)):  # the clock may be put back
        assert f"Date: {http_date(second)}\r\n".encode() in written.head(b"", unix_s)
        assert written.head(b"X: y\r\n", unix_s).endswith(b" GMT\r\nX: y\r\n\r\n")


def test_date_and_server_are_the_app_s_to_set() -> None:
    run = Run(says(b"", headers=[("Date", "today"), ("server", "mine")]))
    assert (run.headers["Date"], run.headers["server"]) == ("today", "mine")
    assert "Server" not in run.headers
    plain = Run(says(b""))
    assert plain.headers["Server"] == "graceserve" and plain.headers["Date"].endswith(" GMT")


# --- start_response


BAD_HEADERS: list[Any] = [
    [("X", "a\r\nSet-Cookie: b")],
    [("X", "a\nb")],
    [("X", "a\rb")],
    [("X", "a\0")],
    [("X\r\nY", "a")],
    [("X:", "a")],
    [("X Y", "a")],
    [("", "a")],
    [("X", "\u0100")],
    [("X", b"a")],
    [(b"X", "a")],
    [("X", 1)],
    [("X", None)],
    [("X",)],
    [["X", "a"]],
    (("X", "a"),),
    {"X": "a"},
    None,
    [("Connection", "close")],
    [("connection", "x")],
    [("Keep-Alive", "5")],
    [("Transfer-Encoding", "chunked")],
    [("Upgrade", "h2c")],
    [("Content-Length", "x")],
    [("Content-Length", "-1")],
    [("Content-Length", "\u0661")],
    [("Content-Length", "1"), ("content-length", "1")],
]


@pytest.mark.parametrize("headers", BAD_HEADERS)
def test_headers_that_nobody_may_send(headers: Any) -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", headers)
        return [b"never"]

    run = Run(app)
    assert run.status == "HTTP/1.1 500 Internal Server Error"
    assert run.body == b"500 Internal Server Error\n" and b"Set-Cookie" not in b"".join(run.pieces)


BAD_STATUSES: list[Any] = ["", "OK", "20 OK", "2000 OK", "200\r\nX: y", "200 O\nK", "100 Continue", "199 x", 200,
                           b"200 OK", "200OK", "200 \u0100"]  # fmt: skip


@pytest.mark.parametrize("status", BAD_STATUSES)
def test_a_status_that_nobody_may_send(status: Any) -> None:
    assert Run(says(b"never", status=status)).status == "HTTP/1.1 500 Internal Server Error"


def test_a_status_without_a_reason_is_let_through() -> None:
    assert Run(says(status="299")).status == "HTTP/1.1 299 "


def test_twice_without_exc_info_is_an_error() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", TEXT)
        start("201 Created", TEXT)
        return [b""]

    assert "500" in Run(app).status


def test_exc_info_replaces_what_was_not_sent() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", "100")])
        try:
            raise KeyError("x")
        except KeyError:
            start("503 Sorry", TEXT, sys.exc_info())
        return [b"sorry"]

    run = Run(app)
    assert (run.status, run.body, run.headers["Content-Length"]) == ("HTTP/1.1 503 Sorry", b"sorry", "5")


def test_exc_info_is_raised_again_when_the_head_is_sent() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterator[bytes]:
        start("200 OK", TEXT)
        yield b"a"
        try:
            raise KeyError("the cause")
        except KeyError:
            start("500 Sorry", TEXT, sys.exc_info())

    run = Run(app)
    assert run.outcome is Outcome.BROKEN and "the cause" in run.log
    assert not run.body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize(
    "app",
    [lambda e, s: [b"x"], lambda e, s: [], lambda e, s: None, lambda e, s: 5, lambda e, s: s("200 OK", [])],
)
def test_an_app_that_forgets_half(app: App) -> None:
    assert Run(app).status == "HTTP/1.1 500 Internal Server Error"


def test_start_response_may_come_with_the_first_piece() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterator[bytes]:
        yield b""
        start("200 OK", TEXT)
        yield b"a"

    assert Run(app).body == b"1\r\na\r\n0\r\n\r\n"


# --- pieces


@pytest.mark.parametrize("bad", ["text", 1, None])
@pytest.mark.parametrize("lazily", [False, True])
def test_the_body_is_bytes(bad: Any, lazily: bool) -> None:
    run = Run(says(bad, lazily=lazily))
    assert "500" in run.status and "TypeError" in run.log


def test_bytes_like_pieces_are_taken() -> None:
    assert Run(says(bytearray(b"a"), memoryview(b"b"), lazily=True)).body == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"  # type: ignore[arg-type]


def test_write_comes_first() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        write = start("200 OK", TEXT)
        write(b"a")
        write(b"")
        return [b"b"]

    run = Run(app)
    assert run.body == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"


def test_an_app_that_writes_to_nobody_is_stopped_without_a_traceback() -> None:
    def gone(piece: bytes) -> None:
        raise ClientGone("x")

    reader, writer = os.pipe()
    run = Run(says(b"unused"))
    app: Any = lambda environ, start: start("200 OK", TEXT)(b"a")  # noqa: E731
    exchange = Exchange(Gateway(app, Log(writer), bool), run.exchange.request, run.exchange.environ)
    exchange.writer = Pieces(gone)
    assert exchange.pull() is None and exchange.outcome is Outcome.BROKEN
    os.close(writer)
    with open(reader) as file:
        assert file.read() == ""


# --- close, errors


class Closing:
    def __init__(self, pieces: Iterable[Any], *, broken: bool = False) -> None:
        self.pieces, self.broken, self.closed = iter(pieces), broken, 0

    def __iter__(self) -> Iterator[Any]:
        return self.pieces

    def close(self) -> None:
        self.closed += 1
        if self.broken:
            raise RuntimeError("broken close")


def fails() -> Iterator[bytes]:
    yield b"a"
    raise RuntimeError("in the middle")


@pytest.mark.parametrize("pieces", [[b"a"], [], ["text"], fails()])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_is_called_once_whatever_happens(pieces: Any, method: str) -> None:
    body = Closing(pieces)

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", TEXT)
        return body

    Run(app, method=method)
    assert body.closed == 1


def test_a_broken_close_is_logged_and_nothing_else() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", TEXT)
        return Closing([b"a"], broken=True)

    run = Run(app)
    assert run.outcome is Outcome.COMPLETE and "broken close" in run.log


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


ERRORS = [RuntimeError("x"), SystemExit(0), KeyboardInterrupt(), GeneratorExit(), MemoryError(), StopIteration(),
          RecursionError(), Unprintable()]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS)
def test_no_error_gets_out(error: BaseException) -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        raise error

    run = Run(app)
    assert run.status == "HTTP/1.1 500 Internal Server Error" and run.exchange.keep_alive
    assert "app-error" in run.log and "method=GET" in run.log and "path=/p" in run.log


def test_an_error_before_the_first_byte_takes_the_app_s_head_back() -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterator[bytes]:
        start("200 OK", [("X-Secret", "1")])
        raise RuntimeError("late")
        yield b""

    run = Run(app)
    assert "500" in run.status and "X-Secret" not in run.headers


def test_an_error_for_head_has_no_body() -> None:
    run = Run(lambda e, s: 1 / 0, method="HEAD")  # type: ignore[arg-type, return-value]
    assert "500" in run.status and run.body == b""


def test_an_error_in_the_middle_is_not_passed_off_as_complete() -> None:
    run = Run(lambda e, s: (s("200 OK", TEXT), fails())[1])
    assert run.outcome is Outcome.BROKEN and run.body == b"1\r\na\r\n"


# --- whole apps


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("http10", [False, True])
def test_wsgiref_finds_nothing_wrong(method: str, http10: bool) -> None:
    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        assert environ["wsgi.input"].read(5) == b""
        assert list(environ["wsgi.input"]) == []
        environ["wsgi.errors"].write("")
        start("200 OK", TEXT)
        return [b"hello"]

    run = Run(validator(app), method=method, http10=http10)
    assert "200" in run.status, run.log
    assert not run.log


def test_a_file_is_read_in_blocks_and_closed(tmp_path: Any) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    file = path.open("rb")

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start("200 OK", [("Content-Length", "100")])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file, 30)
        return wrapped

    run = Run(app)
    assert run.body == b"x" * 100 and file.closed and len(run.pieces) == 4


def test_an_exchange_leaves_no_cycle_behind() -> None:
    class Big:
        pass

    refs = []

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        big = Big()
        refs.append(weakref.ref(big))
        start("200 OK", TEXT)
        return Closing([b"x"]) if big else []

    gc.collect()
    gc.disable()
    try:
        Run(app)
        assert refs[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("unix_s", "text"),
    [
        (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
        (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),  # RFC 9110 5.6.7
        (951_827_696, "Tue, 29 Feb 2000 12:34:56 GMT"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
    ],
)
def test_dates(unix_s: int, text: str) -> None:
    assert http_date(unix_s) == text
