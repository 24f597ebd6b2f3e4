"""Events into facts: what each event says about the table, and nothing that follows from it. Pure; in the
master.

`RECORD` has a row for every event, `WORKER` a cell for every (phase, event) of a worker; "ignore" is written
out. An event about a worker or generation that is not in the table is stale and says nothing.
"""

from collections.abc import Callable

from graceserve.fleet.actions import Action, Note, Outcome
from graceserve.fleet.backoff import BACKOFF_CALM_S
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
from graceserve.fleet.state import (
    CANDIDATE,
    PROMOTED,
    WORKERS_MAX,
    FleetPhase,
    Generation,
    PartPhase,
    Phase,
    State,
    Worker,
    WorkerPhase,
)

LEAVE_CALM_S = 1.0  # one that leaves sooner after it was ready is not recycled but broken


def record(state: State, event: Event, now: float, out: list[Action]) -> None:
    """Note what has happened. `out` takes only `Note`s."""
    RECORD[type(event)](state, event, now, out)


# --- what the operator asks for -----------------------------------------------------------------------------


def _reload(s: State, event: ReloadAsked, now: float, out: list[Action]) -> None:
    number = s.next_generation
    s.next_generation += 1
    asked = Generation(number, Phase.WAITING, event.terms, now, tickets=(event.ticket,))
    asked.offset = _offset(s, event.terms)
    if s.phase is not FleetPhase.RUNNING:
        abandon(asked, Outcome.STOPPED, "a stop was asked for", now)
    elif (candidate := s.candidate()) is not None:
        abandon(candidate, Outcome.SUPERSEDED, f"superseded by generation {number}", now)
        candidate.superseded_by = number
    s.generations[number] = asked


def _offset(s: State, terms: Terms) -> int:
    """TTIN and TTOU are kept, unless the operator has chosen a new number of workers since."""
    for model in (s.candidate(), s.server()):
        if model is not None and model.terms.workers == terms.workers:
            return model.offset
    return 0


def _workers(s: State, event: WorkersChanged, now: float, out: list[Action]) -> None:
    for generation in (s.server(), s.candidate()):
        if generation is not None:
            before = generation.wanted
            after = min(max(1, before + event.delta), max(before, WORKERS_MAX))
            if after != before:
                generation.offset = after - generation.terms.workers


def _stop(s: State, event: StopAsked, now: float, out: list[Action]) -> None:
    model = s.server() or s.candidate()
    if s.phase is FleetPhase.RUNNING:
        s.stop_deadline = now + (model.terms.graceful_timeout_s if model is not None else 0.0)
        s.ping_at = None
    again = s.phase is not FleetPhase.RUNNING
    s.phase = FleetPhase.QUITTING if event.quick or again else FleetPhase.STOPPING
    for generation in s.generations.values():
        if generation.phase in CANDIDATE:
            abandon(generation, Outcome.STOPPED, "a stop was asked for", now)
        elif generation.phase in PROMOTED:
            generation.outcome = Outcome.STOPPED
            generation.reason = "a stop was asked for before the switch was complete"
            if generation.phase is Phase.SERVING:
                generation.phase, generation.since = Phase.RETIRING, now
    s.serving = 0


# --- what became of a generation ----------------------------------------------------------------------------


def abandon(generation: Generation, outcome: Outcome, reason: str, now: float) -> None:
    """A candidate that will never serve. The first cause wins."""
    if generation.phase in CANDIDATE:
        generation.phase, generation.since = Phase.FAILING, now
        generation.outcome, generation.reason = outcome, reason


def fail(s: State, generation: Generation, reason: str, now: float, out: list[Action]) -> None:
    """Something of a candidate failed."""
    if generation.phase not in CANDIDATE:
        return
    abandon(generation, Outcome.FAILED, reason, now)
    if generation.repair_of:
        s.repair = s.repair.failed(now, now)
        wait = _wait(s.repair.open_at - now)
        text = f"the repair of generation {generation.repair_of} failed: {reason}; tried again {wait}"
        out.append(Note(generation.number, text))


