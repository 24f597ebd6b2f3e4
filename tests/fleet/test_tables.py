"""Every (state, event) cell, written out: which orders it gives, and where it leads. "." is: nothing at all."""

import pytest

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
from graceserve.fleet.record import RECORD, WORKER
from graceserve.fleet.state import FleetPhase, PartPhase, Phase, WorkerPhase
from tests.fleet.rules import Watched

TERMS = Terms(workers=1, graceful_timeout_s=10.0, stuck_timeout_s=0.0, prepare=True)

# Roads to each state: what happens on the way. Generation 1 serves with worker 1; 2 is the candidate with worker 2.
BOOT: list[Event] = [ReloadAsked(1, TERMS), PrepareEnded(1, ""), TemplateReady(1), WorkerReady(1)]
ASK = [*BOOT, ReloadAsked(2, TERMS)]
CANDIDATE = [*ASK, PrepareEnded(2, ""), TemplateReady(2)]
REPLACEMENT = [*BOOT, WorkerExited(1, "x")]  # worker 2 of generation 1 starts
PROMOTED = [*CANDIDATE, WorkerReady(2)]

GENERATION_ROADS: dict[Phase, list[Event]] = {  # the generation in question is always 2
    Phase.WAITING: [ReloadAsked(1, TERMS), ReloadAsked(2, TERMS)],
    Phase.PREPARING: ASK,
    Phase.STARTING: CANDIDATE[:-1],
    Phase.BOOTING: CANDIDATE,
    Phase.SERVING: PROMOTED,
    Phase.RETIRING: [*PROMOTED, StopAsked(False)],
    Phase.FAILING: [*CANDIDATE, TemplateFailed(2, "bad")],
}
KILL_BOOTING = "KillWorker KillPart"
GENERATION_CELLS = {
    (Phase.WAITING, PrepareEnded(2, "")): ".",
    (Phase.WAITING, PrepareEnded(2, "bad")): ".",
    (Phase.WAITING, TemplateReady(2)): ".",
    (Phase.WAITING, TemplateFailed(2, "bad")): ".",
    (Phase.WAITING, TemplateExited(2, "bad")): ".",
    (Phase.WAITING, Probed(2, True)): ".",
    (Phase.PREPARING, PrepareEnded(2, "")): "StartTemplate -> starting",
    (Phase.PREPARING, PrepareEnded(2, "bad")): "Verdict Gone",
    (Phase.PREPARING, TemplateReady(2)): ".",
    (Phase.PREPARING, TemplateFailed(2, "bad")): ".",
    (Phase.PREPARING, TemplateExited(2, "bad")): ".",
    (Phase.PREPARING, Probed(2, True)): ".",
    (Phase.STARTING, PrepareEnded(2, "")): ".",
    (Phase.STARTING, PrepareEnded(2, "bad")): ".",
    (Phase.STARTING, TemplateReady(2)): "Fork -> booting",
    (Phase.STARTING, TemplateFailed(2, "bad")): "KillPart -> failing",
    (Phase.STARTING, TemplateExited(2, "bad")): "Verdict Gone",
    (Phase.STARTING, Probed(2, True)): ".",
    (Phase.BOOTING, PrepareEnded(2, "")): ".",
    (Phase.BOOTING, PrepareEnded(2, "bad")): ".",
    (Phase.BOOTING, TemplateReady(2)): ".",
    (Phase.BOOTING, TemplateFailed(2, "bad")): f"{KILL_BOOTING} -> failing",
    (Phase.BOOTING, TemplateExited(2, "bad")): "KillWorker -> failing",
    (Phase.BOOTING, Probed(2, True)): ".",
    (Phase.SERVING, PrepareEnded(2, "")): ".",
    (Phase.SERVING, PrepareEnded(2, "bad")): ".",
    (Phase.SERVING, TemplateReady(2)): ".",
    (Phase.SERVING, TemplateFailed(2, "bad")): "Note StartTemplate KillPart",
    (Phase.SERVING, TemplateExited(2, "bad")): "Note StartTemplate",
    (Phase.SERVING, Probed(2, True)): ".",
    (Phase.RETIRING, PrepareEnded(2, "")): ".",
    (Phase.RETIRING, PrepareEnded(2, "bad")): ".",
    (Phase.RETIRING, TemplateReady(2)): ".",
    (Phase.RETIRING, TemplateFailed(2, "bad")): "Note KillPart",
    (Phase.RETIRING, TemplateExited(2, "bad")): ".",
    (Phase.RETIRING, Probed(2, True)): ".",
    (Phase.FAILING, PrepareEnded(2, "")): ".",
    (Phase.FAILING, PrepareEnded(2, "bad")): ".",
    (Phase.FAILING, TemplateReady(2)): ".",
    (Phase.FAILING, TemplateFailed(2, "bad")): ".",
    (Phase.FAILING, TemplateExited(2, "bad")): ".",
    (Phase.FAILING, Probed(2, True)): ".",
}

