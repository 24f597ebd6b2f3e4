"""What the benchmarks compute: when requests are due, the best that one queue can do with them, percentiles."""

import math
import random
from dataclasses import astuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.arrivals import Arrival, one_queue, percentile, schedule

RATE = 400.0


def test_a_schedule_is_even_and_exactly_so_many_are_slow() -> None:
    arrivals = schedule(RATE, 10.0, 0.02, random.Random(1))
    assert [arrival.due_s for arrival in arrivals] == [number / RATE for number in range(4000)]
    assert sum(arrival.slow for arrival in arrivals) == 80


def test_a_seed_draws_the_same_ones_each_time() -> None:
    one, again, other = (schedule(RATE, 10.0, 0.02, random.Random(seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_percentiles_by_nearest_rank() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 99.1, 100)] == [1, 1, 50, 99, 100, 100]
    assert percentile([7.0], 50) == 7.0
    assert math.isnan(percentile([], 50))


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert sum(value <= found for value in values) >= len(values) * percent / 100 - 1e-9
    assert sum(value < found for value in values) < len(values) * percent / 100


@pytest.mark.parametrize(
    ("workers", "connections", "expected"),
    [
        (2, 9, [(3, 3), (3, 3), (1, 1), (0, 0), (0, 0)]),  # the third waits for the first, not for the second
        (1, 9, [(3, 3), (5, 5), (4, 4), (3, 3), (2, 2)]),
        (1, 2, [(3, 3), (5, 5), (4, 3), (3, 0), (2, 0)]),  # the client can't send the third before the first is back
    ],
)
def test_one_queue(workers: int, connections: int, expected: list[tuple[float, float]]) -> None:
    arrivals = [Arrival(float(number), number < 2) for number in range(5)]
    found = one_queue(arrivals, workers, connections, 3.0)
    assert list(map(astuple, found)) == expected


def test_nobody_waits_where_there_are_as_many_workers_as_slow_requests() -> None:
    arrivals = schedule(RATE, 5.0, 0.02, random.Random(3))
    found = one_queue(arrivals, 40, 40, 0.3)
    assert [waited.from_due_s > 0 for waited in found] == [arrival.slow for arrival in arrivals]


def test_the_queue_agrees_with_erlang_on_how_many_wait() -> None:
    """Erlang's C for 2.4 of 4 busy is 0.287, for random service times; with equal ones it is nearly that."""
    arrivals = schedule(RATE, 600.0, 0.02, random.Random(4))
    found = one_queue(arrivals, 4, 10_000, 0.3)
    fast = [waited for arrival, waited in zip(arrivals, found, strict=True) if not arrival.slow]
    assert 0.25 < sum(waited.from_due_s > 0 for waited in fast) / len(fast) < 0.31
