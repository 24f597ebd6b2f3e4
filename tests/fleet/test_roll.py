"""The pace at which old workers leave: one at a time, all within about a second, also over a re-exec."""

import json
from itertools import pairwise

import pytest

from graceserve.fleet.actions import Drain
from graceserve.fleet.events import Event, ReloadAsked, TemplateReady, Terms, Tick, WorkerReady
from graceserve.fleet.machine import Fleet
from graceserve.fleet.plan_serving import PACE_S, PACED_MOST_S
from graceserve.fleet.state import WorkerPhase
from tests.fleet.rules import Watched

PROMOTED_AT = 100.0


def drained(watched: Watched, event: Event, now: float) -> list[int]:
    return [action.worker for action in watched.step(event, now) if isinstance(action, Drain)]


def promoted(old: int) -> tuple[Watched, list[int]]:
    """One new worker serves in the place of `old` ones; and who was drained in that step."""
    watched = Watched(deep=False)
    watched.step(ReloadAsked(1, Terms(workers=old, stuck_timeout_s=0.0)), 0.0)
    watched.step(TemplateReady(1), 0.0)
    for worker in range(1, old + 1):
        watched.step(WorkerReady(worker), 0.0)
    watched.step(ReloadAsked(2, Terms(workers=1, stuck_timeout_s=0.0)), PROMOTED_AT)
    watched.step(TemplateReady(2), PROMOTED_AT)
    return watched, drained(watched, WorkerReady(old + 1), PROMOTED_AT)


def accepting(watched: Watched) -> list[int]:
    workers = watched.fleet.workers.values()
    return [worker.serial for worker in workers if worker.generation == 1 and worker.phase is WorkerPhase.ACCEPTING]


def roll(old: int, reexec: bool = False) -> list[tuple[float, int]]:
    """Who is drained when, if nobody obeys; `reexec`: the master moves on after each drain."""
    watched, first = promoted(old)
    times = [(PROMOTED_AT, worker) for worker in first]
    while accepting(watched):
        if reexec:
            watched.reload()
        now = watched.fleet.wake_at()
        assert now is not None
        times += [(now, worker) for worker in drained(watched, Tick(), now)]
    return times


@pytest.mark.parametrize("old", [1, 2, 8, 50, 51, 200])
def test_one_at_a_time_all_in_a_second(old: int) -> None:
    times = roll(old)
    assert [worker for _, worker in times] == list(range(old, 0, -1))
    assert times[0][0] == PROMOTED_AT
    assert times[-1][0] <= PROMOTED_AT + PACED_MOST_S
    gaps = [later - sooner for (sooner, _), (later, _) in pairwise(times)]
    assert gaps == pytest.approx([min(PACE_S, PACED_MOST_S / old)] * (old - 1))


@pytest.mark.parametrize("old", [3, 80])
def test_a_reexec_between_two_drains_changes_nothing(old: int) -> None:
    assert roll(old, reexec=True) == roll(old)


def test_a_dump_of_a_version_without_a_pace_goes_on_at_once() -> None:
    watched, _ = promoted(3)
    data = json.loads(json.dumps(watched.fleet.dump()))
    for generation in data["generations"].values():
        del generation["drain_at"]
    fleet = Fleet.load(data)
    actions = fleet.step(Tick(), PROMOTED_AT)
    assert [action.worker for action in actions if isinstance(action, Drain)] == [2]
    assert fleet.wake_at() == PROMOTED_AT + PACE_S


def test_a_late_master_catches_nothing_up() -> None:
    """It was stopped for ten seconds: what it missed would be a crowd again."""
    watched, first = promoted(5)
    assert first == [5]
    assert drained(watched, Tick(), PROMOTED_AT + 10.0) == [4]
    assert drained(watched, Tick(), PROMOTED_AT + 10.0) == []
    assert watched.fleet.wake_at() == PROMOTED_AT + 10.0 + PACE_S
