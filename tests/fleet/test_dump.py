"""Rule 9: `load(dump(x)) == x`; a dump with missing or unknown keys still loads, and the fleet can go on."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from graceserve.fleet.events import Event, ReloadAsked, StopAsked, TemplateReady, Terms, Tick, WorkerPonged, WorkerReady
from graceserve.fleet.machine import Fleet
from graceserve.fleet.state import Generation, Phase, State, Worker, WorkerPhase
from tests.fleet.world import World

SEEDS = st.integers(0, 10_000)


def fleet_of(seed: int, steps_s: float) -> Fleet:
    """A fleet in the middle of a life."""
    world = World(seed)
    world.asked = "good"
    world.ask()
    world.at(1.0, world.operate)
    world.run_until(world.start + steps_s)
    return world.watched.fleet


@settings(max_examples=100)
@given(SEEDS, st.floats(0.0, 20.0))
def test_round_trip(seed: int, steps_s: float) -> None:
    fleet = fleet_of(seed, steps_s)
    again = Fleet.load(json.loads(json.dumps(fleet.dump())))
    assert again == fleet
    assert again.wake_at() == fleet.wake_at()
    assert again.dump() == fleet.dump()
    assert again.plan(2000.0) == fleet.plan(2000.0)


@st.composite
def damaged(draw: Any) -> dict[str, Any]:
    """A dump of a fleet with keys removed and added, at any depth."""
    data = fleet_of(draw(SEEDS), draw(st.floats(0.0, 20.0))).dump()
    share = draw(st.sampled_from((0.02, 0.1, 0.5)))
    random = draw(st.randoms(use_true_random=False))

    def damage(value: Any, drop: bool) -> Any:
        if not isinstance(value, dict):
            return value
        kept = {
            key: damage(item, key not in ("generations", "workers"))
            for key, item in value.items()
            if not (drop and random.random() < share)
        }
        return {**kept, "of tomorrow": {"x": [1]}} if drop else kept

    return dict(damage(data, True))


@settings(max_examples=200)
@given(damaged())
def test_missing_and_unknown_keys(data: dict[str, Any]) -> None:
    fleet = Fleet.load(json.loads(json.dumps(data)))
    assert Fleet.load(fleet.dump()) == fleet
    now = 5000.0
    fleet.step(Tick(), now)
    fleet.step(StopAsked(True), now)
    for _ in range(20):  # whatever it was, it wants to end: it never rests with processes left
        if fleet.finished:
            break
        wake = fleet.wake_at()
        assert wake is not None
        assert wake > now
        now = wake
        fleet.step(Tick(), now)


def test_nothing_at_all_loads() -> None:
    assert Fleet.load({}).serving == 0
    fleet = Fleet.load({"workers": {"7": {"serial": 7, "generation": 3}}})
    assert fleet.generations[3].phase is Phase.FAILING
    actions = fleet.step(Tick(), 1.0)
    assert [type(action).__name__ for action in actions] == ["KillWorker"]


def test_a_dump_that_does_not_say_when_is_planned_at_the_next_event() -> None:
    """A pong before its time costs no plan; here nobody knows the time."""
    fleet = Fleet.load({"workers": {"7": {"serial": 7, "generation": 3}}})
    assert [type(action).__name__ for action in fleet.step(WorkerPonged(7), 1.0)] == ["KillWorker"]


def test_an_unknown_phase_takes_the_default() -> None:
    data = {"workers": {"1": {"serial": 1, "phase": "levitating"}}, "phase": "dreaming"}
    assert Fleet.load(data).workers[1].phase is WorkerPhase.STARTING  # type: ignore[arg-type]  # JSON is invariant


def test_every_field_has_a_default() -> None:
    assert State() == State()
    assert Worker().serial == Generation().number == 0


def test_equality_is_of_what_it_knows() -> None:
    one, two = Fleet(), Fleet()
    assert one == two
    events: list[Event] = [ReloadAsked(1, Terms()), TemplateReady(1), WorkerReady(1)]
    for event in events:
        one.step(event, 1.0)
    assert one != two
    assert one != object()