# The worker in question, and the road to it.
WORKER_ROADS: dict[str, tuple[int, list[Event]]] = {
    "candidate starting": (2, CANDIDATE),
    "candidate ready": (2, [*BOOT, WorkersChanged(1), ReloadAsked(2, TERMS), PrepareEnded(2, ""),
                            TemplateReady(2), WorkerReady(3)]),
    "serving starting": (2, REPLACEMENT),
    "serving accepting": (1, BOOT),
    "old draining": (1, PROMOTED),
    "stopping quitting": (1, [*BOOT, StopAsked(True)]),
    "failed killing": (2, [*CANDIDATE, TemplateFailed(2, "bad")]),
    "serving doomed": (1, [*BOOT, WorkerLeaving(1), Tick()]),  # the tick comes at the drain deadline
}  # fmt: skip
WORKER_ROADS["candidate ready"] = (3, WORKER_ROADS["candidate ready"][1])
WORKER_CELLS = {
    ("candidate starting", WorkerReady): "Promote Accept Drain -> accepting",
    ("candidate starting", WorkerFailed): f"{KILL_BOOTING} -> killing",
    ("candidate starting", WorkerLeaving): f"{KILL_BOOTING} -> killing",
    ("candidate starting", WorkerPonged): ".",
    ("candidate starting", WorkerExited): "KillPart -> none",
    ("candidate ready", WorkerReady): ".",
    ("candidate ready", WorkerFailed): "KillWorker KillWorker KillPart -> killing",
    ("candidate ready", WorkerLeaving): "KillWorker KillWorker KillPart -> killing",
    ("candidate ready", WorkerPonged): ".",
    ("candidate ready", WorkerExited): "KillWorker KillPart -> none",
    ("serving starting", WorkerReady): "Accept -> accepting",
    ("serving starting", WorkerFailed): "KillWorker -> killing",
    ("serving starting", WorkerLeaving): "Drain -> draining",  # and its successor waits for the backoff
    ("serving starting", WorkerPonged): ".",
    ("serving starting", WorkerExited): "Note -> none",  # the second round waits
    ("serving accepting", WorkerReady): ".",
    ("serving accepting", WorkerFailed): "KillWorker -> killing",
    ("serving accepting", WorkerLeaving): "Drain Fork -> draining",
    ("serving accepting", WorkerPonged): ".",
    ("serving accepting", WorkerExited): "Note Fork -> none",
    ("old draining", WorkerReady): ".",
    ("old draining", WorkerFailed): ".",
    ("old draining", WorkerLeaving): "Verdict",
    ("old draining", WorkerPonged): ".",
    ("old draining", WorkerExited): "RetireTemplate Verdict -> none",
    ("stopping quitting", WorkerReady): ".",
    ("stopping quitting", WorkerFailed): ".",
    ("stopping quitting", WorkerLeaving): ".",
    ("stopping quitting", WorkerPonged): ".",
    ("stopping quitting", WorkerExited): "-> none",
    ("failed killing", WorkerReady): ".",
    ("failed killing", WorkerFailed): ".",
    ("failed killing", WorkerLeaving): ".",
    ("failed killing", WorkerPonged): ".",
    ("failed killing", WorkerExited): "-> none",
    ("serving doomed", WorkerReady): ".",
    ("serving doomed", WorkerFailed): ".",
    ("serving doomed", WorkerLeaving): ".",
    ("serving doomed", WorkerPonged): ".",
    ("serving doomed", WorkerExited): "-> none",
}

