"""Apps that do what they must not, or what trips servers up. The path says what, the query names the request, so that
/state?NAME can tell later what became of it."""

import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, Start], Iterable[bytes]]

TEXT = [("Content-Type", "text/plain")]
TEN = [*TEXT, ("Content-Length", "10")]
FIVE = b"12345"
GATE_PATIENCE_S = 10.0

called: list[str] = []  # the names of the requests that reached the app
closed: list[str] = []  # those whose iterable was closed, once for each close()


def app(environ: Environ, start: Start) -> Iterable[bytes]:
    if environ["PATH_INFO"] != "/state":
        called.append(environ["QUERY_STRING"])
    return APPS[environ["PATH_INFO"]](environ, start)


def state(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    name = environ["QUERY_STRING"]
    return [json.dumps({"called": called.count(name), "closed": closed.count(name)}).encode()]


def hello(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [b"hello"]


class Body:
    """An iterable that counts its close(). `error`: what comes after the pieces; `at_close`: what close() raises."""

    def __init__(
        self, environ: Environ, *pieces: Any, error: BaseException | None = None, at_close: BaseException | None = None
    ) -> None:
        self._name = environ["QUERY_STRING"]
        self._pieces, self._error, self._at_close = pieces, error, at_close

    def __iter__(self) -> Iterator[Any]:
        yield from self._pieces
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        closed.append(self._name)
        if self._at_close is not None:
            raise self._at_close


class File(io.BytesIO):
    """The same for a file."""

    def __init__(self, environ: Environ, data: bytes) -> None:
        super().__init__(data)
        self._name = environ["QUERY_STRING"]

    def close(self) -> None:
        if not self.closed:  # once more when it is collected
            closed.append(self._name)
        super().close()


def answers(
    *pieces: Any, status: str = "200 OK", headers: Any = TEXT, written: tuple[bytes, ...] = (), **ends: BaseException
) -> App:
    """Says this; what it says with write() comes first. `ends`: see `Body`."""

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        write = start(status, list(headers))
        for piece in written:
            write(piece)
        return Body(environ, *pieces, **ends)

    return app


# --- bodies that are not what the head says


def short_list(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEN)
    return [FIVE]


def short_file(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEN)
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the server closes it
    file.write(FIVE)
    file.seek(0)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](file)
    return wrapped


def short_file_in_memory(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEN)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](File(environ, FIVE))
    return wrapped


def writes_and_fails(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)(FIVE)
    raise RuntimeError("after write()")


def writes_too_little(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEN)(FIVE)
    return []


class BreakingFile:
    """Its second read fails."""

    def __init__(self) -> None:
        self._left = [FIVE]

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            raise OSError("the disk is gone")
        return self._left.pop()


def breaking_file(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](BreakingFile())
    return wrapped


def whole_file(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](File(environ, FIVE))
    return wrapped


class Liar:
    """An iterable whose length is none."""

    def __init__(self, length: int | Exception, *pieces: bytes) -> None:
        self._length, self._pieces = length, pieces

    def __len__(self) -> int:
        if isinstance(self._length, Exception):
            raise self._length
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


class OtherList(list[bytes]):
    """A list that iterates over something else."""

    def __iter__(self) -> Iterator[bytes]:
        return iter((FIVE, FIVE))


def lies(body: Iterable[bytes]) -> App:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        start("200 OK", TEXT)
        return body

    return app


# --- its close()


def never_starts(environ: Environ, start: Start) -> Iterable[bytes]:
    return Body(environ, FIVE)


class NotIterable(Body):
    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no iterator")


