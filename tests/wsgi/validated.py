"""Apps of every kind that PEP 3333 allows, each at two paths: /checked/KIND inside `wsgiref.validate.validator`, which
looks at everything that passes between server and app, and /bare/KIND, because the validator's wrapper around the
response hides its type from the server.

/checked/read/HOW and /bare/read/HOW read the request's body and answer with what they have got.
"""

import gc
import gzip
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from wsgiref.validate import validator

Environ = dict[str, Any]
Start = Callable[..., Callable[[bytes], object]]
App = Callable[[Environ, Start], Iterable[bytes]]

TEXT = [("Content-Type", "text/plain")]
PIECES = (b"one, ", b"two, ", b"three")
BODY = b"".join(PIECES)
MIDDLE = bytes(range(256)) * 500  # more than a file_wrapper's block
LARGE = bytes(range(256)) * 12_000  # more than any socket buffer takes at once
UNSIZED = "/proc/version"  # a regular file whose stat says 0 bytes
ERRORS_TOLD = "told to wsgi.errors: ä, €"


@dataclass(frozen=True)
class Kind:
    """An app and the body that its client must see. `bare_only`: the validator refuses what PEP 3333 does not, or hides
    from the server that it is a file: of files alone, more than Content-Length is no fault."""

    app: App
    body: bytes
    status: int = 200
    bare_only: bool = False


# --- bodies


class Pieces:
    """An iterator with a close(), like those of middleware."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._open = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        assert self._open, "read after close()"
        return next(self._pieces)

    def close(self) -> None:
        assert self._open, "close() twice"
        self._open = False


class Sized:
    """An iterable with a length, which is no list."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)


def gives(make: Callable[[], Iterable[bytes]], length: int | None = None, status: str = "200 OK") -> App:
    """`make` a body for each request."""
    headers = [] if status[:3] in ("204", "304") else TEXT
    lengths = [] if length is None else [("Content-Length", str(length))]

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        start(status, [*headers, *lengths])
        return make()

    return app


def wraps(make: Callable[[], Any], length: int | None = None, *block_bytes: int) -> App:
    """`make` a file for each request, which goes through wsgi.file_wrapper."""

    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        lengths = [] if length is None else [("Content-Length", str(length))]
        start("200 OK", [*TEXT, *lengths])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](make(), *block_bytes)
        return wrapped

    return app


# --- files


def real(data: bytes, at: int = 0, **how: Any) -> IO[bytes]:
    file: IO[bytes] = tempfile.TemporaryFile(**how)  # noqa: SIM115  # the server closes it
    file.write(data)
    file.seek(at)
    return file


def read_from(data: bytes, lines: int) -> IO[bytes]:
    """A buffered file of which some lines have been read: the descriptor stands further on than the file does."""
    file = real(data)
    for _ in range(lines):
        file.readline()
    return file


def named(data: bytes) -> Any:
    """A wrapper of a file that forwards attributes."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115  # the server closes it
    file.write(data)
    file.seek(0)
    return file


def at(file: IO[bytes], position: int) -> IO[bytes]:
    file.seek(position)
    return file


class Deciphered(io.FileIO):
    """A file that is more than its descriptor."""

    def __init__(self, data: bytes) -> None:
        with named(data) as file:
            super().__init__(file.name)

    def read(self, size: int | None = -1) -> bytes:
        return bytes(byte ^ 1 for byte in super().read(-1 if size is None else size) or b"")


class Unzipped(gzip.GzipFile):
    """Its fileno() is the compressed file's."""

    def __init__(self, data: bytes) -> None:
        self._compressed = real(gzip.compress(data))
        super().__init__(fileobj=self._compressed, mode="rb")

    def close(self) -> None:
        super().close()
        self._compressed.close()


def unsized() -> IO[bytes]:
    return open(UNSIZED, "rb")


def pipe(data: bytes) -> IO[bytes]:
    """It has a descriptor, but no size and no position."""
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return open(reading, "rb")


class Window:
    """A part of a file, as frameworks make them for ranges: it passes the file's fileno() on."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size
        self.fileno, self.close = file.fileno, file.close

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


class OnlyReads:
    """All that PEP 3333 asks of a file."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


# --- apps that are more than a body


def writes(environ: Environ, start: Start) -> Iterable[bytes]:
    write = start("200 OK", TEXT)
    for piece in PIECES:
        write(piece)
    return []


def writes_and_returns(environ: Environ, start: Start) -> Iterable[bytes]:
    write = start("200 OK", [*TEXT, ("Content-Length", str(len(BODY)))])
    write(PIECES[0])
    return list(PIECES[1:])