# What people ask for, in each situation.
OPERATOR_ROADS: dict[str, list[Event]] = {
    "nothing": [],
    "first boot": CANDIDATE[:3],
    "serving": BOOT,
    "candidate": CANDIDATE,
    "draining old": PROMOTED,
    "stopping": [*BOOT, StopAsked(False)],
}
OPERATOR_CELLS = {
    ("nothing", ReloadAsked(9, TERMS)): "Prepare",
    ("nothing", WorkersChanged(1)): ".",
    ("nothing", WorkersChanged(-1)): ".",
    ("nothing", StopAsked(False)): "Finish",
    ("nothing", StopAsked(True)): "Finish",
    ("first boot", ReloadAsked(9, TERMS)): "KillWorker KillPart Verdict",
    ("first boot", WorkersChanged(1)): "Fork",
    ("first boot", WorkersChanged(-1)): ".",
    ("first boot", StopAsked(False)): "KillWorker KillPart Verdict",
    ("first boot", StopAsked(True)): "KillPart KillWorker Verdict",
    ("serving", ReloadAsked(9, TERMS)): "Prepare",
    ("serving", WorkersChanged(1)): "Fork",
    ("serving", WorkersChanged(-1)): ".",
    ("serving", StopAsked(False)): "Drain",
    ("serving", StopAsked(True)): "Quit KillPart",
    ("candidate", ReloadAsked(9, TERMS)): "KillWorker KillPart Verdict",
    ("candidate", WorkersChanged(1)): "Fork Fork",
    ("candidate", WorkersChanged(-1)): ".",
    ("candidate", StopAsked(False)): "Drain KillWorker KillPart Verdict",
    ("candidate", StopAsked(True)): "Quit KillPart KillPart KillWorker Verdict",
    ("draining old", ReloadAsked(9, TERMS)): "Prepare",
    ("draining old", WorkersChanged(1)): "Fork",
    ("draining old", WorkersChanged(-1)): ".",
    ("draining old", StopAsked(False)): "Drain Drain Verdict",
    ("draining old", StopAsked(True)): "Quit Quit KillPart KillPart Verdict",
    ("stopping", ReloadAsked(9, TERMS)): "Verdict",
    ("stopping", WorkersChanged(1)): ".",
    ("stopping", WorkersChanged(-1)): ".",
    ("stopping", StopAsked(False)): "Quit KillPart",
    ("stopping", StopAsked(True)): "Quit KillPart",
}


def walk(road: list[Event]) -> Watched:
    watched, now = Watched(), 0.0
    for event in road:
        now = watched.fleet.wake_at() or now if isinstance(event, Tick) else now
        watched.step(event, now)
    return watched


def orders(watched: Watched, event: Event) -> str:
    actions = watched.step(event, watched.now)
    return " ".join(type(action).__name__ for action in actions)


@pytest.mark.parametrize(("cell", "expected"), GENERATION_CELLS.items(), ids=str)
def test_generation(cell: tuple[Phase, Event], expected: str) -> None:
    phase, event = cell
    watched = walk(GENERATION_ROADS[phase])
    assert watched.fleet.generations[2].phase is phase
    got = orders(watched, event)
    generation = watched.fleet.generations.get(2)
    if generation is not None and generation.phase is not phase:
        got += f" -> {generation.phase.value}"
    assert (got.strip() or ".") == expected


