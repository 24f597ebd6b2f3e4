"""The nine rules of DESIGN.md section 3, and those of a roll, checked after every step of a fleet, in every test here.

`Watched` is a fleet with an observer. The observer keeps books of its own from the events that went in and the
actions that came out: which processes may exist, who was promoted, whose verdict is open. It never believes the fleet
about those.
"""

import json
from math import inf
from typing import Any

from graceserve.fleet.actions import (
    Accept,
    Action,
    Drain,
    DumpStack,
    Finish,
    Fork,
    Gone,
    KillPart,
    KillWorker,
    Note,
    Outcome,
    Part,
    Ping,
    Prepare,
    Probe,
    Promote,
    Quit,
    RetireTemplate,
    StartTemplate,
    Verdict,
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
    Tick,
    WorkerExited,
    WorkerFailed,
    WorkerLeaving,
    WorkerReady,
)
from graceserve.fleet.machine import Fleet
from graceserve.fleet.plan_end import VERDICT_TIMEOUT_S
from graceserve.fleet.plan_serving import PACE_S, PACED_MOST_S
from graceserve.fleet.plan_start import RETIRING_MAX, STARTUP_TIMES_MAX
from graceserve.fleet.state import CANDIDATE, STARTED, Generation, PartPhase, Phase, Worker, WorkerPhase

ABOUT_WORKER = (WorkerReady, WorkerFailed, WorkerLeaving, WorkerExited)
ABOUT_GENERATION = (TemplateReady, TemplateFailed, TemplateExited, PrepareEnded, Probed)
# Asked of everything after every step; Python 3.11 is slow to find a member of an Enum.
SERVING, RETIRING, FAILING = Phase.SERVING, Phase.RETIRING, Phase.FAILING
STARTING, READY = WorkerPhase.STARTING, WorkerPhase.READY
ACCEPTING, DRAINING = WorkerPhase.ACCEPTING, WorkerPhase.DRAINING
PART_ENDING = (PartPhase.RETIRING, PartPhase.DOOMED, PartPhase.KILLING)
WORKER_KILLED = (WorkerPhase.DOOMED, WorkerPhase.KILLING)
WORKER_ENDING = (DRAINING, WorkerPhase.QUITTING, *WORKER_KILLED)
LATE_S = 0.5  # rule 5 allows for late ticks in a world that has them


class Broken(AssertionError):
    """A rule does not hold."""


def expect(truth: object, rule: str, *facts: object) -> None:
    if not truth:
        raise Broken(f"{rule}: {' '.join(map(str, facts))}")


