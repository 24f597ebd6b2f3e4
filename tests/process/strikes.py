"""`kill -9` of a worker in the middle of a hand-over, and which lost requests that excuses. Shell; in pytest and the
benchmarks. The clients are those of `kept`.

A victim is stopped first (SIGSTOP), so that what it has at its death can be looked up: its connections here, and in the
app's record the requests that it runs. Then it is killed, without having gone on.
"""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from tests.process.holders import held
from tests.process.kept import Lost, Record, Report, reload
from tests.process.procs import alive, kill, look_up
from tests.process.server import Server

WINDOW_S = 0.08  # behind the promotion; a drain is over by then, but for requests that take longer
STOP_S = 5.0  # for a victim to stop
NOTICED_S = 2.0  # for a client to notice that its connection has ended


class Side(Enum):
    """Of which generation a victim is."""

    OLD = "old"
    NEW = "new"


@dataclass(frozen=True, slots=True)
class Strike:
    """A worker that was killed, `after_s` seconds behind the promotion. `held`: its connections (see `holders`)."""

    pid: int
    side: Side
    after_s: float
    held: frozenset[int]
    at: float  # monotonic


class Fate(Enum):
    """What became of a request that got no answer, or of a connection that was closed."""

    RUNNING = "running in the killed process"
    UNSENT = "run by the killed process, its answer not sent yet"
    BEHIND = "sent behind one of these, on the same connection"
    IN_HAND = "on the one connection that the killed process was just moving, reading or answering"
    UNEXCUSED = "NOT EXCUSED by any kill"


@dataclass(slots=True)
class Striker:
    """Reloads, and kills one worker a reload. `strikes` grows; a victim that ended by itself just before is none."""

    server: Server
    random: random.Random
    window_s: float = WINDOW_S
    strikes: list[Strike] = field(default_factory=list)

    def reload(self) -> Strike | None:
        """One reload, which must switch, and the fleet must be whole behind it."""
        server, count = self.server, len(self.strikes)
        serving = server.serving()
        old = [int(row["pid"]) for row in serving["workers"]]
        reload(server, lambda text: self._on_progress(text, old))
        strike = self.strikes[-1] if len(self.strikes) > count else None
        server.wait_whole(int(serving["generation"]) + 1, 40, without=[strike.pid] if strike else [])
        return strike

    def _on_progress(self, text: str, old: list[int]) -> None:
        """Early moments more often than late ones: most connections are handed over in the first milliseconds."""
        if not text.startswith("promoted generation"):
            return
        promoted = time.monotonic()
        after_s = self.random.random() ** 3 * self.window_s
        new = [pid for pid in _workers(self.server.pid) if pid not in old]
        sides = [(Side.OLD, old), (Side.NEW, new)]
        self.random.shuffle(sides)
        time.sleep(max(0.0, promoted + after_s - time.monotonic()))  # the kill is to come at any moment
        for side, pids in sides:
            if living := [pid for pid in pids if alive(pid)]:
                self._strike(self.random.choice(living), side, promoted)
                return

    def _strike(self, pid: int, side: Side, promoted: float) -> None:
        try:
            kill(pid, signal.SIGSTOP)
            _wait_stopped(pid)
            now = time.monotonic()
            found = held(pid, self.server.address)
        except (FileNotFoundError, ProcessLookupError):
            return
        kill(pid)
        self.strikes.append(Strike(pid, side, now - promoted, frozenset(found), now))


def _workers(master: int) -> list[int]:
    """Children of the master whose title says so; without asking it, as it is in the middle of something."""
    with open(f"/proc/{master}/task/{master}/children", encoding="ascii") as file:
        found = [look_up(int(word)) for word in file.read().split()]
    return [proc.pid for proc in found if proc is not None and proc.title.startswith("graceserve: worker ")]


def _wait_stopped(pid: int) -> None:
    """Until each of its threads is. Raises `FileNotFoundError` or `ProcessLookupError` if it is gone."""
    deadline = time.monotonic() + STOP_S
    while not all(_stopped(f"/proc/{pid}/task/{thread}/stat") for thread in os.listdir(f"/proc/{pid}/task")):
        assert time.monotonic() < deadline, f"{pid} did not stop"
        os.sched_yield()  # it is a matter of microseconds, and all this takes time from the moment that is tested


def _stopped(path: str) -> bool:
    with open(path, encoding="utf-8", errors="replace") as file:
        state = file.read().rpartition(")")[2].split()[0]
    if state in "ZX":
        raise ProcessLookupError(path)
    return state in "Tt"


def judge(report: Report, record: Record, strikes: Iterable[Strike]) -> dict[Fate, list[Lost]]:
    """Each lost request and each closed connection under its fate.

    A process works on one connection at a time. What it has done to that one when it is killed, and not noted yet,
    nobody can know, so that one may be closed; each other one of which no request has begun has to live on.
    """
    found: dict[Fate, list[Lost]] = {fate: [] for fate in Fate}
    by_port: dict[int, list[Strike]] = {}
    for strike in strikes:
        for port in strike.held:
            by_port.setdefault(port, []).append(strike)
    ran: set[tuple[int, Strike]] = set()
    others: list[tuple[Lost, Strike]] = []
    for lost in (*report.lost, *report.idle_closes):
        killers = [one for one in by_port.get(lost.port, ()) if lost.opened < one.at < lost.at < one.at + NOTICED_S]
        fate = _fate(lost, record, killers)
        if fate is None:
            others.append((lost, killers[-1]))  # it has survived those before
            continue
        found[fate].append(lost)
        if fate is not Fate.UNEXCUSED:
            ran.update((lost.port, killer) for killer in killers)
    in_hand: dict[Strike, set[int]] = {}
    for lost, killer in others:
        if (lost.port, killer) not in ran:
            in_hand.setdefault(killer, set()).add(lost.port)
    for lost, killer in others:
        if (lost.port, killer) in ran:
            found[Fate.BEHIND].append(lost)
        else:
            found[Fate.IN_HAND if len(in_hand[killer]) == 1 else Fate.UNEXCUSED].append(lost)
    return found


def _fate(lost: Lost, record: Record, killers: list[Strike]) -> Fate | None:
    """None if it was not begun, which is excused by what else happened."""
    if not killers or lost.how.startswith(("status", "pushed back", "no answer", "connect")):
        return Fate.UNEXCUSED  # the death of a process closes a connection, and nothing else
    begun, ended = record.begun.get(lost.id, []), record.ended.get(lost.id, [])
    if not begun:
        return None
    if not set(begun) <= {one.pid for one in killers}:
        return Fate.UNEXCUSED
    return Fate.UNSENT if ended else Fate.RUNNING


def twice(report: Report, record: Record) -> list[str]:
    """Requests that were begun more than once, or answered without having been run exactly once."""
    lost = {one.id for one in report.lost}
    runs = Counter({name: len(pids) for name, pids in record.begun.items()})
    answered_amiss = [name for name in record.begun if name not in lost and len(record.ended.get(name, ())) != 1]
    return [name for name, count in runs.items() if count > 1] + answered_amiss


__all__ = ["WINDOW_S", "Fate", "Side", "Strike", "Striker", "judge", "twice"]