def lose_template(s: State, generation: Generation, phase: PartPhase, now: float) -> None:
    """A template can't be used any more: it is `GONE`, or to be killed (`DOOMED`)."""
    if generation.phase is Phase.SERVING and generation.template.phase is PartPhase.READY:
        s.repair = s.repair.failed(now, generation.since)
    generation.template.phase = phase
    generation.template.deadline = now if phase is PartPhase.DOOMED else None


def _prepare_ended(s: State, event: PrepareEnded, now: float, out: list[Action]) -> None:
    generation = s.generations.get(event.generation)
    if generation is None or not generation.prepare.alive:
        return
    generation.prepare.phase, generation.prepare.deadline = PartPhase.GONE, None
    if event.reason:
        fail(s, generation, event.reason, now, out)


def _template_ready(s: State, event: TemplateReady, now: float, out: list[Action]) -> None:
    generation = s.generations.get(event.generation)
    if generation is not None and generation.phase is Phase.STARTING:
        generation.template.phase = PartPhase.READY
        generation.phase, generation.since = Phase.BOOTING, now


def _template_failed(s: State, event: TemplateFailed, now: float, out: list[Action]) -> None:
    generation = s.generations.get(event.generation)
    if generation is None or not generation.template.alive:
        return
    if generation.phase in CANDIDATE:
        fail(s, generation, event.reason, now, out)
    elif generation.template.phase is PartPhase.READY:
        out.append(Note(generation.number, f"the template failed: {event.reason}"))
        lose_template(s, generation, PartPhase.DOOMED, now)


def _template_exited(s: State, event: TemplateExited, now: float, out: list[Action]) -> None:
    generation = s.generations.get(event.generation)
    if generation is None or not generation.template.alive:
        return
    if generation.phase is Phase.SERVING and generation.template.phase is PartPhase.READY:
        out.append(Note(generation.number, f"the template died: {event.reason}; its workers serve on"))
    lose_template(s, generation, PartPhase.GONE, now)
    fail(s, generation, event.reason, now, out)


def _probed(s: State, event: Probed, now: float, out: list[Action]) -> None:
    generation = s.generations.get(event.generation)
    if generation is not None and generation.probe_sent is not None:
        if event.moved:
            generation.moved_at = generation.probe_sent
        generation.probe_sent = None


# --- what became of a worker --------------------------------------------------------------------------------


def enter(worker: Worker, phase: WorkerPhase, now: float, deadline: float | None) -> None:
    worker.phase, worker.since, worker.deadline, worker.pinged_at = phase, now, deadline, None


def _worker(s: State, event: Event, now: float, out: list[Action]) -> None:
    worker = s.workers.get(event.worker)  # type: ignore[union-attr]  # only events about workers get here
    if worker is not None:
        WORKER[worker.phase][type(event)](s, worker, event, now, out)


def _ignore(s: State, worker: Worker, event: Event, now: float, out: list[Action]) -> None:
    """Stale, a repetition, or said by one whose end is decided."""


def _ready(s: State, worker: Worker, event: WorkerReady, now: float, out: list[Action]) -> None:
    enter(worker, WorkerPhase.READY, now, None)
    worker.ready_at = now
    generation = s.generations[worker.generation]
    if generation.phase is Phase.SERVING:
        generation.progress_at = now
        s.respawn = s.respawn.holds(now)


def _failed(s: State, worker: Worker, event: WorkerFailed, now: float, out: list[Action]) -> None:
    worker.reason = worker.reason or event.reason
    generation = s.generations[worker.generation]
    if generation.phase in CANDIDATE and worker.holds:
        fail(s, generation, event.reason, now, out)
    else:
        enter(worker, WorkerPhase.DOOMED, now, now)


