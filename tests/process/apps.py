"""The app that the releases of the process tests run, as source text, and the gates that make it wait.

Shell; runs in pytest. A gate is a file lock that the test holds: app code that reaches it (at import or in a request)
waits until the test opens it. So "slow" means exactly as slow as the test wants, and nothing sleeps.
"""

import fcntl
import glob
import os

from tests.process.waiting import eventually

APP = '''\
"""Release {release} of the app that graceserve's process tests run."""

import fcntl
import hashlib
import json
import os
import sys
import time

import library

RELEASE = {release!r}
IMPORT_PID = os.getpid()
REQUESTS = 0


def hold(gate):
    """Wait until the test opens the gate; the file beside it says who waits."""
    with open(gate + "." + str(os.getpid()), "w"):
        pass
    with open(gate) as file:
        fcntl.flock(file, fcntl.LOCK_SH)


{at_import}


def version(environ):
    return {{
        "release": RELEASE,
        "library": library.VERSION,
        "python": "%d.%d" % sys.version_info[:2],
        "executable": sys.executable,
        "prefix": sys.prefix,
        "cwd": os.getcwd(),
        "path0": sys.path[0],
        "argv0": sys.argv[0],
        "flags": [sys.flags.optimize, sys.flags.dev_mode],
        "file": os.path.abspath(__file__),
        "pid": os.getpid(),
        "parent": os.getppid(),
        "import_pid": IMPORT_PID,
        "generation": environ.get("graceserve.generation"),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "groups": os.getgroups(),
    }}


def lazy(environ):
    import lazy_module
    import library.extra
    return {{"release": lazy_module.RELEASE, "library": library.extra.VERSION, "pid": os.getpid()}}


def wait(environ):
    hold(environ["QUERY_STRING"])
    return {{"release": RELEASE, "pid": os.getpid()}}


def spin(environ):
    """As `wait`, but computing: Python keeps its lock for as long as it can."""
    gate = environ["QUERY_STRING"]
    with open(gate + "." + str(os.getpid()), "w"):
        pass
    with open(gate) as file:
        while True:
            for _ in range(200000):
                pass
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            return {{"release": RELEASE, "pid": os.getpid()}}


def pieces(environ):
    """Holds the gate between two pieces of its body."""
    yield b'{{"pid": '
    hold(environ["QUERY_STRING"])
    yield b"%d}}" % os.getpid()


def pid(environ):
    return {{"pid": os.getpid(), "asked": environ["QUERY_STRING"]}}


def digest(environ):
    body = environ["wsgi.input"].read()
    return {{"bytes": len(body), "digest": hashlib.sha256(body).hexdigest(), "pid": os.getpid()}}


def sleep(environ):
    time.sleep(float(environ["QUERY_STRING"]))
    return {{"release": RELEASE, "pid": os.getpid()}}


def env(environ):
    return {{"value": os.environ.get(environ["QUERY_STRING"])}}


def count(environ):
    global REQUESTS
    REQUESTS += 1
    return {{"requests": REQUESTS, "pid": os.getpid()}}


def echo(environ):
    body = environ["wsgi.input"].read()
    return {{"bytes": len(body), "release": RELEASE}}


PAGES = {{"/": version, "/version": version, "/lazy": lazy, "/hold": wait, "/sleep": sleep, "/env": env,
         "/count": count, "/echo": echo, "/spin": spin, "/pid": pid, "/digest": digest}}


def application(environ, start_response):
    if environ["PATH_INFO"] == "/pieces":
        start_response("200 OK", [("Content-Type", "application/json")])
        return pieces(environ)
    page = PAGES.get(environ["PATH_INFO"])
    status = "200 OK" if page else "404 Not Found"
    body = json.dumps(page(environ) if page else {{"error": "no such page"}}).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))), ("X-Release", RELEASE)]
    start_response(status, headers)
    return [body]


not_callable = 5
{at_end}
'''


def app_source(release: str, at_import: str = "", at_end: str = "") -> str:
    """The app's module; `at_import` runs before, `at_end` after its definitions."""
    return APP.format(release=release, at_import=at_import, at_end=at_end)


class Gate:
    """Closed while this object holds its lock. `path` is what the app passes to its `hold()`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def waiting(self) -> set[int]:
        """Pids that came to the gate so far."""
        return {int(name.rsplit(".", 1)[1]) for name in glob.glob(glob.escape(self.path) + ".*")}

    def wait_for(self, count: int = 1, timeout_s: float = 15.0) -> set[int]:
        """Wait until so many processes came to it."""
        eventually(lambda: len(self.waiting()) >= count, timeout_s, f"{count} at {self.path}")
        return self.waiting()

    def open(self) -> None:
        """Let everybody pass from now on. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