def writes_and_wraps(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", TEXT)(PIECES[0])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](real(b"".join(PIECES[1:])))
    return wrapped


def writes_much(environ: Environ, start: Start) -> Iterable[bytes]:
    write = start("200 OK", TEXT)
    for at in range(0, len(LARGE), 100_000):
        write(LARGE[at : at + 100_000])
    return [b""]


def starts_late(environ: Environ, start: Start) -> Iterator[bytes]:
    """Nothing of it runs before the server asks for the first piece."""
    start("200 OK", TEXT)
    yield from PIECES


def starts_after_nothing(environ: Environ, start: Start) -> Iterator[bytes]:
    yield b""
    start("200 OK", TEXT)
    yield from PIECES


def changes_its_mind(environ: Environ, start: Start) -> Iterable[bytes]:
    start("200 OK", [*TEXT, ("Content-Length", "1000"), ("Set-Cookie", "old=1")])
    try:
        raise KeyError("before a byte of the body")
    except KeyError:
        start("503 Service Unavailable", TEXT, sys.exc_info())
    return [BODY]


def changes_its_mind_late(environ: Environ, start: Start) -> Iterator[bytes]:
    start("200 OK", [*TEXT, ("Set-Cookie", "old=1")])
    yield b""
    try:
        raise KeyError("before a byte of the body")
    except KeyError:
        start("503 Service Unavailable", TEXT, sys.exc_info())
    yield BODY


def logs(environ: Environ, start: Start) -> Iterable[bytes]:
    errors = environ["wsgi.errors"]
    errors.write(ERRORS_TOLD + "\n")
    errors.writelines(["a\n", "b\n"])
    errors.flush()
    start("200 OK", TEXT)
    return [BODY]


KINDS: dict[str, Kind] = {
    "list": Kind(gives(lambda: [BODY]), BODY),
    "list of three": Kind(gives(lambda: list(PIECES)), BODY),
    "list with nothing between": Kind(gives(lambda: [b"", PIECES[0], b"", *PIECES[1:], b""]), BODY),
    "list with its length": Kind(gives(lambda: list(PIECES), len(BODY)), BODY),
    "tuple": Kind(gives(lambda: PIECES), BODY),
    "empty list": Kind(gives(list), b""),
    "list of nothing": Kind(gives(lambda: [b""]), b""),
    "empty, with a length of 0": Kind(gives(list, 0), b""),
    "large list": Kind(gives(lambda: [LARGE[:1_000_000], LARGE[1_000_000:]]), LARGE),
    "generator": Kind(gives(lambda: (piece for piece in PIECES)), BODY),
    "generator with its length": Kind(gives(lambda: iter(PIECES), len(BODY)), BODY),
    "generator with nothing between": Kind(gives(lambda: iter((b"", PIECES[0], b"", b"", *PIECES[1:], b""))), BODY),
    "empty generator": Kind(gives(lambda: iter(())), b""),
    "generator of nothing": Kind(gives(lambda: iter((b"", b""))), b""),
    "large generator": Kind(gives(lambda: (LARGE[at : at + 50_000] for at in range(0, len(LARGE), 50_000))), LARGE),
    "iterator with close()": Kind(gives(lambda: Pieces(PIECES)), BODY),
    "iterable with a length of one": Kind(gives(lambda: Sized(BODY)), BODY),
    "iterable with a length of three": Kind(gives(lambda: Sized(*PIECES)), BODY),
    "set": Kind(gives(lambda: {BODY}), BODY),
    "dict": Kind(gives(lambda: {BODY: None}), BODY),
    "open file, by lines": Kind(gives(lambda: real(b"one\ntwo\n")), b"one\ntwo\n"),
    "file": Kind(wraps(lambda: real(MIDDLE)), MIDDLE),
    "file with its length": Kind(wraps(lambda: real(MIDDLE), len(MIDDLE)), MIDDLE),
    "file from its middle": Kind(wraps(lambda: real(MIDDLE, 1000), len(MIDDLE) - 1000), MIDDLE[1000:]),
    "file, only its beginning": Kind(wraps(lambda: real(MIDDLE), 1000), MIDDLE[:1000], bare_only=True),
    "file, only a part": Kind(wraps(lambda: real(MIDDLE, 1000), 1000), MIDDLE[1000:2000], bare_only=True),
    "file in small blocks": Kind(wraps(lambda: real(MIDDLE), None, 1000), MIDDLE),
    "file at its end": Kind(wraps(lambda: real(MIDDLE, len(MIDDLE))), b""),
    "file that is empty": Kind(wraps(lambda: real(b"")), b""),
    "file, large": Kind(wraps(lambda: real(LARGE)), LARGE),
    "file, large with its length": Kind(wraps(lambda: real(LARGE), len(LARGE)), LARGE),
    "file, some lines read": Kind(wraps(lambda: read_from(b"a\nb\n" + MIDDLE, 2)), MIDDLE),
    "file, not buffered": Kind(wraps(lambda: real(MIDDLE, buffering=0)), MIDDLE),
    "file with a name": Kind(wraps(lambda: named(MIDDLE)), MIDDLE),
    "file that is compressed": Kind(wraps(lambda: Unzipped(MIDDLE)), MIDDLE),
    "file that deciphers": Kind(wraps(lambda: Deciphered(b"a" * 3000)), b"`" * 3000),
    "file without a size": Kind(wraps(unsized), Path(UNSIZED).read_bytes()),
    "file that is a pipe": Kind(wraps(lambda: pipe(b"p" * 5000)), b"p" * 5000),
    "file in memory": Kind(wraps(lambda: io.BytesIO(MIDDLE)), MIDDLE),
    "file in memory with its length": Kind(wraps(lambda: io.BytesIO(MIDDLE), len(MIDDLE)), MIDDLE),
    "file in memory, from its middle": Kind(wraps(lambda: at(io.BytesIO(MIDDLE), 9)), MIDDLE[9:]),
    "window of a file": Kind(wraps(lambda: Window(real(MIDDLE, 100), 200), 200), MIDDLE[100:300]),
    "window of a file, no length": Kind(wraps(lambda: Window(real(MIDDLE, 100), 200)), MIDDLE[100:300]),
    "object that only reads": Kind(wraps(lambda: OnlyReads(MIDDLE)), MIDDLE),
    "write()": Kind(writes, BODY),
    "write() and a list": Kind(writes_and_returns, BODY),
    "write() and a file": Kind(writes_and_wraps, BODY),
    "write() of much": Kind(writes_much, LARGE),
    "starts with its first piece": Kind(starts_late, BODY),
    "starts after a piece of nothing": Kind(starts_after_nothing, BODY, bare_only=True),
    "another head, for an error": Kind(changes_its_mind, BODY, 503),
    "another head, late": Kind(changes_its_mind_late, BODY, 503),
    "204": Kind(gives(list, status="204 No Content"), b"", 204),
    "204 and a generator": Kind(gives(lambda: Pieces(()), status="204 No Content"), b"", 204),
    "304": Kind(gives(list, status="304 Not Modified"), b"", 304),
    "304 with the length of what it stands for": Kind(gives(lambda: iter(()), 1000, "304 Not Modified"), b"", 304),
    "404": Kind(gives(lambda: [BODY], status="404 Not Found"), BODY, 404),
    "a word to the log": Kind(logs, BODY),
}


# --- request bodies

Reader = Callable[[Any], list[bytes]]


def _until_empty(read: Callable[[], bytes]) -> list[bytes]:
    return list(iter(read, b""))


READERS: dict[str, Reader] = {  # the same functions tell the tests what must come, from a BytesIO
    "read()": lambda body: [body.read()],
    "read(-1)": lambda body: [body.read(-1)],
    "read(1)": lambda body: [body.read(1) for _ in range(30)],
    "read(n)": lambda body: _until_empty(lambda: body.read(8192)),
    "read(much)": lambda body: [body.read(1 << 30)],
    "readline()": lambda body: _until_empty(body.readline),
    "readline(n)": lambda body: _until_empty(lambda: body.readline(7)),
    "readlines()": lambda body: body.readlines(),
    "readlines(n)": lambda body: _until_empty_list(lambda: body.readlines(100)),
    "iteration": list,
    "a line, a piece, the rest": lambda body: [body.readline(), body.read(3), *body.readlines(), body.read(9)],
    "past the end": lambda body: [body.read(1 << 24), body.read(1), body.readline(), *body.readlines(), *body],
    "nothing": lambda body: [],
}  # fmt: skip
REFUSED_BY_VALIDATOR = ("read()",)  # it wants exactly one argument


def _until_empty_list(read: Callable[[], list[bytes]]) -> list[bytes]:
    return [line for lines in iter(read, []) for line in lines]


def reads(how: Reader) -> App:
    def app(environ: Environ, start: Start) -> Iterable[bytes]:
        got = repr(how(environ["wsgi.input"])).encode()
        start("200 OK", [*TEXT, ("X-Length", environ.get("CONTENT_LENGTH", ""))])
        return [got]

    return app


# --- the app


def collect(environ: Environ, start: Start) -> Iterable[bytes]:
    """So that what must be closed and was not says so now."""
    gc.collect()
    start("200 OK", TEXT)
    return [b"collected"]


APPS: dict[str, App] = {"/bare/collect": collect}
APPS.update({f"/bare/{name}": kind.app for name, kind in KINDS.items()})
APPS.update({f"/checked/{name}": validator(kind.app) for name, kind in KINDS.items()})
APPS.update({f"/bare/read/{name}": reads(how) for name, how in READERS.items()})
APPS.update({f"/checked/read/{name}": validator(reads(how)) for name, how in READERS.items()})
OTHER = validator(KINDS["list"].app)


def app(environ: Environ, start: Start) -> Iterable[bytes]:
    return APPS.get(environ["PATH_INFO"], OTHER)(environ, start)
