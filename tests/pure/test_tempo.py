"""What a worker makes of how long its app's calls take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceserve.worker.tempo import (
    LONG_S,
    LONG_S_MIN,
    QUEUE_S,
    SLOW_FOR_S_MAX,
    SLOW_S,
    SLOW_TIMES,
    VERY_LONG_S,
    Tempo,
)

MANY = 200


def told(*calls_s: float) -> tuple[Tempo, float]:
    """Of calls one behind the other; and when the last one ended."""
    tempo, now = Tempo(), 100.0
    for took_s in calls_s:
        now += took_s
        tempo.took(now, took_s)
    return tempo, now


@pytest.mark.parametrize(
    ("usual_s", "long_s"),
    [(0.000_05, LONG_S_MIN), (0.000_4, LONG_S_MIN), (0.000_6, 0.003), (0.000_9, 0.004), (0.002, LONG_S)],
)
def test_what_is_long_where_calls_are_slow_now_and_then(usual_s: float, long_s: float) -> None:
    assert told(*[0.3, *[usual_s] * MANY] * 2)[0].long_s == long_s


@pytest.mark.parametrize(
    ("calls_s", "queue_s"),
    [
        ([0.3, *[0.000_1] * MANY] * 4, 0.0),
        ([*[0.000_1] * MANY, 0.3, 0.3], QUEUE_S),  # one that was unusual is no rule
        ([0.02, *[0.000_1] * MANY] * 4, QUEUE_S),  # slow, but not for long
        ([0.3, *[0.003] * MANY] * 4, QUEUE_S),  # 5 ms are nothing special
        ([*[0.3, *[0.000_1] * MANY] * 4, 0.006, 0.006, 0.006], QUEUE_S),  # most are soon over
        ([*[0.3, *[0.000_1] * MANY] * 4, 0.006], 0.0),
    ],
)
def test_who_waits_behind_a_long_one(calls_s: list[float], queue_s: float) -> None:
    assert told(*calls_s)[0].queue_s == queue_s


def test_while_nothing_is_slow() -> None:
    tempo, now = told(*[0.000_1] * MANY)
    assert (tempo.long_s, tempo.queue_s) == (LONG_S, QUEUE_S) and tempo.slow_until < now


@pytest.mark.parametrize(("took_s", "for_s"), [(0.02, 0.02 * SLOW_TIMES), (3.0, SLOW_FOR_S_MAX)])
def test_slow_calls_are_forgotten(took_s: float, for_s: float) -> None:
    tempo, now = told(*[took_s, *[0.000_1] * MANY] * 3, took_s)
    assert tempo.slow_until == pytest.approx(now + for_s) and tempo.long_s == LONG_S_MIN
    tempo.took(now + for_s + 0.001, 0.000_1)
    assert (tempo.long_s, tempo.queue_s) == (LONG_S, QUEUE_S)


@given(st.lists(st.floats(0, 20), max_size=40))
def test_whatever_they_take(calls_s: list[float]) -> None:
    tempo, now = told(*calls_s)
    assert LONG_S_MIN <= tempo.long_s <= LONG_S and tempo.long_s * 1000 == pytest.approx(round(tempo.long_s * 1000))
    assert tempo.queue_s in (0.0, QUEUE_S) and (tempo.queue_s or tempo.slow_until > now)
    slow = any(took_s > SLOW_S for took_s in calls_s)
    assert slow or (tempo.long_s, tempo.queue_s) == (LONG_S, QUEUE_S)
    assert tempo.queue_s or any(took_s > VERY_LONG_S for took_s in calls_s)