@pytest.mark.parametrize(("cell", "expected"), WORKER_CELLS.items(), ids=str)
def test_worker(cell: tuple[str, type], expected: str) -> None:
    state, kind = cell
    serial, road = WORKER_ROADS[state]
    watched = walk(road)
    before = watched.fleet.workers[serial].phase
    assert before.value == state.split()[1]
    got = orders(watched, kind(serial, "bad") if kind in (WorkerFailed, WorkerExited) else kind(serial))
    worker = watched.fleet.workers.get(serial)
    after = "none" if worker is None else worker.phase.value
    if after != before.value:
        got += f" -> {after}"
    assert (got.strip() or ".") == expected


@pytest.mark.parametrize(("cell", "expected"), OPERATOR_CELLS.items(), ids=str)
def test_operator(cell: tuple[str, Event], expected: str) -> None:
    situation, event = cell
    assert (orders(walk(OPERATOR_ROADS[situation]), event) or ".") == expected


def test_no_cell_is_missing() -> None:
    events = {PrepareEnded, TemplateReady, TemplateFailed, TemplateExited, Probed}
    for phase in Phase:
        assert {type(event) for of, event in GENERATION_CELLS if of is phase} == events
    for situation in OPERATOR_ROADS:
        assert sum(of == situation for of, _ in OPERATOR_CELLS) == 5
    kinds = {WorkerReady, WorkerFailed, WorkerLeaving, WorkerPonged, WorkerExited}
    for state in WORKER_ROADS:
        assert {kind for of, kind in WORKER_CELLS if of == state} == kinds
    assert {state.split()[1] for state in WORKER_ROADS} == {phase.value for phase in WorkerPhase}
    assert set(WORKER) == set(WorkerPhase)
    assert all(set(row) == kinds for row in WORKER.values())
    assert set(RECORD) == set(Event.__args__)


def test_the_words_are_few() -> None:
    """A state is an Enum; what `status` shows are its values."""
    for enum in (FleetPhase, Phase, PartPhase, WorkerPhase):
        assert all(member.value == member.name.lower() for member in enum)


def test_worker_count_limits() -> None:
    watched = walk([ReloadAsked(1, Terms(workers=998, stuck_timeout_s=0.0))])
    for _ in range(5):
        watched.step(WorkersChanged(1), 0.0)
    assert watched.fleet.worker_count == 1000
    for _ in range(3):
        watched.step(WorkersChanged(-400), 0.0)
    assert watched.fleet.worker_count == 1
    watched.step(WorkersChanged(1), 0.0)
    assert watched.fleet.worker_count == 2


def test_a_late_tick_blames_nobody() -> None:
    """The master was stopped for an hour: pings from before are not held against the workers."""
    terms = Terms(workers=1, stuck_timeout_s=30.0)
    watched = walk([ReloadAsked(1, terms), TemplateReady(1), WorkerReady(1)])
    watched.step(Tick(), 10.0)
    assert orders(watched, Tick()) == ""
    assert watched.step(Tick(), 3600.0) == []
    assert watched.step(WorkerPonged(1), 3600.0) == []


def test_not_started_while_many_retire() -> None:
    """Four generations that drain are enough."""
    watched, now = Watched(), 0.0
    terms = Terms(workers=1, stuck_timeout_s=0.0, graceful_timeout_s=100.0)
    for number in range(1, 6):
        assert orders(watched, ReloadAsked(number, terms)) == "StartTemplate"
        watched.step(TemplateReady(number), now)
        watched.step(WorkerReady(number), now)
    assert orders(watched, ReloadAsked(6, terms)) == ""
    assert watched.fleet.generations[6].phase is Phase.WAITING
    watched.step(WorkerExited(1, "exit status 0"), now)
    assert orders(watched, TemplateExited(1, "exit status 0")) == "Gone StartTemplate"
