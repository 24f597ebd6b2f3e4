"""What became of each request and connection. Pure; the clients of `graceserve torture` write it, the report reads it.

Times are seconds since the run began.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum

EXAMPLES_MAX = 3  # different ones, of each kind


class Kind(Enum):
    """Kinds of clients."""

    KEEP_ALIVE = "keep-alive"
    ONE_SHOT = "one-shot"
    PIPELINED = "pipelined"
    SLOW = "slow"
    UPLOAD = "upload"


class Phase(Enum):
    """Parts of a run. What is in flight while a reload begins belongs to `DURING`."""

    WARM_UP = "warm-up"  # counted, but not timed
    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


MEASURED = (Phase.BEFORE, Phase.DURING, Phase.AFTER)


@dataclass(frozen=True, slots=True)
class Example:
    """Something that a client saw, when, and after the beginning of which reload (0: before the first)."""

    at_s: float
    reload: int
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a reload went. `known`: the server told; a HUP is only sent."""

    ok: bool
    text: str
    took_s: float
    known: bool = True


def _counts() -> dict[Phase, int]:
    return dict.fromkeys(Phase, 0)


def _series() -> dict[Phase, "array[float]"]:
    return {phase: array("d") for phase in Phase}


@dataclass(slots=True)
class Counts:
    """Of one kind of client. Changed by `Tally` only."""

    answered: dict[Phase, int] = field(default_factory=_counts)
    lost: dict[Phase, int] = field(default_factory=_counts)
    refused: int = 0  # of the answered: status 4xx
    pushed_back: int = 0  # pipelined behind a response that announced the close: RFC 9112 9.3.2, may be sent again
    opened: int = 0
    announced: dict[Phase, int] = field(default_factory=_counts)
    unannounced: dict[Phase, int] = field(default_factory=_counts)
    latency_s: dict[Phase, "array[float]"] = field(default_factory=_series)
    gap_s: dict[Phase, float] = field(default_factory=lambda: dict.fromkeys(Phase, 0.0))
    last_answer_s: float = 0.0
    examples_lost: list[Example] = field(default_factory=list)
    examples_closed: list[Example] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All that got an answer or never will."""
        return sum(self.answered.values()) + sum(self.lost.values())

    @property
    def keeps_alive(self) -> bool:
        """Whether the server keeps connections at all: not if each answer before the reloads announced the close."""
        steady = (Phase.WARM_UP, Phase.BEFORE)
        answered = sum(self.answered[phase] for phase in steady)
        return answered == 0 or sum(self.announced[phase] for phase in steady) < answered

    @property
    def closed_by_reloads(self) -> int:
        """Connections that the server closed since the first reload began. It may do so long after a reload."""
        count = self.unannounced[Phase.DURING] + self.unannounced[Phase.AFTER]
        if self.keeps_alive:
            count += self.announced[Phase.DURING] + self.announced[Phase.AFTER]
        return count


class Tally:
    """The one account of a run."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self.counts = {kind: Counts() for kind in kinds}
        self.lag_s = _series()
        self.reload = 0  # how many have begun
        self.phase = Phase.WARM_UP
        self._began_s = 0.0  # this phase
        self._finished = False

    def enter(self, phase: Phase, now_s: float) -> None:
        """A phase begins."""
        self.phase, self._began_s = phase, now_s
        if phase is Phase.BEFORE:  # silence in the warm-up is none of its gaps
            for counts in self.counts.values():
                counts.last_answer_s = now_s

    def answered(self, kind: Kind, began_s: float, now_s: float, status: int) -> None:
        """A whole response came."""
        counts = self.counts[kind]
        if status >= 500:
            self.lost(kind, now_s, f"status {status}")
            return
        phase = self._phase_of(began_s)
        counts.answered[phase] += 1
        counts.refused += int(status >= 400)
        counts.latency_s[phase].append(now_s - began_s)
        self._gap(counts, now_s)

    def lost(self, kind: Kind, now_s: float, why: str, count: int = 1) -> None:
        """Requests that will never get a whole response, or got a 5xx."""
        self.counts[kind].lost[self.phase] += count
        self._show(self.counts[kind].examples_lost, now_s, why)

    def pushed_back(self, kind: Kind, count: int) -> None:
        """Requests that stood behind one whose response announced the close."""
        self.counts[kind].pushed_back += count

    def opened(self, kind: Kind) -> None:
        """A connection was made."""
        self.counts[kind].opened += 1

    def closed(self, kind: Kind, now_s: float, announced: bool, why: str = "") -> None:
        """The server closed a connection that the client would have kept."""
        counts = self.counts[kind]
        (counts.announced if announced else counts.unannounced)[self.phase] += 1
        if why and self.phase in (Phase.DURING, Phase.AFTER) and (counts.keeps_alive or not announced):
            self._show(counts.examples_closed, now_s, why)

    def lagged(self, due_s: float, now_s: float) -> None:
        """The client itself was woken so much later than it wanted to be."""
        self.lag_s[self._phase_of(due_s)].append(now_s - due_s)

    def finish(self, now_s: float) -> None:
        """No new requests from now on. Silence until now is a gap, too; what comes later is not."""
        for counts in self.counts.values():
            self._gap(counts, now_s)
        self._finished = True

    def _phase_of(self, began_s: float) -> Phase:
        """Of what began then and ends now."""
        if self.phase is Phase.AFTER and began_s < self._began_s:
            return Phase.DURING
        if self.phase is Phase.BEFORE and began_s < self._began_s:
            return Phase.WARM_UP
        return self.phase

    def _gap(self, counts: Counts, now_s: float) -> None:
        if self._finished:
            return
        phase = self._phase_of(counts.last_answer_s)
        counts.gap_s[phase] = max(counts.gap_s[phase], now_s - counts.last_answer_s)
        counts.last_answer_s = now_s

    def _show(self, examples: list[Example], now_s: float, why: str) -> None:
        known = any((one.reload, one.why) == (self.reload, why) for one in examples)
        if not known and len(examples) < EXAMPLES_MAX:
            examples.append(Example(now_s, self.reload, why))


def quantile(ordered: Sequence[float], q: float) -> float:
    """The smallest of the ordered values that a fraction `q` of all does not exceed; 0 if there is none."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(len(ordered) * q) - 1)]