def _leave(s: State, worker: Worker, event: WorkerLeaving, now: float, out: list[Action]) -> None:
    generation = s.generations[worker.generation]
    if generation.phase in CANDIDATE:
        fail(s, generation, f"worker {worker.serial} left before it was to serve", now, out)
        return
    proved = worker.ready_at is not None and now >= worker.ready_at + LEAVE_CALM_S
    if generation.phase is Phase.SERVING and not proved:
        s.respawn = s.respawn.failed(now, worker.born_at)
    enter(worker, WorkerPhase.DRAINING, now, now + generation.terms.graceful_timeout_s)
    worker.holds, worker.left = False, True


def _left(s: State, worker: Worker, event: WorkerLeaving, now: float, out: list[Action]) -> None:
    worker.left = True


def _ponged(s: State, worker: Worker, event: WorkerPonged, now: float, out: list[Action]) -> None:
    worker.pinged_at = None


def _exited(s: State, worker: Worker, event: WorkerExited, now: float, out: list[Action]) -> None:
    del s.workers[worker.serial]
    generation = s.generations[worker.generation]
    reason = worker.reason or event.reason
    if not worker.holds:
        return
    fail(s, generation, reason, now, out)
    if generation.phase is not Phase.SERVING:
        return
    proved = worker.ready_at is not None and now >= worker.ready_at + BACKOFF_CALM_S
    s.respawn = (s.respawn.ended if proved else s.respawn.failed)(now, worker.born_at)
    wait = _wait(s.respawn.open_at - now)
    if generation.template.phase is not PartPhase.READY:
        wait = "when there is a template again"
    out.append(Note(generation.number, f"{reason}; slot {worker.slot} is refilled {wait}"))


def _wait(delay_s: float) -> str:
    return f"in {round(delay_s, 1):g} s" if delay_s > 0 else "at once"


def _tick(s: State, event: Tick, now: float, out: list[Action]) -> None:
    """Time is in every event."""


_ENDING: dict[type[Event], Callable[..., None]] = {
    WorkerReady: _ignore,
    WorkerFailed: _ignore,
    WorkerLeaving: _ignore,
    WorkerPonged: _ignore,
    WorkerExited: _exited,
}

WORKER: dict[WorkerPhase, dict[type[Event], Callable[..., None]]] = {
    WorkerPhase.STARTING: {
        WorkerReady: _ready,
        WorkerFailed: _failed,
        WorkerLeaving: _leave,
        WorkerPonged: _ignore,
        WorkerExited: _exited,
    },
    WorkerPhase.READY: {
        WorkerReady: _ignore,
        WorkerFailed: _failed,
        WorkerLeaving: _leave,
        WorkerPonged: _ignore,
        WorkerExited: _exited,
    },
    WorkerPhase.ACCEPTING: {
        WorkerReady: _ignore,
        WorkerFailed: _failed,
        WorkerLeaving: _leave,
        WorkerPonged: _ponged,
        WorkerExited: _exited,
    },
    WorkerPhase.DRAINING: {
        WorkerReady: _ignore,
        WorkerFailed: _ignore,
        WorkerLeaving: _left,
        WorkerPonged: _ignore,
        WorkerExited: _exited,
    },
    WorkerPhase.QUITTING: _ENDING,
    WorkerPhase.DOOMED: _ENDING,
    WorkerPhase.KILLING: _ENDING,
}

RECORD: dict[type[Event], Callable[..., None]] = {
    ReloadAsked: _reload,
    WorkersChanged: _workers,
    StopAsked: _stop,
    PrepareEnded: _prepare_ended,
    TemplateReady: _template_ready,
    TemplateFailed: _template_failed,
    TemplateExited: _template_exited,
    WorkerReady: _worker,
    WorkerFailed: _worker,
    WorkerLeaving: _worker,
    WorkerPonged: _worker,
    WorkerExited: _worker,
    Probed: _probed,
    Tick: _tick,
}
