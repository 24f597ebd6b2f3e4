"""One small app in each framework, written as people write them. All of them give the same paths:

    GET  /page/NAME?q=Q     JSON: name, q, scheme, host, and the framework's own idea of the page's URL
    GET  /redirect          302 to /page/there
    POST /form              multipart with `name` and `file`; JSON: name, and size and hash of the file
    POST /raw               JSON: size and hash of the body
    GET  /file              `files()/FILE`, by the framework's own way of sending files
    GET  /stream?gate=PATH  two pieces; the second is not made before PATH is there
    GET  /error             raises
    GET  /cookies           sets two cookies; JSON: those that came

A framework has paths of its own besides where only it can do a thing.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

FILE = "file.bin"
FILE_BYTES = 3_000_000
PIECES = (b"first\n", b"second\n")
GATE_PATIENCE_S = 10.0
FILE_WRAPPER_CALLED = "wsgi.file_wrapper was called"

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def files() -> str:
    """The directory with `FILE` in it; the tests make it."""
    return os.environ["TEST_FILES"]


def digest(data: bytes) -> dict[str, Any]:
    """What the JSON says of bytes."""
    return {"size": len(data), "hash": hashlib.sha256(data).hexdigest()}


def pieces(gate: str) -> Iterator[bytes]:
    """The body of /stream. `gate` is empty: don't wait."""
    yield PIECES[0]
    end = time.monotonic() + GATE_PATIENCE_S
    while gate and not os.path.exists(gate):
        if time.monotonic() > end:
            raise TimeoutError("nobody opened the gate: the first piece did not reach the client")
        time.sleep(0.005)
    yield PIECES[1]


def watched(app: App) -> App:
    """Tells in the log that the framework has used the server's file_wrapper."""

    def watching(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        wrapper, errors = environ["wsgi.file_wrapper"], environ["wsgi.errors"]

        def watch(*args: Any) -> Any:
            errors.write(FILE_WRAPPER_CALLED + "\n")
            return wrapper(*args)

        environ["wsgi.file_wrapper"] = watch
        return app(environ, start)

    return watching
