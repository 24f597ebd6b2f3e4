"""Kept connections over many reloads: the app, its record of what it ran, the clients, the reloads. Shell; see
`kept_program` for the clients. Runs in pytest and the benchmarks.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import Any

from graceserve import client
from tests.process.procs import Nursery
from tests.process.releases import Release, Site
from tests.process.server import Server
from tests.process.stock import REPOSITORY, environ

APP = '''\
"""Release {release}: says what it got, and records what it runs."""

import json
import os
import time
import zlib

RECORD = os.open({record!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def note(what, name):
    os.write(RECORD, f"{{what}} {{name}} {{os.getpid()}}\\n".encode())


def application(environ, start_response):
    name = environ["HTTP_X_ID"]
    note("begin", name)
    body = environ["wsgi.input"].read()
    time.sleep(float(environ["QUERY_STRING"]))
    told = {{"id": name, "bytes": len(body), "crc": zlib.crc32(body), "pid": os.getpid(), "release": {release!r},
            "port": int(environ.get("REMOTE_PORT") or 0)}}
    answer = json.dumps(told).encode()
    note("end", name)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
'''


def two_releases(site: Site) -> list[Release]:
    """Two releases of that app; the first one is current."""
    found = [site.bare(name) for name in ("41", "42")]
    for release in found:
        release.write("app.py", APP.format(release=release.name, record=record_path(site)))
    site.flip(found[0])
    return found


def record_path(site: Site) -> str:
    """Of the record that all releases write."""
    return site.path("record")


@dataclass(frozen=True, slots=True)
class Record:
    """What the app ran: the pids that began each request, and those that ended it."""

    begun: dict[str, list[int]]
    ended: dict[str, list[int]]

    @classmethod
    def read(cls, path: str) -> "Record":
        """All of it."""
        found: dict[str, dict[str, list[int]]] = {"begin": {}, "end": {}}
        with open(path, encoding="ascii") as file:
            for line in file:
                what, name, pid = line.split()
                found[what].setdefault(name, []).append(int(pid))
        return cls(found["begin"], found["end"])

    def repeated(self) -> list[str]:
        """Requests that were begun more than once."""
        return [name for name, pids in self.begun.items() if len(pids) > 1]


@dataclass(frozen=True, slots=True)
class KeptLine:
    """A client's connection now. `port` is the client's (0: there is none), `pid` answered last, `opened` is monotonic,
    `moves` counts answers from another process than the one before."""

    port: int
    opened: float
    pid: int
    moves: int
    answered: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A request without an answer, or (with an empty `id`) a connection that was closed while it was idle. Times are
    monotonic; `pid` is of the process that had answered on the connection before."""

    how: str
    port: int
    opened: float
    at: float
    pid: int
    id: str = ""
    kind: str = ""
    sent: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """What the clients saw so far; see `kept_program.Tally`."""

    asked: int
    answered: int
    opened: int
    announced_closes: int
    kinds: dict[str, int]
    releases: dict[str, int]
    wrong: list[str]
    ports: list[int]
    took_s: dict[str, float]
    lost: list[Lost] = field(default_factory=list)
    idle_closes: list[Lost] = field(default_factory=list)
    lines: list[KeptLine] = field(default_factory=list)

    @classmethod
    def load(cls, text: bytes) -> "Report":
        """From the program's line."""
        row: dict[str, Any] = json.loads(text)
        row["lost"] = [Lost(**lost) for lost in row["lost"]]
        row["idle_closes"] = [Lost(**lost) for lost in row["idle_closes"]]
        row["lines"] = [KeptLine(**line) for line in row["lines"]]
        return cls(**{one.name: row[one.name] for one in fields(cls)})

    @property
    def sockets(self) -> list[tuple[int, float]]:
        """What tells a client's connection from any other, in the order of the clients."""
        return [(line.port, line.opened) for line in self.lines]

    def __str__(self) -> str:
        took = ", ".join(f"p{float(quantile) * 100:g} {s * 1000:.1f} ms" for quantile, s in self.took_s.items())
        return (
            f"{self.asked} requests asked, {self.answered} answered {dict(sorted(self.kinds.items()))}, by release"
            f" {self.releases}; {self.opened} connections opened; {took}"
        )


class Kept:
    """The clients, as a context manager that is entered when each has been answered once. They are paused then.

    `first` is their report of that moment.
    """

    def __init__(self, nursery: Nursery, address: str, **plan: Any) -> None:
        argv = [sys.executable, "-m", "tests.process.kept_program", json.dumps({"address": address, **plan})]
        self._process = nursery.start(
            argv, cwd=REPOSITORY, env=environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._over = False

    def __enter__(self) -> "Kept":
        self.first = self._report()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._over:
            self._process.kill()
            self._process.communicate()

    def resume(self) -> None:
        """Ask at the rate."""
        self._say("resume\n")

    def pause(self) -> Report:
        """Let the requests in flight finish, and hold the connections."""
        self._say("pause\n")
        return self._report()

    def stop(self) -> Report:
        """Pause, and close all."""
        out, _ = self._process.communicate(timeout=60)
        self._over = True
        return Report.load(out)

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode())
        self._process.stdin.flush()

    def _report(self) -> Report:
        assert self._process.stdout is not None
        return Report.load(self._process.stdout.readline())  # pytest-timeout bounds it


def reload(server: Server, say: Callable[[str], None] = lambda text: None) -> None:
    """As `graceserve reload`, without a process for it; `say` gets its lines as they come. It must switch."""
    found = client.find(str(server.pid), "")
    said: list[str] = []
    try:
        code = client.reload(found, say, said.append)
    finally:
        found.channel.close()
    assert code is client.Exit.DONE, f"{code!r} {said} {server.log[-3000:]}"


__all__ = ["Kept", "KeptLine", "Lost", "Record", "Report", "record_path", "reload", "two_releases"]
