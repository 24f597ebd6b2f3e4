"""Where the benchmarks play: releases with a venv each, a server, nginx and load, all cleaned up. Shell."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

from tests.process.nginx import Nginx
from tests.process.procs import Nursery, become_subreaper, fd_count, pss_bytes, wake_ups
from tests.process.releases import Release, Site
from tests.process.server import Launch, Server, counted
from tests.process.stock import REPOSITORY, Stock, build_wheel, make_stock
from tests.process.waiting import eventually


@dataclass(frozen=True, slots=True)
class Stage:
    """A site with a stock to make releases from, and a nursery for all processes."""

    site: Site
    nursery: Nursery

    def serve(self, launch: Launch, timeout_s: float = 60.0) -> Server:
        """A server, ready."""
        return Server(self.nursery, launch, self.site.path("server.log")).wait_ready(timeout_s)

    def nginx(self, upstream: str, kept: int = 0) -> Nginx:
        """nginx before that address; `kept` as for `Nginx`."""
        return Nginx(self.nursery, self.site.path("nginx"), upstream, kept)

    def release(self, name: str, at_import: str = "") -> Release:
        """A release of the test app."""
        return self.site.release(name, at_import)


@contextlib.contextmanager
def stage(frameworks: bool = False, other_python: str = "") -> Iterator[Stage]:
    """Set it up (some seconds: a wheel of this repository, a venv) and tear it down; tells what was left running."""
    become_subreaper()
    room = os.path.realpath(tempfile.mkdtemp(prefix="gs-bench-"))
    os.chmod(room, 0o755)
    nursery = Nursery()
    try:
        stock = make_stock(os.path.join(room, "stock"), build_wheel(REPOSITORY, room), other_python, frameworks)
        yield Stage(Site(os.path.join(room, "site"), stock), nursery)
    finally:
        left = nursery.close(2.0)
        shutil.rmtree(room)
        if left:
            print(f"had to kill {len(left)} processes at the end: {left}")


def second_stock(scene: Stage, python: str) -> Stock:
    """Of another Python."""
    room = os.path.dirname(scene.site.root)
    wheel = next(name for name in os.listdir(room) if name.endswith(".whl"))
    return make_stock(os.path.join(room, "other"), os.path.join(room, wheel), python)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a server takes. `master_rss_bytes` is resident, `pss_bytes` the proportional sum of all processes."""

    master_rss_bytes: int
    master_fds: int
    worker_fds: int
    processes: int
    pss_bytes: int

    @classmethod
    def of(cls, server: Server) -> "Footprint":
        """Once nothing is under way (a reload to another venv ends with a check of its interpreter and a re-exec)."""
        eventually(lambda: len(server.processes()) == len(server.worker_pids()) + 1, 30, "a server at rest")
        master_fds = counted(server)
        pids = [server.pid, *(proc.pid for proc in server.processes())]
        return cls(
            int(server.status()["rss_bytes"]), master_fds, sum(map(fd_count, server.worker_pids())),
            len(pids), sum(map(pss_bytes, pids)),
        )  # fmt: skip

    def __str__(self) -> str:
        return (
            f"master {self.master_rss_bytes / 1e6:.1f} MB RSS, {self.master_fds} descriptors; workers {self.worker_fds}"
            f" descriptors; {self.processes} processes with {self.pss_bytes / 1e6:.1f} MB PSS in all"
        )


class Claims:
    """What must hold; `verdict` is the script's exit status."""

    def __init__(self) -> None:
        self._failed = 0

    def check(self, claim: str, holds: bool, seen: object = "") -> None:
        """Print the claim, whether it holds, and what was seen."""
        self._failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'} {claim}{f': {seen}' if seen != '' else ''}")

    def verdict(self) -> int:
        """0 if all of them held."""
        return 1 if self._failed else 0


def trouble(server: Server) -> list[str]:
    """The lines of the server's log that are no routine, with their details."""
    lines: list[str] = []
    for line in server.log.splitlines():
        if line.startswith(" "):
            lines += [line] * bool(lines and lines[-1])
        else:
            routine = " INFO " in line and ("killed by" not in line or "kind=check" in line)
            lines += [""] * bool(lines and lines[-1]) if routine else [line]
    return [line for line in lines if line]


__all__ = ["Claims", "Footprint", "Stage", "second_stock", "stage", "trouble", "wake_ups"]
