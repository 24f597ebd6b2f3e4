"""A pretend kernel with faults, on a virtual clock: carries out what a fleet orders, late, wrong, or not at all.

One `World` is one run of one seed: the fleet boots, lives through faults and operators for a while, then either the
faults stop and it must become whole again in bounded time (rule 8), or a stop is asked for and it must end in bounded
time (rules 6 and 7). Everything random comes from the one seed; a failing seed is run again with `trace` to be read.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from graceserve.fleet.actions import (
    Accept,
    Action,
    Drain,
    Fork,
    KillPart,
    KillWorker,
    Part,
    Ping,
    Prepare,
    Probe,
    Quit,
    RetireTemplate,
    StartTemplate,
)
from graceserve.fleet.events import (
    Event,
    PrepareEnded,
    Probed,
    ReloadAsked,
    StopAsked,
    TemplateExited,
    TemplateFailed,
    TemplateReady,
    Terms,
    Tick,
    WorkerExited,
    WorkerFailed,
    WorkerLeaving,
    WorkerPonged,
    WorkerReady,
    WorkersChanged,
)
from graceserve.fleet.state import PartPhase, WorkerPhase
from tests.fleet.rules import Broken, Watched

KILL_MOST_S = 7.0  # a kill may take longer than the fleet's patience
LATE_MOST_S = 0.02  # of ticks
RELEASES = ("good",) * 6 + ("flaky", "flaky", "template", "worker", "hang", "busy", "prepare")


@dataclass(slots=True)
class Process:
    """A pretend template, prepare command or worker."""

    alive: bool = True
    hung: bool = False  # obeys nothing but a kill
    busy: bool = False  # uses CPU
    starting: bool = True


class World:
    def __init__(self, seed: int, deep: bool = False, trace: bool = False) -> None:
        self.rng = Random(seed)
        self.seed = seed
        self.watched = Watched(deep)
        self.watched.late_s = 2.0  # forty probes, each a little late
        self.now = self.start = 1000.0
        self.heap: list[tuple[float, int, Any]] = []
        self.count = 0
        self.tickets = 0
        self.steps = 0
        self.seen: Counter[type] = Counter()
        self.trace: list[str] | None = [] if trace else None
        self.faulty = True
        self.chance = self.rng.choice((0.0, 0.02, 0.1, 0.3))  # of a fault, each time there could be one
        self.release: dict[int, str] = {}  # generation -> what it runs
        self.asked = "good"  # the release that the link leads to
        self.parts: dict[tuple[int, Part], Process] = {}
        self.workers: dict[int, Process] = {}
        self.generation_of: dict[int, int] = {}
        self.unforked: dict[int, list[int]] = {}  # generation -> orders that its hung template has not read
        self.timeout_s = self.grace_s = 0.0
        self.most_workers = 1

    # --- the clock ------------------------------------------------------------------------------------------------

    def at(self, delay_s: float, what: Event | Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.heap, (self.now + delay_s, self.count, what))

    def fault(self, weight: float = 1.0) -> bool:
        return self.faulty and self.rng.random() < self.chance * weight

    def short(self) -> float:
        """How long something takes that should take no time."""
        return self.rng.random() * (0.02 if self.rng.random() < 0.8 else 1.0)

    def run_until(self, end: float, done: Callable[[], bool] | None = None) -> bool:
        """Advance the clock; True when `done` came true, or the fleet has finished."""
        while not self.watched.finished:
            if done is not None and done():
                return True
            wake = self.watched.fleet.wake_at()
            tick = None if wake is None else wake + self.rng.random() * LATE_MOST_S
            head = self.heap[0][0] if self.heap else None
            if tick is None and head is None:
                break
            if head is None or (tick is not None and tick < head):
                assert tick is not None
                if tick > end:
                    break
                self.now = max(self.now, tick)
                self.step(Tick())
            else:
                if head > end:
                    break
                self.now = max(self.now, head)
                what = heapq.heappop(self.heap)[2]
                if callable(what):
                    what()
                else:
                    self.step(what)
        self.now = max(self.now, end) if not self.watched.finished else self.now
        return self.watched.finished

    def step(self, event: Event) -> None:
        if self.watched.finished:
            return
        if self.fault(0.1):
            self.watched.reload()
        if self.fault(0.3) and not isinstance(event, ReloadAsked | StopAsked | WorkersChanged | Tick):
            self.at(self.short(), event)  # it will be heard twice
        self.steps += 1
        if self.trace is not None:
            self.trace.append(f"{self.now - self.start:9.3f}  > {event}")
        actions = self.watched.step(event, self.now)
        for action in actions:
            if self.trace is not None:
                self.trace.append(f"{'':9}      {action}")
            self.seen[type(action)] += 1
            do = DO.get(type(action))
            if do is not None:
                do(self, action)

    # --- operators --------------------------------------------------------------------------------------------------

    def terms(self) -> Terms:
        rng = self.rng
        terms = Terms(
            workers=rng.choice((1, 1, 2, 2, 3, 4)),
            surge=rng.choice((0, 0, 0, 1, 2)),
            startup_timeout_s=rng.choice((2.0, 4.0, 8.0)),
            graceful_timeout_s=rng.choice((1.0, 3.0, 10.0)),
            stuck_timeout_s=rng.choice((0.0, 3.0, 6.0)),
            prepare=rng.random() < 0.2,
        )
        self.timeout_s = max(self.timeout_s, terms.startup_timeout_s)
        self.grace_s = max(self.grace_s, terms.graceful_timeout_s)
        self.most_workers = max(self.most_workers, terms.workers)
        return terms

    def ask(self) -> None:
        self.tickets += 1
        self.step(ReloadAsked(self.tickets, self.terms()))

    def operate(self) -> None:
        """What people do while faults happen."""
        rng = self.rng
        if not self.faulty or self.watched.stopped:
            return
        dice = rng.random()
        if dice < 0.4:
            self.asked = rng.choice(RELEASES)
            for _ in range(rng.choice((1, 1, 1, 2, 5))):
                self.ask()
        elif dice < 0.6:
            self.step(WorkersChanged(rng.choice((1, -1))))
            self.most_workers = max(self.most_workers, self.watched.fleet.worker_count)
        elif dice < 0.7 and self.workers:
            self.leave(rng.choice(list(self.workers)))
        elif dice < 0.7 + self.chance / 2 and self.parts:
            self.die_part(*rng.choice(list(self.parts)))
        elif dice < 0.8 + self.chance / 2:
            for serial in list(self.workers):
                if rng.random() < 0.5:
                    self.die(serial)
        self.at(rng.expovariate(0.4), self.operate)

    # --- parts ------------------------------------------------------------------------------------------------------

    def prepare(self, action: Prepare) -> None:
        self.release.setdefault(action.generation, self.asked)
        part = self.parts[action.generation, Part.PREPARE] = Process()
        if self.fault():
            part.hung, part.busy = True, self.rng.random() < 0.3
        elif self.release[action.generation] == "prepare" or self.fault():
            self.at(self.short(), lambda: self.end_prepare(action.generation, "prepare: exit status 1"))
        else:
            self.at(self.short(), lambda: self.end_prepare(action.generation, ""))

    def end_prepare(self, generation: int, reason: str) -> None:
        if self.parts.pop((generation, Part.PREPARE), None) is not None:
            self.step(PrepareEnded(generation, reason))

    def start_template(self, action: StartTemplate) -> None:
        number = action.generation
        if action.repair_of:
            self.release[number] = "flaky" if self.faulty else "good"
        release = self.release.setdefault(number, self.asked)
        part = self.parts[number, Part.TEMPLATE] = Process()
        if release == "hang" or self.fault(0.3):
            part.hung = True
        elif release == "busy" and self.rng.random() < 0.5:
            part.hung = part.busy = True
        elif release == "template" or self.fault():
            if self.rng.random() < 0.5:
                self.at(self.short(), TemplateFailed(number, "ImportError: no module named 'shop'"))
            if self.rng.random() < 0.8:
                self.at(self.rng.random() * 2, lambda: self.die_part(number, Part.TEMPLATE))
        else:
            self.at(self.rng.random(), lambda: self.template_ready(number))

    def template_ready(self, number: int) -> None:
        part = self.parts.get((number, Part.TEMPLATE))
        if part is None:
            return
        part.starting = False
        if self.fault(0.5):
            self.at(self.rng.expovariate(0.2), lambda: self.crash_part(number, Part.TEMPLATE))
        if self.fault(0.3):
            self.at(self.rng.expovariate(0.2), lambda: self.hang(self.parts.get((number, Part.TEMPLATE))))
        if self.fault(0.2):
            self.at(self.rng.random() * 9, TemplateFailed(number, "it has 2 threads"))
        self.step(TemplateReady(number))

    def hang(self, process: Process | None) -> None:
        if process is not None and self.faulty:
            process.hung = True

    def crash_part(self, number: int, kind: Part) -> None:
        if self.faulty:
            self.die_part(number, kind)

    def die_part(self, number: int, kind: Part) -> None:
        if self.parts.pop((number, kind), None) is None:
            return
        if kind is Part.PREPARE:
            self.step(PrepareEnded(number, "killed by signal 9"))
            return
        orphans = self.unforked.pop(number, [])
        for serial in orphans:
            self.at(self.short(), partial(self.die, serial, "its template is gone"))
        self.step(TemplateExited(number, "killed by signal 9"))

    def kill_part(self, action: KillPart) -> None:
        self.at(self.kill_s(), lambda: self.die_part(action.generation, action.part))

    def retire(self, action: RetireTemplate) -> None:
        part = self.parts.get((action.generation, Part.TEMPLATE))
        if part is not None and not part.hung and not self.fault():
            self.at(self.short(), lambda: self.die_part(action.generation, Part.TEMPLATE))

    def kill_s(self) -> float:
        return self.rng.random() * (KILL_MOST_S if self.faulty and self.rng.random() < 0.1 else 0.02)

    # --- workers ----------------------------------------------------------------------------------------------------

    def fork(self, action: Fork) -> None:
        serial, number = action.worker, action.generation
        worker = self.workers[serial] = Process()
        self.generation_of[serial] = number
        template = self.parts.get((number, Part.TEMPLATE))
        release = self.release[number]
        if template is None:
            self.at(self.short(), lambda: self.die(serial, "no template"))
        elif template.hung:
            worker.hung = True
            self.unforked.setdefault(number, []).append(serial)
        elif self.fault(0.5):
            self.at(self.short(), lambda: self.die(serial, "fork: out of memory"))
        elif release == "worker" or self.fault(0.5):
            self.at(self.short(), lambda: self.say(serial, WorkerFailed(serial, "ImportError: no 'shop'")))
            self.at(self.rng.random() + 1, lambda: self.die(serial, "exit status 1"))
        elif release == "busy" or self.fault(0.3):
            worker.hung, worker.busy = True, self.rng.random() < 0.7
        else:
            self.at(self.rng.random() * 1.5, lambda: self.worker_ready(serial))

    def say(self, serial: int, event: Event) -> None:
        if serial in self.workers:
            self.step(event)

    def worker_ready(self, serial: int) -> None:
        worker = self.workers.get(serial)
        if worker is None or worker.hung:
            return
        worker.starting = False
        if self.fault(0.3) or (self.faulty and self.release[self.generation_of[serial]] == "flaky"):
            self.at(self.rng.expovariate(1.0), lambda: self.crash(serial))
        if self.fault(0.3):
            self.at(self.rng.expovariate(0.2), lambda: self.hang(self.workers.get(serial)))
        self.step(WorkerReady(serial))

    def leave(self, serial: int) -> None:
        """It got a SIGTERM."""
        worker = self.workers.get(serial)
        if worker is None or worker.hung or worker.starting:
            return
        hears_s = self.short()
        self.at(hears_s, lambda: self.say(serial, WorkerLeaving(serial)))
        busy_s = self.rng.random() * self.rng.choice((0.01, 0.1, 2.0, 15.0))  # an idle one is gone before the next
        self.at(hears_s + busy_s, lambda: self.die(serial, "exit status 0"))

    def drain(self, action: Drain) -> None:
        if not self.fault(0.5):
            self.leave(action.worker)

    def quit(self, action: Quit) -> None:
        worker = self.workers.get(action.worker)
        if worker is not None and not worker.hung and not self.fault():
            self.at(self.short(), lambda: self.die(action.worker, "exit status 0"))

    def ping(self, action: Ping) -> None:
        worker = self.workers.get(action.worker)
        if worker is not None and not worker.hung and not self.fault(0.2):
            self.at(self.short(), lambda: self.say(action.worker, WorkerPonged(action.worker)))

    def kill(self, action: KillWorker) -> None:
        if action.worker not in self.unforked.get(self.generation_of[action.worker], ()):
            self.at(self.kill_s(), lambda: self.die(action.worker, "killed by signal 9"))

    def die(self, serial: int, reason: str = "killed by signal 9") -> None:
        if self.workers.pop(serial, None) is not None:
            for orders in self.unforked.values():
                if serial in orders:
                    orders.remove(serial)
            self.step(WorkerExited(serial, reason))

    def crash(self, serial: int) -> None:
        if self.faulty:
            self.die(serial, "killed by signal 11")

    def probe(self, action: Probe) -> None:
        starting = [part for (number, _), part in self.parts.items() if number == action.generation]
        starting += [w for serial, w in self.workers.items() if self.generation_of[serial] == action.generation]
        moved = any(process.starting and (process.busy or not process.hung) for process in starting)
        if not self.fault(0.1):
            self.at(0.0, Probed(action.generation, moved))

    # --- the story --------------------------------------------------------------------------------------------------

    def whole(self) -> bool:
        fleet = self.watched.fleet
        generation = fleet.generations.get(fleet.serving)
        if generation is None or len(fleet.generations) != 1:
            return False
        accepting = [w for w in fleet.workers.values() if w.phase is WorkerPhase.ACCEPTING]
        count = fleet.worker_count
        return generation.template.phase is PartPhase.READY and len(accepting) == count == len(fleet.workers)

    @property
    def whole_most_s(self) -> float:
        """Rule 8's bound: what is under way fails at its hard limit, its repair may too, then all rolls and drains."""
        return 25 * self.timeout_s + (self.most_workers + 1) * (self.timeout_s + self.grace_s) + 60

    @property
    def finish_most_s(self) -> float:
        """Rule 6's bound: grace, stacks, a repeated kill, a template that does not retire."""
        return self.grace_s + 0.5 + 2 * KILL_MOST_S + 5.0 + KILL_MOST_S + 2.0

    def tell(self) -> tuple[str, float]:
        """Run it all. How it ended, and how long that took after the faults."""
        self.asked = "good" if self.rng.random() < 0.85 else self.rng.choice(RELEASES)
        self.faulty = self.rng.random() < 0.3  # else the first start is spared, so that there is something to lose
        self.ask()
        self.run_until(self.start + 3.0, lambda: self.watched.serving > 0)
        self.faulty = True
        self.at(self.rng.expovariate(0.3), self.operate)
        stop = self.rng.random() < 0.3
        if self.run_until(self.now + self.rng.expovariate(0.05)):
            return "never served", 0.0
        if stop:
            return "stopped", self.stop()
        self.faulty = False
        began = self.now
        if not self.watched.serving or self.rng.random() < 0.5:
            self.asked = "good"
            self.ask()
        if not self.run_until(began + self.whole_most_s, self.whole):
            raise Broken(f"rule 8: not whole {self.whole_most_s} s after the last fault")
        took = self.now - began
        if self.watched.finished:
            return "never served", 0.0
        self.idle()
        self.stop()
        return "whole", took

    def idle(self) -> None:
        fleet = self.watched.fleet
        wake = fleet.wake_at()
        stuck_s = fleet.generations[fleet.serving].terms.stuck_timeout_s
        if (wake is None) != (stuck_s == 0):
            raise Broken(f"idle: it wakes at {wake}, stuck timeout {stuck_s}")

    def stop(self) -> float:
        """Ask for a stop, perhaps twice; faults go on if there are any."""
        began = self.now
        self.step(StopAsked(self.rng.random() < 0.3))
        if self.rng.random() < 0.3:
            self.at(self.rng.random() * 5, StopAsked(self.rng.random() < 0.5))
        if self.rng.random() < 0.3:
            self.at(self.rng.random(), self.ask)
        if not self.run_until(began + self.finish_most_s):
            raise Broken(f"rule 6: not finished {self.finish_most_s} s after the stop")
        if self.parts or self.workers:
            raise Broken(f"rule 7: left behind {self.parts} {self.workers}")
        return self.now - began


DO: dict[type[Action], Callable[[World, Any], None]] = {
    Prepare: World.prepare,
    StartTemplate: World.start_template,
    KillPart: World.kill_part,
    RetireTemplate: World.retire,
    Fork: World.fork,
    Drain: World.drain,
    Quit: World.quit,
    Ping: World.ping,
    KillWorker: World.kill,
    Probe: World.probe,
}
NOT_DONE = (Accept,)  # nothing follows from it in this world
