"""The one table of generations and workers, and the questions asked of it. Pure; runs in the master.

`record` and the `plan` modules are the only ones that change it. Every record has a default for every field,
so that a dump of an older or newer graceserve still loads (see `codec`). `deadline` is monotonic; None where
a phase rests.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from graceserve.fleet.actions import Outcome
from graceserve.fleet.backoff import REPAIR, RESPAWN, Backoff
from graceserve.fleet.events import Terms

WORKERS_MAX = 1000  # of a generation, by TTIN: beyond this it is a stuck key


class FleetPhase(Enum):
    """Of the whole service."""

    RUNNING = "running"
    STOPPING = "stopping"  # workers drain
    QUITTING = "quitting"  # workers were told to quit
    FINISHED = "finished"


class Phase(Enum):
    """Of a generation."""

    WAITING = "waiting"  # asked for; starts when what failed before it is gone
    PREPARING = "preparing"  # the prepare command runs
    STARTING = "starting"  # the template starts
    BOOTING = "booting"  # the workers start
    SERVING = "serving"  # promoted
    RETIRING = "retiring"  # a newer one serves, or a stop was asked for
    FAILING = "failing"  # never served and never will: its processes are being killed


# Tuples: `in` compares by identity; an Enum hashes in Python.
CANDIDATE = (Phase.WAITING, Phase.PREPARING, Phase.STARTING, Phase.BOOTING)
STARTED = (Phase.PREPARING, Phase.STARTING, Phase.BOOTING)
PROMOTED = (Phase.SERVING, Phase.RETIRING)


class PartPhase(Enum):
    """Of a template or a prepare command."""

    ABSENT = "absent"  # not started yet
    RUNNING = "running"  # not ready yet
    READY = "ready"  # a template that can fork
    RETIRING = "retiring"  # asked to exit
    DOOMED = "doomed"  # killed at the deadline, after its stacks were logged
    KILLING = "killing"
    GONE = "gone"


NO_PROCESS = (PartPhase.ABSENT, PartPhase.GONE)
PART_ENDING = (PartPhase.RETIRING, PartPhase.DOOMED, PartPhase.KILLING)
UNHURT = (PartPhase.RUNNING, PartPhase.READY, PartPhase.RETIRING)  # no kill is on its way


class WorkerPhase(Enum):
    """Of a worker. One that is gone is not in the table."""

    STARTING = "starting"  # fork was ordered
    READY = "ready"  # could serve, must not accept yet
    ACCEPTING = "accepting"
    DRAINING = "draining"
    QUITTING = "quitting"  # told to end now
    DOOMED = "doomed"  # killed at the deadline, after its stacks were logged
    KILLING = "killing"


ENDING = (WorkerPhase.DRAINING, WorkerPhase.QUITTING, WorkerPhase.DOOMED, WorkerPhase.KILLING)


@dataclass(slots=True)
class PartState:
    """A template or prepare command of a generation."""

    phase: PartPhase = PartPhase.ABSENT
    deadline: float | None = None

    @property
    def alive(self) -> bool:
        return self.phase not in NO_PROCESS


@dataclass(slots=True)
class Worker:
    serial: int = 0
    generation: int = 0
    slot: int = 0
    phase: WorkerPhase = WorkerPhase.STARTING
    since: float = 0.0  # of the phase
    deadline: float | None = None
    born_at: float = 0.0  # the fork was ordered
    ready_at: float | None = None
    holds: bool = True  # its slot counts as filled: nobody else is forked for it
    left: bool = False  # it said that it does not accept any more
    successor: int | None = None  # of the last Drain that it was sent
    pinged_at: float | None = None  # the ping that it has not answered
    reason: str = ""  # what it or we found wrong with it first


@dataclass(slots=True)
class Generation:
    number: int = 0
    phase: Phase = Phase.FAILING
    terms: Terms = field(default_factory=Terms)
    since: float = 0.0  # of the phase
    started_at: float = 0.0  # its first process was ordered
    offset: int = 0  # TTIN and TTOU
    tickets: tuple[int, ...] = ()  # callers that wait for a verdict
    repair_of: int = 0
    prepare: PartState = field(default_factory=PartState)
    template: PartState = field(default_factory=PartState)
    outcome: Outcome = Outcome.SWITCHED  # what the tickets will be told
    reason: str = ""
    superseded_by: int = 0
    probe_at: float | None = None  # the next look at its starting processes
    probe_sent: float | None = None  # the one that is not answered yet
    moved_at: float = 0.0  # they were last seen to make progress
    progress_at: float = 0.0  # since promote: the last worker that became ready
    drain_at: float = 0.0  # since promote: no old worker is drained before; one that has gone can't say when it was

    @property
    def wanted(self) -> int:
        return max(1, self.terms.workers + self.offset)

    @property
    def started(self) -> bool:
        """Whether it ever had a process."""
        return self.template.phase is not PartPhase.ABSENT or self.prepare.phase is not PartPhase.ABSENT


@dataclass(slots=True)
class State:
    phase: FleetPhase = FleetPhase.RUNNING
    serving: int = 0
    next_generation: int = 1
    next_worker: int = 1
    generations: dict[int, Generation] = field(default_factory=dict)
    workers: dict[int, Worker] = field(default_factory=dict)
    respawn: Backoff = RESPAWN  # of the serving generation's workers
    repair: Backoff = REPAIR  # of the serving generation's template
    ping_at: float | None = None
    stop_deadline: float | None = None  # of draining, once a stop was asked for
    wake: float | None = 0.0  # when the plan wants to be made again; at once, if a dump does not say

    def candidate(self) -> Generation | None:
        for generation in self.generations.values():
            if generation.phase in CANDIDATE:
                return generation
        return None

    def server(self) -> Generation | None:
        return self.generations.get(self.serving)

    def workers_of(self, number: int) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.generation == number]

    def retiring(self) -> set[int]:
        return {number for number, gen in self.generations.items() if gen.phase is Phase.RETIRING}

    def goal(self, candidate: Generation) -> int:
        """How many workers of the candidate must be ready before it is promoted."""
        surge = candidate.terms.surge
        return min(candidate.wanted, surge) if surge > 0 and self.serving else candidate.wanted

    def occupied(self, generation: Generation) -> bool:
        """Whether a process of the generation is left."""
        if generation.template.alive or generation.prepare.alive:
            return True
        return any(worker.generation == generation.number for worker in self.workers.values())


def free_slots(workers: Iterable[Worker], wanted: int) -> list[int]:
    """The slots that nobody fills, lowest first."""
    held = {worker.slot for worker in workers if worker.holds}
    return [slot for slot in range(1, wanted + 1) if slot not in held]


# --- after loading a dump that lacked keys ------------------------------------------------------------------


def mend(s: State) -> None:
    """Nothing without an owner or a deadline, one serving generation at most, no number given twice."""
    for serial, worker in s.workers.items():
        worker.serial = serial
        s.generations.setdefault(worker.generation, Generation(worker.generation))
        if worker.phase in ENDING and worker.deadline is None:
            worker.deadline = 0.0
    for number, generation in s.generations.items():
        generation.number = number
        for part in (generation.prepare, generation.template):
            if part.phase in PART_ENDING and part.deadline is None:
                part.deadline = 0.0
    serving = [number for number, gen in s.generations.items() if gen.phase is Phase.SERVING]
    s.serving = s.serving if s.serving in serving else max(serving, default=0)
    for number in serving:
        if number != s.serving:
            s.generations[number].phase = Phase.RETIRING
    if s.phase in (FleetPhase.STOPPING, FleetPhase.QUITTING) and s.stop_deadline is None:
        s.stop_deadline = 0.0
    s.next_generation = max(s.next_generation, 1 + max(s.generations, default=0))
    s.next_worker = max(s.next_worker, 1 + max(s.workers, default=0))
