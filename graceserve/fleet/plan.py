"""What every part of the plan uses: the clock of one step, the orders so far, and how processes are ended.
Pure.

`due(t)` is both the question whether `t` has come and the promise to wake at it, so `wake_at()` can't
disagree with the plan. An order goes out in the same place where the table is marked with it; therefore a
second look finds nothing to do. The machine looks again after every `order`, and until there was none; an order
after which no part of the plan that had its turn would do anything else is `say`, and costs no other look.
"""

from dataclasses import dataclass, field
from math import inf

from graceserve.fleet.actions import Action, DumpStack, Fork, KillPart, KillWorker, Part
from graceserve.fleet.record import enter
from graceserve.fleet.state import Generation, PartPhase, PartState, State, Worker, WorkerPhase

DUMP_S = 0.5  # between asking for the stacks and the kill
KILL_AGAIN_S = 5.0  # a kill that nothing came of is repeated
EPSILON_S = 1e-6  # sums of quarters are not exact


@dataclass(slots=True)
class Plan:
    """One step's planning. Mutable; lives for the step only."""

    state: State
    now: float
    out: list[Action] = field(default_factory=list)
    wake: float = inf
    again: bool = True

    def order(self, action: Action) -> None:
        self.out.append(action)
        self.again = True

    def say(self, action: Action) -> None:
        """An order that calls for no other look: what it set in the table is for later parts, or none."""
        self.out.append(action)

    def due(self, at: float | None) -> bool:
        """Whether `at` has come; if it has not, the fleet wakes at it."""
        if at is None:
            return False
        if self.now >= at:
            return True
        self.wake = min(self.wake, at)
        return False

    def fork(self, generation: Generation, slot: int) -> None:
        serial = self.state.next_worker
        self.state.next_worker += 1
        self.state.workers[serial] = Worker(
            serial, generation.number, slot, WorkerPhase.STARTING, self.now, born_at=self.now
        )
        self.say(Fork(generation.number, serial, slot))

    def kill(self, worker: Worker) -> None:
        enter(worker, WorkerPhase.KILLING, self.now, self.now + KILL_AGAIN_S)
        self.order(KillWorker(worker.serial))

    def doom(self, worker: Worker, reason: str) -> None:
        """Log the stacks, then kill."""
        enter(worker, WorkerPhase.DOOMED, self.now, self.now + DUMP_S)
        worker.reason = worker.reason or reason
        self.order(DumpStack(worker.generation, worker.serial, reason))

    def kill_part(self, generation: Generation, part: Part) -> None:
        record = part_of(generation, part)
        record.phase, record.deadline = PartPhase.KILLING, self.now + KILL_AGAIN_S
        self.order(KillPart(generation.number, part))


def part_of(generation: Generation, part: Part) -> PartState:
    return generation.prepare if part is Part.PREPARE else generation.template


def seconds(value: float) -> str:
    """For a line of log: 60, 0.5, 12.3."""
    return f"{round(value, 1):g} s"
