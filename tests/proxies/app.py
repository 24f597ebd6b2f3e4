"""The app that all fronts lead to. Runs in a worker.

It says what it saw, as JSON, so that a test can tell what a proxy made of a request and what the server made of that.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
Start = Callable[..., Any]
Page = Callable[[Environ, Start], Iterable[bytes]]

READ_BYTES = 65_536
CHECKS: dict[str, Any] = {}  # the environ of the last health check, for `/checked`


def told(environ: Environ) -> dict[str, Any]:
    """What a request looks like from in here; reads its body."""
    digest, count = hashlib.sha256(), 0
    while data := environ["wsgi.input"].read(READ_BYTES):
        digest.update(data)
        count += len(data)
    plain = {key: value for key, value in environ.items() if key.isupper() and isinstance(value, str)}
    return {
        "environ": plain,
        "scheme": environ["wsgi.url_scheme"],
        "body_bytes": count,
        "sha256": digest.hexdigest(),
        "sockets": sockets(),
        "pid": os.getpid(),
    }


def sockets() -> list[str]:
    """This process's sockets, by inode: a new one between two requests is a new connection."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # closed meanwhile by another thread, or the one of the listing
            continue
        if target.startswith("socket:"):
            found.append(target)
    return found


def as_json(content: Any, start: Start, status: str = "200 OK") -> list[bytes]:
    """A small response that says its length."""
    body = json.dumps(content).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


def echo(environ: Environ, start: Start) -> Iterable[bytes]:
    return as_json(told(environ), start)


def healthz(environ: Environ, start: Start) -> Iterable[bytes]:
    """What the health check of a proxy asks for."""
    CHECKS[environ.get("HTTP_USER_AGENT", "")] = told(environ)
    return as_json("well", start)


def checked(environ: Environ, start: Start) -> Iterable[bytes]:
    """The health checks so far, by user agent."""
    return as_json(CHECKS, start)


def file(environ: Environ, start: Start) -> Iterable[bytes]:
    """Some MB from a file, by `wsgi.file_wrapper`."""
    opened = open(os.environ["PROXIES_FILE"], "rb")  # noqa: SIM115 - the server closes it (PEP 3333)
    size = os.fstat(opened.fileno()).st_size
    start("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(size))])
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened, READ_BYTES)
    return wrapped


def stream(environ: Environ, start: Start) -> Iterator[bytes]:
    """Two pieces, the second only when the test has opened the gate: it has the first one then."""
    start("200 OK", [("Content-Type", "text/plain")])
    yield b"first\n"
    with open(environ["QUERY_STRING"], "rb") as gate:
        fcntl.flock(gate, fcntl.LOCK_SH)
    yield b"second\n"


def cut(environ: Environ, start: Start) -> Iterator[bytes]:
    """Breaks in the middle; the query says whether it had told its length."""
    length = [("Content-Length", "100000")] if environ["QUERY_STRING"] == "length" else []
    start("200 OK", [("Content-Type", "text/plain"), *length])
    yield b"x" * 50_000
    raise RuntimeError("broken on purpose")


def broken(environ: Environ, start: Start) -> Iterable[bytes]:
    raise RuntimeError("broken on purpose")


def busy(environ: Environ, start: Start) -> Iterable[bytes]:
    return as_json("come back later", start, "503 Service Unavailable")


def gone(environ: Environ, start: Start) -> Iterable[bytes]:
    """Redirects of both kinds; 303 turns a POST into a GET."""
    told(environ)
    start("303 See Other", [("Location", "/echo?redirected"), ("Content-Length", "0")])
    return []


def moved(environ: Environ, start: Start) -> Iterable[bytes]:
    """An absolute one, made of what the app believes to be its own address."""
    place = f"{environ['wsgi.url_scheme']}://{environ['HTTP_HOST']}/echo?redirected"
    start("302 Found", [("Location", place), ("Content-Length", "0")])
    return []


def nothing(environ: Environ, start: Start) -> Iterable[bytes]:
    start("204 No Content", [])
    return []


def same(environ: Environ, start: Start) -> Iterable[bytes]:
    """As for a client that has it; the length is that of the page it has (RFC 9110 8.6)."""
    if environ.get("HTTP_IF_NONE_MATCH") == '"1"':
        start("304 Not Modified", [("ETag", '"1"'), ("Content-Length", "1000")])
        return []
    start("200 OK", [("ETag", '"1"'), ("Content-Length", "1000")])
    return [b"y" * 1000]


PAGES: dict[str, Page] = {
    "echo": echo, "healthz": healthz, "checked": checked, "file": file, "stream": stream, "cut": cut, "broken": broken,
    "busy": busy, "gone": gone, "moved": moved, "nothing": nothing, "same": same,
}  # fmt: skip


def app(environ: Environ, start: Start) -> Iterable[bytes]:
    """WSGI."""
    page = PAGES.get(environ["PATH_INFO"].split("/")[1])
    return page(environ, start) if page else as_json("no such page", start, "404 Not Found")