def not_iterable(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return NotIterable(environ)


def endless(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return Endless(environ)


class Endless(Body):
    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield b"e" * 65_536


def large(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Content-Length", "20000000")])
    return Body(environ, b"l" * 20_000_000)


def writes_endlessly(environ: Environ, start: Start) -> Iterable[bytes]:
    write = start("200 OK", TEXT)
    try:
        while True:
            write(b"w" * 65_536)
    finally:
        closed.append(environ["QUERY_STRING"])


def wait_for(environ: Environ, what: str) -> None:
    """A gate, as a file in the directory that a header names."""
    end = time.monotonic() + GATE_PATIENCE_S
    while not os.path.exists(os.path.join(environ["HTTP_X_GATE"], what)):
        assert time.monotonic() < end, "nobody opened the gate"
        time.sleep(0.005)


def enter(environ: Environ) -> None:
    with open(os.path.join(environ["HTTP_X_GATE"], "entered"), "w"):
        pass


def gate(environ: Environ, start: Start) -> Iterable[bytes]:
    """Its client may go while it computes."""
    enter(environ)
    wait_for(environ, "go")
    start("200 OK", TEXT)
    return Body(environ, FIVE, FIVE)


# --- what it does to what it was given


def clears(environ: Environ, start: Start) -> Iterable[bytes]:
    environ.clear()
    start("200 OK", TEXT)
    return [FIVE]


def clears_late(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", TEXT)
    yield FIVE
    environ.clear()
    yield FIVE


def clears_and_fails(environ: Environ, start: Start) -> Iterable[bytes]:
    environ.clear()
    raise RuntimeError("with an empty environ")


def spoils(**values: Any) -> App:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        environ.update(values)
        start("200 OK", TEXT)
        return iter([FIVE, FIVE])

    return app


def strange_keys(environ: Environ, start: Start) -> Iterable[bytes]:
    environ.update({None: 1, ("a", 1): object()})  # type: ignore[dict-item]
    start("200 OK", TEXT)
    return [FIVE]


def closes_input(environ: Environ, start: Start) -> Iterable[bytes]:
    environ["wsgi.input"].close()
    start("200 OK", TEXT)
    return [FIVE]


def mutates(change: Callable[[list[tuple[str, str]]], object]) -> App:
    """Changes its list of headers when start_response has seen it."""

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        headers = [*TEXT, ("X-Own", "1")]
        start("200 OK", headers)
        change(headers)
        return iter([FIVE, FIVE])

    return app


SHARED = [*TEXT, ("X-Own", "1")]


def shares_headers(environ: Environ, start: Start) -> Iterable[bytes]:
    """One list for all requests, which no server may add to."""
    before = len(SHARED)
    start("200 OK", SHARED)
    return iter([str(before).encode()])


# --- what it kept from an earlier request

kept: dict[str, Any] = {}


def keeps(environ: Environ, start: Start) -> Iterable[bytes]:
    """Everything that a server hands to an app."""
    kept["hints"] = environ.get("wsgi.early_hints", lambda headers: None)
    kept["start"] = start
    kept["write"] = start("200 OK", TEXT)
    kept["input"] = environ["wsgi.input"]
    return iter([FIVE])


def reuses(environ: Environ, start: Start) -> Iterator[bytes]:
    """Uses it in another request, as a thread that was forgotten would. Nothing of it may go out."""
    start("200 OK", TEXT)
    yield FIVE
    uses: list[Callable[[], object]] = [
        lambda: kept["write"](b"Evil"),
        lambda: kept["start"]("200 Evil", TEXT),
        lambda: kept["hints"]([("Evil", "1")]),
        lambda: kept["input"].read(1),
    ]
    for use in uses:
        try:
            use()
        except Exception as error:  # to be told is as good as to be ignored
            print("told:", type(error).__name__, file=sys.stderr)
    yield FIVE


# --- what it must not say

SAYS_BADLY: dict[str, tuple[str, list[tuple[str, str]]]] = {
    "a line end in the status": ("200 OK\r\nEvil: 1", TEXT),
    "a line feed in the status": ("200 OK\nEvil: 1", TEXT),
    "a line end in a name": ("200 OK", [("X: 1\r\nEvil", "1")]),
    "a line end in a value": ("200 OK", [("X", "1\r\nEvil: 1")]),
    "a line feed in a value": ("200 OK", [("X", "1\nEvil: 1")]),
    "a carriage return in a value": ("200 OK", [("X", "1\rEvil: 1")]),
    "a whole response in a value": ("200 OK", [("X", "1\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 Evil\r\n\r\n")]),
    "a zero in a value": ("200 OK", [("X", "1\0Evil")]),
    "hop by hop": ("200 OK", [("Connection", "Evil")]),
    "its own framing": ("200 OK", [("Transfer-Encoding", "chunked"), ("Evil", "1")]),
    "two lengths": ("200 OK", [("Content-Length", "5"), ("Content-Length", "6"), ("Evil", "1")]),
    "an interim status": ("103 Evil", TEXT),
    "status as bytes": (b"200 Evil", TEXT),  # type: ignore[dict-item]
    "headers as a tuple": ("200 OK", (("Evil", "1"),)),  # type: ignore[dict-item]
}


def says_at_once(status: str, headers: list[tuple[str, str]]) -> App:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        start(status, headers)
        return [FIVE]

    return app


def says_late(status: str, headers: list[tuple[str, str]]) -> App:
    def app(environ: Environ, start: Start) -> Iterator[bytes]:
        yield b""
        start(status, headers)
        yield FIVE

    return app


def says_instead(status: str, headers: list[tuple[str, str]]) -> App:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        start("200 OK", TEXT)
        try:
            raise KeyError("a reason to think again")
        except KeyError:
            start(status, headers, sys.exc_info())
        return [FIVE]

    return app


SAYING: dict[str, Callable[[str, list[tuple[str, str]]], App]] = {
    "at once": says_at_once, "late": says_late, "instead": says_instead
}  # fmt: skip


# --- request bodies


def reads_some(environ: Environ, start: Start) -> Iterable[bytes]:
    environ["wsgi.input"].read(3)
    start("200 OK", TEXT)
    return [FIVE]


def raises(environ: Environ, start: Start) -> Iterable[bytes]:
    raise RuntimeError("on purpose")


def echo(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [environ["wsgi.input"].read()]


def dump(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [json.dumps({key: value for key, value in environ.items() if isinstance(value, str)}).encode()]


# --- wsgi.early_hints, and what must not wait

LINK = ("Link", "</style.css>; rel=preload; as=style")


def hints(*calls: Any, wait: bool = False) -> App:
    """A 103 for each of `calls`."""

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        tell = environ.get("wsgi.early_hints", lambda headers: None)
        for headers in calls:
            tell(headers)
        if wait:
            wait_for(environ, "go")
        start("200 OK", TEXT)
        return [FIVE]

    return app


def hints_late(environ: Environ, start: Start) -> Iterator[bytes]:
    tell = environ.get("wsgi.early_hints", lambda headers: None)
    start("200 OK", TEXT)
    yield FIVE
    try:
        tell([LINK])
    except Exception as error:
        print("told:", type(error).__name__, file=sys.stderr)
    yield FIVE


def hints_from_the_iterator(environ: Environ, start: Start) -> Iterator[bytes]:
    environ.get("wsgi.early_hints", lambda headers: None)([LINK])
    start("200 OK", TEXT)
    yield FIVE


def writes_and_waits(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)(FIVE)
    wait_for(environ, "go")
    return [FIVE]


APPS: dict[str, App] = {
    "/state": state, "/": hello, "/hello": hello, "/echo": echo, "/dump": dump, "/raises": raises,
    "/short/list": short_list,
    "/short/iterator": answers(FIVE, headers=TEN),
    "/short/write": writes_too_little,
    "/short/write-and-iterator": answers(b"45", headers=TEN, written=(b"123",)),
    "/short/file": short_file,
    "/short/file-in-memory": short_file_in_memory,
    "/short/raises": answers(FIVE, headers=TEN, error=RuntimeError("in the middle")),
    "/short/exits": answers(FIVE, headers=TEN, error=SystemExit(3)),
    "/short/text": answers(FIVE, "text", headers=TEN),
    "/chunked/raises": answers(FIVE, error=RuntimeError("in the middle")),
    "/chunked/exits": answers(FIVE, error=SystemExit(3)),
    "/chunked/interrupts": answers(FIVE, error=KeyboardInterrupt()),
    "/chunked/text": answers(FIVE, "text"),
    "/chunked/none": answers(FIVE, None),
    "/chunked/write-and-raises": writes_and_fails,
    "/chunked/file-breaks": breaking_file,
    "/body": answers(FIVE, FIVE),
    "/body/whole-then-raises": answers(FIVE, FIVE, headers=TEN, error=RuntimeError("after the last byte")),
    "/body/long": answers(FIVE, FIVE, FIVE, FIVE, headers=TEN),
    "/body/long-write": answers(headers=TEN, written=(FIVE, FIVE, FIVE)),
    "/body/long-write-and-iterator": answers(FIVE, FIVE, headers=TEN, written=(FIVE,)),
    "/body/204": answers(status="204 No Content", headers=[]),
    "/body/204-with-one": answers(FIVE, status="204 No Content", headers=[]),
    "/body/304-with-one": answers(FIVE, status="304 Not Modified", headers=[]),
    "/body/304-written": answers(status="304 Not Modified", headers=[], written=(FIVE,)),
    "/body/exits-first": answers(error=SystemExit(3)),
    "/body/raises-first": answers(error=RuntimeError("before the first byte")),
    "/close/raises": answers(FIVE, FIVE, headers=TEN, at_close=RuntimeError("in close()")),
    "/close/exits": answers(FIVE, FIVE, headers=TEN, at_close=SystemExit(3)),
    "/close/interrupts": answers(FIVE, FIVE, headers=TEN, at_close=KeyboardInterrupt()),
    "/close/no-start": never_starts,
    "/close/not-iterable": not_iterable,
    "/close/file": whole_file,
    "/close/short-file": short_file_in_memory,
    "/close/after-write": answers(FIVE, written=(FIVE,)),
    "/gone/endless": endless, "/gone/large": large, "/gone/writes": writes_endlessly, "/gone/gate": gate,
    "/len/one-gives-two": lies(Liar(1, FIVE, FIVE)),
    "/len/two-gives-one": lies(Liar(2, FIVE)),
    "/len/one-gives-none": lies(Liar(1)),
    "/len/none-gives-one": lies(Liar(0, FIVE)),
    "/len/raises": lies(Liar(RuntimeError("no length"), FIVE, FIVE)),
    "/len/other-list": lies(OtherList([b"x"])),
    "/environ/clear": clears,
    "/environ/clear-late": clears_late,
    "/environ/clear-and-raise": clears_and_fails,
    "/environ/HEAD": spoils(REQUEST_METHOD="HEAD"),
    "/environ/GET": spoils(REQUEST_METHOD="GET"),
    "/environ/1.0": spoils(SERVER_PROTOCOL="HTTP/1.0", HTTP_CONNECTION="close"),
    "/environ/None": spoils(REQUEST_METHOD=None, PATH_INFO=None, SERVER_PROTOCOL=None, QUERY_STRING=b"",
                            **{"wsgi.input": None, "wsgi.errors": None, "wsgi.file_wrapper": None}),
    "/environ/keys": strange_keys,
    "/environ/input": closes_input,
    "/headers/append": mutates(lambda headers: headers.append(("Evil", "1"))),
    "/headers/inject": mutates(lambda headers: headers.append(("X", "1\r\nEvil: 1"))),
    "/headers/length": mutates(lambda headers: headers.append(("Content-Length", "3"))),
    "/headers/hop-by-hop": mutates(lambda headers: headers.append(("Connection", "Evil"))),
    "/headers/type": mutates(lambda headers: headers.append(("X", 1))),  # type: ignore[arg-type]
    "/headers/clear": mutates(lambda headers: headers.clear()),
    "/headers/shared": shares_headers,
    "/keeps": keeps, "/reuses": reuses, "/reads-some": reads_some, "/unread/304": answers(status="304 X", headers=[]),
    "/hints": hints([LINK]),
    "/hints/twice": hints([LINK], [("Link", "</b.js>; rel=preload"), ("X-Other", "1")]),
    "/hints/waits": hints([LINK], wait=True),
    "/hints/iterator": hints_from_the_iterator,
    "/hints/late": hints_late,
    "/hints/inject": hints([("Link", "1\r\nEvil: 1")]),
    "/hints/inject-name": hints([("Link: 1\r\nEvil", "1")]),
    "/hints/no-strings": hints([("Link", b"Evil")]),
    "/hints/hop-by-hop": hints([("Connection", "Evil")]),
    "/hints/length": hints([("Content-Length", "5")]),
    "/write/waits": writes_and_waits,
}  # fmt: skip
APPS.update({
    f"/says/{how}/{what}": say(*SAYS_BADLY[what]) for how, say in SAYING.items() for what in SAYS_BADLY
})  # fmt: skip
