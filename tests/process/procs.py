"""Processes seen through /proc, and the rule that a test leaves none behind. Shell; runs in pytest.

pytest is made a child subreaper, so every process that a server leaves behind becomes a child of pytest and is found by
walking parents. (A marker in the environment would not do: setproctitle overwrites /proc/PID/environ.)
"""

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from tests.process.waiting import eventually

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Proc:
    """One line of /proc: `state` is the letter of proc(5), `rss_bytes` as the kernel accounts it."""

    pid: int
    parent: int
    state: str
    threads: int
    rss_bytes: int
    title: str

    @property
    def alive(self) -> bool:
        """Neither a zombie nor dead."""
        return self.state not in "ZX"


def become_subreaper() -> None:
    """Orphans of this process's descendants come to it."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def look_up(pid: int) -> Proc | None:
    """The process, None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            stat = file.read()
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            title = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = stat[stat.rindex(")") + 2 :].split()  # the name in brackets may hold anything; field 3 follows it
    rss_bytes = int(words[21]) * os.sysconf("SC_PAGE_SIZE")
    return Proc(pid, int(words[1]), words[0], int(words[17]), rss_bytes, title)


def everybody() -> Iterator[Proc]:
    """All processes of the machine that can be seen."""
    for name in os.listdir("/proc"):
        if name.isdigit() and (proc := look_up(int(name))) is not None:
            yield proc


def descendants(root: int) -> list[Proc]:
    """All below `root`, zombies too."""
    by_parent: dict[int, list[Proc]] = {}
    for proc in everybody():
        by_parent.setdefault(proc.parent, []).append(proc)
    found: list[Proc] = []
    queue = [root]
    while queue:
        children = by_parent.get(queue.pop(), [])
        found += children
        queue += [child.pid for child in children]
    return found


def alive(pid: int) -> bool:
    """Whether it still runs."""
    proc = look_up(pid)
    return proc is not None and proc.alive


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone already is fine."""
    assert pid > 1, f"{pid} is a whole group of processes, or init"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def pss_bytes(pid: int) -> int:
    """Proportional set size: shared pages counted by their share."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def fd_count(pid: int) -> int:
    """Open descriptors."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def fds(pid: int) -> dict[int, str]:
    """Open descriptors and what they are."""
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return found


def wake_ups(pid: int) -> int:
    """Times that the process's main thread, or the thread with this number, went to sleep by itself (voluntary context
    switches)."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt_switches"))


def executable(pid: int) -> str:
    """The file behind /proc/PID/exe."""
    return os.readlink(f"/proc/{pid}/exe")


class Nursery:
    """Every process that a test starts, by its own hand or through a server. Nothing may be left at its end."""

    def __init__(self) -> None:
        self._own: dict[int, subprocess.Popen[bytes]] = {}
        self._before = {proc.pid for proc in descendants(os.getpid())}

    def start(self, argv: list[str], **options: object) -> "subprocess.Popen[bytes]":
        """As `subprocess.Popen`."""
        process: subprocess.Popen[bytes] = subprocess.Popen(argv, **options)  # type: ignore[call-overload]
        self._own[process.pid] = process
        return process

    def left(self) -> list[Proc]:
        """Living processes that were not there when the nursery was made. Reaps the dead ones."""
        found = []
        for proc in descendants(os.getpid()):
            if proc.pid in self._before:
                continue
            if proc.alive:
                found.append(proc)
            elif proc.parent == os.getpid():
                self._reap(proc.pid)
        return found

    def close(self, timeout_s: float = 5.0) -> list[str]:
        """Wait for what is on its way out; kill the rest. Returns the titles of those that had to be killed."""
        try:
            eventually(lambda: not self.left(), timeout_s)
            return []
        except AssertionError:
            kept = self.left()
        for proc in kept:
            kill(proc.pid)
        with contextlib.suppress(AssertionError):
            eventually(self._kill_all, 5)
        return [f"{proc.pid} {proc.title or '?'}" for proc in kept]

    def _kill_all(self) -> bool:
        for proc in self.left():
            kill(proc.pid)
        return not self.left()

    def _reap(self, pid: int) -> None:
        if pid in self._own:
            self._own[pid].poll()
            return
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