class Watched:
    """A fleet whose every step is checked. `deep` also checks what costs time: dump/load, planning twice."""

    def __init__(self, deep: bool = True) -> None:
        self.fleet = Fleet()
        self.deep = deep
        self.now = 0.0
        self.stopped = self.finished = False
        self.serving = 0  # by the last Promote
        self.open: set[int] = set()  # tickets without a verdict
        self.told: set[int] = set()
        self.parts: set[tuple[int, Part]] = set()  # template and prepare processes that may exist
        self.workers: dict[int, tuple[int, int]] = {}  # serial -> generation, slot: workers that may exist
        self.ready: set[int] = set()
        self.accepted: set[int] = set()
        self.ending: set[int] = set()  # workers that were drained, quit or killed, or left
        self.failed: set[int] = set()  # candidates that have lost a worker
        self.old = 0  # workers that accepted at the last Promote and are to leave
        self.drain_at = -inf  # of a roll: the next drain comes then, no sooner
        self.late_s = LATE_S

    def step(self, event: Event, now: float) -> list[Action]:
        expect(now >= self.now, "time goes forward", now, self.now)
        expect(not self.finished, "nothing after Finish")
        self.now = now
        candidate = self.concerns_candidate(event)
        early: list[Action] = []
        if candidate:  # rule 4: let time do its part first, so that what is left comes from the event alone
            early = self.one(Tick(), now)
            before = self.serving_now()
        if self.finished:
            return early
        actions = self.one(event, now)
        if candidate and not any(isinstance(action, Promote) for action in actions):
            expect(self.serving_now() == before, "rule 4", event, "changed the serving generation", actions)
        return early + actions

    def one(self, event: Event, now: float) -> list[Action]:
        self.saw(event)
        actions = self.fleet.step(event, now)
        expect(len(actions) < 2 or len(set(actions)) == len(actions), "an order is given once", actions)
        for action in actions:
            ACTIONS[type(action)](self, action)
        self.check(event)
        return actions

    # --- the books ---------------------------------------------------------------------------------------------

    def saw(self, event: Event) -> None:
        match event:
            case ReloadAsked(ticket):
                self.open.add(ticket)
            case StopAsked():
                self.stopped = True
            case PrepareEnded(generation):
                self.parts.discard((generation, Part.PREPARE))
            case TemplateExited(generation):
                self.parts.discard((generation, Part.TEMPLATE))
            case WorkerReady(worker) if worker in self.workers:
                self.ready.add(worker)
            case WorkerLeaving(worker):
                self.ending.add(worker)
            case WorkerExited(worker):
                generation, _ = self.workers.get(worker, (0, 0))
                if generation > self.serving and worker not in self.ending:
                    self.failed.add(generation)
                self.workers.pop(worker, None)
                self.ready.discard(worker)
            case _:
                pass

    def concerns_candidate(self, event: Event) -> bool:
        if self.serving == 0:
            return False
        if isinstance(event, ABOUT_WORKER):
            return self.workers.get(event.worker, (0, 0))[0] > self.serving
        return isinstance(event, ABOUT_GENERATION) and event.generation > self.serving

    def serving_now(self) -> Any:
        generation = self.fleet.generations.get(self.fleet.serving)
        if generation is None:
            return None
        g, of = generation, self.fleet.serving
        workers = [
            (w.serial, w.slot, w.phase, w.since, w.deadline, w.holds, w.left, w.successor, w.pinged_at, w.reason)
            for w in self.fleet.workers.values()
            if w.generation == of
        ]
        return g.phase, g.since, g.offset, g.tickets, g.template.phase, g.template.deadline, g.probe_at, workers

    # --- what an action must not be -------------------------------------------------------------------------------

    def must_run(self, action: Action) -> None:
        expect(not self.stopped, "rule 6", action, "after a stop")

    def process_order(self, action: Prepare | StartTemplate) -> None:
        self.must_run(action)
        part = Part.PREPARE if isinstance(action, Prepare) else Part.TEMPLATE
        expect((action.generation, part) not in self.parts, "started twice", action)
        for other, _ in self.parts:
            expect(other <= self.serving or other == action.generation, "rule 2", action, "beside", other)
        for other, _ in self.workers.values():
            expect(other <= self.serving or other == action.generation, "rule 2", action, "beside", other)
        self.parts.add((action.generation, part))

    def fork(self, action: Fork) -> None:
        self.must_run(action)
        expect(action.generation not in self.failed, "a candidate goes on without one of its workers", action)
        expect(action.worker not in self.workers and action.worker not in self.ready, "serials", action)
        expect((action.generation, Part.TEMPLATE) in self.parts, "no template", action)
        for worker, (generation, slot) in self.workers.items():
            taken = (generation, slot) == (action.generation, action.slot) and worker not in self.ending
            expect(not taken, "two workers in a slot", action, worker)
        self.workers[action.worker] = (action.generation, action.slot)
        server = self.fleet.generations.get(action.generation)
        promoted = [number for number, _ in self.workers.values() if number <= self.serving]
        if server is not None and server.number == self.serving and min(promoted) < self.serving:
            most = server.wanted + server.terms.surge
            expect(server.terms.surge <= 0 or len(promoted) <= most, "surge", action, len(promoted), most)

    def promote(self, action: Promote) -> None:
        self.must_run(action)
        expect(action.generation not in self.failed, "rule 3: a worker of it has died", action)
        expect(action.previous == self.serving, "rule 1", action, self.serving)
        expect(action.generation > self.serving, "rule 1: numbers go up", action)
        wanted = self.fleet.worker_count
        surge = self.fleet.generations[action.generation].terms.surge
        goal = min(wanted, surge) if surge > 0 and self.serving else wanted
        for slot in range(1, goal + 1):
            expect(any(
                self.workers.get(worker) == (action.generation, slot) and worker not in self.ending
                for worker in self.ready
            ), "rule 3", action, "slot", slot, "is not ready")  # fmt: skip
        self.serving = action.generation
        self.old, self.drain_at = len(self.accepted & self.workers.keys() - self.ending), -inf

    def accept(self, action: Accept) -> None:
        self.must_run(action)
        expect(action.worker in self.ready and action.worker not in self.accepted, "accept", action)
        expect(self.workers[action.worker][0] == self.serving, "accept of another generation", action)
        self.accepted.add(action.worker)

    def end(self, action: Drain | Quit | KillWorker) -> None:
        expect(action.worker in self.workers, "no such worker", action)
        if isinstance(action, Drain):
            known = action.worker in self.accepted or action.worker in self.ending
            expect(known, "drain of one that never accepted", action)
            expect(action.successor == (0 if self.stopped else self.serving), "successor", action)
            expect(action.grace_s >= 0, "grace", action)
            old = self.workers[action.worker][0] < self.serving
            if old and action.worker not in self.ending and not self.stopped:
                self.roll(action)
        self.ending.add(action.worker)

    def roll(self, action: Drain) -> None:
        """An old worker is to leave: one at a time, in order, no more than the new ones make up for."""
        expect(self.now >= self.drain_at, "pace", action, self.drain_at)
        generations, server = self.fleet.generations.values(), self.fleet.generations[self.serving]
        pace_s = min(PACE_S, PACED_MOST_S / sum(g.wanted for g in generations if g.phase is RETIRING))
        expect(pace_s * self.old <= PACED_MOST_S, "a roll takes too long", action, self.old)
        self.drain_at = self.now + pace_s
        drained = self.fleet.workers[action.worker]
        stay = [w for w in self.fleet.workers.values() if w.phase is ACCEPTING and w.generation < self.serving]
        for worker in stay:
            later = (worker.generation, -worker.slot) > (drained.generation, -drained.slot)
            expect(later, "oldest generation first, highest slot first", action, worker)
        if server.terms.surge > 0 and self.now < server.progress_at + server.terms.startup_timeout_s:
            new = [w for w in self.accepted - self.ending if self.workers.get(w, (0, 0))[0] == self.serving]
            expect(len(stay) + len(new) >= server.wanted, "too few accept", action, stay, new)

    def ping(self, action: Ping) -> None:
        expect(action.worker in self.accepted and action.worker not in self.ending, "ping", action)

    def dump_stack(self, action: DumpStack) -> None:
        if action.worker:
            expect(action.worker in self.workers, "no such worker", action)
            self.ending.add(action.worker)
        else:
            expect((action.generation, Part.TEMPLATE) in self.parts, "no such template", action)

    def end_part(self, action: KillPart | RetireTemplate) -> None:
        part = action.part if isinstance(action, KillPart) else Part.TEMPLATE
        expect((action.generation, part) in self.parts, "no such process", action)
        if isinstance(action, RetireTemplate):
            last = all(generation != action.generation for generation, _ in self.workers.values())
            expect(last, "the template exits last", action)

    def verdict(self, action: Verdict) -> None:
        expect(action.ticket in self.open and action.ticket not in self.told, "one verdict each", action)
        self.open.discard(action.ticket)
        self.told.add(action.ticket)
        if action.outcome is Outcome.SWITCHED:
            expect(0 < action.generation <= self.serving, "switched but not promoted", action)
            for worker, (generation, _) in self.workers.items():
                old = generation < action.generation and worker in self.accepted
                expect(not old or worker in self.ending, "an older one still accepts", action, worker)
        elif action.outcome is Outcome.STOPPED:
            expect(self.stopped, "stopped without a stop", action)
        else:
            expect(action.generation == 0 or action.generation != self.serving, "it serves", action)
            expect(action.outcome is Outcome.FAILED or action.superseded_by, "by whom", action)
            failed = self.fleet.generations.get(action.generation)
            if action.outcome is Outcome.FAILED and failed is not None:  # not Gone yet: only for want of time
                late = self.now >= failed.since + VERDICT_TIMEOUT_S
                expect(late, "failed, but something is left behind", action)

    def gone(self, action: Gone) -> None:
        left: list[int | Part] = [w for w, (number, _) in self.workers.items() if number == action.generation]
        left += [part for generation, part in self.parts if generation == action.generation]
        expect(not left, "gone but not all", action, left)
        expect(action.generation != self.serving or self.stopped, "rule 1", action)

    def finish(self, action: Finish) -> None:
        expect(not self.finished, "finish once")
        expect(not self.parts and not self.workers, "rule 7", self.parts, self.workers)
        expect(self.stopped or not self.serving, "rule 1: finished while serving")
        expect(action.code == (0 if self.stopped else 1), "exit code", action)
        expect(not self.open, "open tickets", self.open)
        self.finished = True

    def probe(self, action: Probe) -> None:
        expect(any(g == action.generation for g, _ in [*self.parts, *self.workers.values()]), "probe", action)

    def nothing(self, action: Note) -> None:
        expect(action.text and "\n" not in action.text, "one line", action)

    # --- what must hold after a step -------------------------------------------------------------------------------

    def check(self, event: Event) -> None:
        fleet = self.fleet
        candidates, serving = [], []
        for g in fleet.generations.values():
            if g.phase in CANDIDATE:
                candidates.append(g.number)
            elif g.phase is SERVING:
                serving.append(g.number)
        expect(len(candidates) <= 1, "rule 2", candidates)
        expect(serving == ([self.serving] if self.serving and not self.stopped else []), "rule 1", serving)
        expect(fleet.workers.keys() == self.workers.keys(), "workers", fleet.workers, self.workers)
        expect(self.finished == fleet.finished, "finished")
        self.deadlines(max(candidates, default=0))
        if self.deep:
            wake = fleet.wake_at()
            expect(fleet.plan(self.now) == [], "planning twice", event)
            expect(fleet.wake_at() == wake, "planning twice wakes at another time", event, wake)
            dump = fleet.dump()
            expect(Fleet.load(json.loads(json.dumps(dump))) == fleet, "rule 9", dump)
            expect(Fleet.load({**dump, "of a newer version": [1]}) == fleet, "rule 9, unknown key")

    def deadlines(self, candidate: int) -> None:
        """Rule 5."""
        fleet, now, wake = self.fleet, self.now, self.fleet.wake_at()
        expect(wake is None or wake > now, "rule 5: it would wake for ever", wake, now)
        limits: list[float | None] = []
        crews: dict[int, list[Worker]] = {number: [] for number in fleet.generations}
        heir = 0 if self.stopped else self.serving
        for worker in fleet.workers.values():
            crews[worker.generation].append(worker)
            if worker.phase in WORKER_ENDING:
                limits.append(worker.deadline)
                draining = worker.phase is DRAINING
                expect(not draining or worker.successor == heir, "a drainer hands over to those who leave", worker)
            elif worker.phase is READY:
                expect(worker.generation == candidate, "rule 5: ready", worker)
        for number, crew in crews.items():
            limits += self.generation_limits(fleet.generations[number], crew)
        for limit in limits:
            if limit is None or wake is None or wake > limit:
                raise Broken(f"rule 5: {limits} {wake}")

    def generation_limits(self, g: Generation, workers: list[Worker]) -> list[float | None]:
        limits = [part.deadline for part in (g.template, g.prepare) if part.phase in PART_ENDING]
        if g.phase is SERVING:
            starting = [worker for worker in workers if worker.phase is STARTING]
            for worker in starting:
                self.starts_in_time(g, worker.born_at)
            limits += [g.probe_at] if starting else []
            if g.template.phase is not PartPhase.READY and self.fleet.candidate == 0:
                limits.append(self.fleet._state.repair.open_at)
        elif g.phase in STARTED:
            limits.append(g.probe_at)
            self.starts_in_time(g, g.started_at)
        elif g.phase is Phase.WAITING:
            phases = [other.phase for other in self.fleet.generations.values()]
            expect(FAILING in phases or phases.count(RETIRING) >= RETIRING_MAX, "rule 5", g)
        elif g.phase is FAILING:
            expect(workers or limits or g.tickets == (), "rule 5: nothing fails", g)
            busy = [w for w in workers if w.phase not in WORKER_KILLED]
            expect(not busy, "rule 5: a failed generation still works", busy)
        elif g.phase is RETIRING:
            if any(w.phase is ACCEPTING for w in workers):
                limits.append(self.drained_by())
            older = any(w.generation < g.number for w in self.fleet.workers.values())
            expect(workers or limits or (g.tickets and older), "rule 5: a generation retires without an end", g)
        return limits

    def drained_by(self) -> float:
        """When the next old worker must leave. Only what takes its place, or time without such, is waited for."""
        server = self.fleet.generations[self.serving]
        stalled_at = server.progress_at + server.terms.startup_timeout_s
        accepting = [worker for worker in self.fleet.workers.values() if worker.phase is ACCEPTING]
        waits = server.terms.surge > 0 and len(accepting) <= server.wanted and self.now < stalled_at
        return stalled_at if waits else self.drain_at

    def starts_in_time(self, g: Generation, since: float) -> None:
        timeout_s = g.terms.startup_timeout_s
        most_s = STARTUP_TIMES_MAX * timeout_s + timeout_s / 4 + self.late_s
        expect(self.now - since <= most_s, "rule 5: it starts for too long", g)

    def reload(self) -> None:
        """Re-exec: the fleet goes on from its dump."""
        data = json.loads(json.dumps(self.fleet.dump()))
        data["future"] = {"key": 1}
        fleet = Fleet.load(data)
        expect(fleet == self.fleet, "rule 9")
        self.fleet = fleet


ACTIONS: dict[type, Any] = {
    Prepare: Watched.process_order,
    StartTemplate: Watched.process_order,
    Fork: Watched.fork,
    Probe: Watched.probe,
    Promote: Watched.promote,
    Accept: Watched.accept,
    Drain: Watched.end,
    Quit: Watched.end,
    Ping: Watched.ping,
    DumpStack: Watched.dump_stack,
    KillWorker: Watched.end,
    KillPart: Watched.end_part,
    RetireTemplate: Watched.end_part,
    Verdict: Watched.verdict,
    Gone: Watched.gone,
    Note: Watched.nothing,
    Finish: Watched.finish,
}
