"""A thousand worlds."""

import pytest

from graceserve.fleet.actions import Action
from tests.fleet.simulate import Tally, simulate, story

RUNS = 1_000  # `python -m tests.fleet.simulate` runs more


@pytest.mark.timeout(600)  # CI cores are seldom idle
def test_a_thousand_worlds() -> None:
    tally = simulate(0, RUNS)
    assert tally.runs == RUNS
    assert set(tally.seen) == set(Action.__args__), "an order that no world has seen"
    assert min(tally.endings[ending] for ending in ("whole", "stopped", "never served")) > RUNS / 100
    assert tally.closest < 1.0


def test_a_seed_is_a_story() -> None:
    """The same seed is the same run: what failed can be read."""
    assert story(4) == story(4)
    assert "ReloadAsked" in story(4)
    assert Tally().runs == 0
