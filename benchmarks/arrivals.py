"""Requests at fixed times, what the best of queues would make of them, and percentiles. Pure."""

import heapq
import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request that is due so many seconds after the begin; whether the app sleeps in it."""

    due_s: float
    slow: bool


@dataclass(frozen=True, slots=True)
class Waited:
    """Seconds to the end of a request, since it was due and since it was sent."""

    from_due_s: float
    from_sent_s: float


def schedule(rate: float, seconds: float, slow_share: float, chance: random.Random) -> list[Arrival]:
    """All at the same distance; exactly that share of them, rounded, is slow."""
    count = int(rate * seconds)
    slow = set(chance.sample(range(count), round(count * slow_share)))
    return [Arrival(number / rate, number in slow) for number in range(count)]


def one_queue(arrivals: Sequence[Arrival], workers: int, connections: int, slow_s: float) -> list[Waited]:
    """In order of arrival, each begun by the first of the workers that is idle. What is not slow takes no time.

    A request is sent as soon as one of the connections has no other one under way.
    """
    idle_at, free_at = [0.0] * workers, [0.0] * connections
    found = []
    for arrival in arrivals:
        sent_s = max(arrival.due_s, heapq.heappop(free_at))
        end_s = max(sent_s, heapq.heappop(idle_at)) + (slow_s if arrival.slow else 0.0)
        heapq.heappush(idle_at, end_s)
        heapq.heappush(free_at, end_s)
        found.append(Waited(end_s - arrival.due_s, end_s - sent_s))
    return found


def percentile(values: Collection[float], percent: float) -> float:
    """The least value that so many percent do not exceed (nearest rank). NaN of nothing."""
    rank = max(math.ceil(len(values) * percent / 100), 1)
    return sorted(values)[rank - 1] if values else math.nan
