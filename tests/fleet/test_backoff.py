"""Waits grow, have a top, and are forgotten after calm."""

from hypothesis import given
from hypothesis import strategies as st

from graceserve.fleet.backoff import BACKOFF_CALM_S, REPAIR, RESPAWN, Backoff

KINDS = st.sampled_from((RESPAWN, REPAIR))
GAPS = st.lists(st.floats(0.0, 30.0), min_size=1, max_size=40)


def test_the_row() -> None:
    assert [RESPAWN.delay_s(n) for n in range(10)] == [0, 0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10]
    assert [REPAIR.delay_s(n) for n in range(1, 10)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert RESPAWN.delay_s(10_000) == 10


@given(KINDS, GAPS)
def test_failing_again_waits_longer_up_to_the_top(kind: Backoff, gaps: list[float]) -> None:
    backoff, now, last = kind, 100.0, -1.0
    for gap in gaps:
        now = max(now, backoff.open_at)
        born = now
        now += gap
        backoff = backoff.failed(now, born)
        wait = backoff.open_at - now
        assert last - 1e-6 <= wait <= kind.most_s + 1e-6
        last = wait
    assert backoff.streak == len(gaps)


@given(KINDS, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
def test_what_dies_together_counts_once(kind: Backoff, gaps: list[float]) -> None:
    """All were born before the first of them died."""
    backoff, now = kind, 100.0
    for gap in gaps:
        now += gap
        backoff = backoff.failed(now, 50.0)
    assert backoff.streak == 1
    assert backoff.open_at <= now


@given(KINDS, st.integers(1, 20), st.floats(0.0, 2 * BACKOFF_CALM_S))
def test_calm(kind: Backoff, failures: int, lived_s: float) -> None:
    backoff = kind
    for now in range(failures):
        backoff = backoff.failed(float(now), float(now))
    ready = 1000.0
    held = backoff.holds(ready).holds(ready + 1.0)  # the second does not postpone calm
    after = held.failed(ready + lived_s, ready)
    assert after.streak == (1 if ready + lived_s >= ready + BACKOFF_CALM_S else failures + 1)


def test_the_end_of_what_held_is_no_part_of_a_storm() -> None:
    storm = RESPAWN.failed(1.0, 0.0).failed(2.0, 1.5)
    assert storm.ended(3.0, 2.5) == storm
    assert RESPAWN.ended(3.0, 2.5).streak == 1
    assert RESPAWN.ended(3.0, 2.5).open_at == 3.0
