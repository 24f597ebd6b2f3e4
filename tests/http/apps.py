"""The app that the tests serve; its path says what it does."""

import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qs, parse_qsl

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], None]]
TEXT = [("Content-Type", "text/plain")]
SEEN: ContextVar[int] = ContextVar("SEEN", default=0)


def app(environ: Environ, start: Start) -> Iterable[bytes]:
    return PAGES[environ["PATH_INFO"]](environ, start)


def hello(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [b"hello"]


def gone(environ: Environ, start: Start) -> Iterable[bytes]:
    start("404 Not Found", TEXT)
    return [b"gone"]


def moved(environ: Environ, start: Start) -> Iterable[bytes]:
    start("302 Found", [*TEXT, ("Location", "/")])
    return [b"moved"]


def version(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [f"{environ['graceserve.generation']} {os.getpid()}".encode()]


def echo(environ: Environ, start: Start) -> Iterable[bytes]:
    body = environ["wsgi.input"].read()
    start("200 OK", [*TEXT, ("X-Length", environ.get("CONTENT_LENGTH", "none"))])
    return [body]


def add_up(environ: Environ, start: Start) -> Iterable[bytes]:
    total = 0
    while block := environ["wsgi.input"].read(1 << 16):
        total += sum(block)
    start("200 OK", [])
    return [b"%d" % total]


def shop_only(environ: Environ, start: Start) -> Iterable[bytes]:
    """As Django with its ALLOWED_HOSTS."""
    start("200 OK" if environ["HTTP_HOST"] == "shop.example" else "400 Bad Request", [])
    return [environ["PATH_INFO"].encode()]


def dump(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return [repr({k: v for k, v in environ.items() if isinstance(v, str | int | bool | tuple)}).encode()]


def sleep(environ: Environ, start: Start) -> Iterable[bytes]:
    time.sleep(float(environ["QUERY_STRING"]))
    start("200 OK", TEXT)
    return [b"slept"]


def gate(environ: Environ, start: Start) -> Iterable[bytes]:
    """Says that it was entered, and waits until it may go: files in ?directory."""
    directory = environ["QUERY_STRING"]
    with open(f"{directory}/entered", "w"):
        pass
    while not os.path.exists(f"{directory}/go"):
        time.sleep(0.005)
    start("200 OK", TEXT)
    return [b"went"]


def stream(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", TEXT)
    for number in range(int(environ["QUERY_STRING"] or 3)):
        yield f"piece {number}\n".encode()


def lengthy(environ: Environ, start: Start) -> Iterator[bytes]:
    """A length that may be a lie: ?promised&given."""
    promised, given = environ["QUERY_STRING"].split("&")
    start("200 OK", [*TEXT, ("Content-Length", promised)])
    yield b"x" * int(given)
    print("behind the last piece", file=sys.stderr)


class Marked:
    """An iterable that leaves a file behind when it is closed: ?path."""

    def __init__(self, path: str, pieces: Iterable[bytes]) -> None:
        self.path = path
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.pieces)

    def close(self) -> None:
        with open(self.path, "a") as file:
            file.write("closed\n")


def _endless() -> Iterator[bytes]:
    while True:
        yield b"e" * 65_536


def marked(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return Marked(environ["QUERY_STRING"], [b"one", b"two"])


def endless(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    return Marked(environ["QUERY_STRING"], _endless())


def broken_stream(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", TEXT)
    yield b"before"
    raise RuntimeError("broke in the middle")


def raises(environ: Environ, start: Start) -> Iterable[bytes]:
    kind = {"exit": SystemExit(3), "int": KeyboardInterrupt(), "memory": MemoryError(), "stop": GeneratorExit()}
    raise kind.get(environ["QUERY_STRING"], RuntimeError("no such luck"))


def big(environ: Environ, start: Start) -> Iterable[bytes]:
    size = int(environ["QUERY_STRING"])
    start("200 OK", TEXT)
    return [b"b" * size]


def file(environ: Environ, start: Start) -> Iterable[bytes]:
    """A file of ?size zeros that the kernel can send, from its second byte on; ?size&promised lies about it."""
    size, _, promised = environ["QUERY_STRING"].partition("&")
    opened = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    opened.truncate(int(size) + 1)
    opened.seek(1)
    start("200 OK", [*TEXT, *([("Content-Length", promised)] if promised else [])])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
    return wrapped


def hints(environ: Environ, start: Start) -> Iterable[bytes]:
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    start("200 OK", TEXT)
    return [b"hinted"]


def writes(environ: Environ, start: Start) -> Iterable[bytes]:
    write = start("200 OK", TEXT)
    write(b"written, ")
    return [b"returned"]


def context(environ: Environ, start: Start) -> Iterable[bytes]:
    SEEN.set(SEEN.get() + 1)
    start("200 OK", TEXT)
    return [str(SEEN.get()).encode()]


def asynchronous(environ: Environ, start: Start) -> Iterable[bytes]:
    """What a synchronous app may do in its thread: run a loop of its own."""
    import asyncio

    async def answer() -> bytes:
        await asyncio.sleep(0)
        return b"from a loop"

    body = asyncio.run(answer())
    start("200 OK", TEXT)
    return [body]


def until_drained(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", TEXT)
    yield b"waiting\n"
    drained = environ["graceserve.draining"].wait(20)
    yield f"drained={drained}".encode()


def where(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)
    main = threading.current_thread() is threading.main_thread()
    return [f"main={main} multithread={environ['wsgi.multithread']}".encode()]


def injects(environ: Environ, start: Start) -> Iterable[bytes]:
    query = parse_qs(environ["QUERY_STRING"])
    start("200 OK", [(query["name"][0], query["value"][0])])
    return [b"never"]


# --- what scripted clients ask for (see `sessions`)


def scripted(environ: Environ, start: Start) -> Iterable[bytes]:
    """Notes that it runs, takes its time, and answers with a digest of what it got, in pieces."""
    asked = dict(parse_qsl(environ["QUERY_STRING"]))
    with open(asked["record"], "ab", buffering=0) as record:
        record.write(f"{asked['token']} {os.getpid()}\n".encode())
    body = READS[asked["read"]](environ["wsgi.input"])
    time.sleep(float(asked["sleep"]))
    what = (environ["REQUEST_METHOD"], environ["QUERY_STRING"], environ.get("HTTP_X_PAD", ""))
    pieces = text_pieces(scripted_text(asked["token"], "\0".join(what).encode(), body, int(asked["size"])))
    headers = [*TEXT, ("X-Token", asked["token"])]
    return ANSWERS[asked["answer"]](environ, start, headers, pieces)


def scripted_text(token: str, what: bytes, body: bytes, size: int) -> bytes:
    """The answer to the request: its token and digest, as often as they fit into `size` bytes, at least once."""
    line = f"{token} {hashlib.sha256(what + body).hexdigest()}\n".encode()
    return line * max(1, size // len(line))


def text_pieces(text: bytes) -> list[bytes]:
    """At most five of them, one of them small."""
    size = max(1, len(text) // 4)
    return [text[:9], *(text[at : at + size] for at in range(9, len(text), size))]


def _read_in_bits(body: Any) -> bytes:
    return b"".join(iter(lambda: body.read(7001), b""))


READS: dict[str, Callable[[Any], bytes]] = {
    "all": lambda body: bytes(body.read()), "bits": _read_in_bits, "lines": b"".join,
}  # fmt: skip
Headers = list[tuple[str, str]]


def _whole(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterable[bytes]:
    start("200 OK", headers)
    return [b"".join(pieces)]


def _sized(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterable[bytes]:
    start("200 OK", [*headers, ("Content-Length", str(sum(map(len, pieces))))])
    return pieces


def _streamed(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterator[bytes]:
    start("200 OK", headers)
    yield from pieces


def _streamed_slowly(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterator[bytes]:
    start("200 OK", [*headers, ("Content-Length", str(sum(map(len, pieces))))])
    for piece in pieces:
        time.sleep(0.004)
        yield piece


def _written(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterable[bytes]:
    write = start("200 OK", headers)
    write(pieces[0])
    return iter(pieces[1:])


def _filed(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterable[bytes]:
    opened = tempfile.TemporaryFile()  # noqa: SIM115 - the server closes it
    opened.write(b"".join(pieces))
    opened.seek(0)
    start("200 OK", headers)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
    return wrapped


def _hinted(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterable[bytes]:
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload")])
    return _whole(environ, start, headers, pieces)


def _nothing(environ: Environ, start: Start, headers: Headers, pieces: list[bytes]) -> Iterable[bytes]:
    start("204 No Content", headers)
    return []


ANSWERS: dict[str, Callable[[Environ, Start, Headers, list[bytes]], Iterable[bytes]]] = {
    "whole": _whole, "sized": _sized, "streamed": _streamed, "streamed-slowly": _streamed_slowly, "written": _written,
    "filed": _filed, "hinted": _hinted, "nothing": _nothing,
}  # fmt: skip

PAGES: dict[str, Callable[[Environ, Start], Iterable[bytes]]] = {
    "/": hello, "/gone": gone, "/moved": moved,
    "/version": version, "/echo": echo, "/sum": add_up, "/dump": dump, "/shop-only": shop_only,
    "/sleep": sleep, "/gate": gate, "/stream": stream,
    "/lengthy": lengthy, "/marked": marked, "/endless": endless, "/broken-stream": broken_stream, "/raises": raises,
    "/big": big, "/writes": writes,
    "/file": file, "/hints": hints, "/context": context, "/async": asynchronous, "/until-drained": until_drained,
    "/where": where, "/injects": injects, "/scripted": scripted,
}  # fmt: skip
