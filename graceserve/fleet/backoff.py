"""How long to wait before what failed is tried again. Pure; runs in the master.

Failures that belong together form a *round*: when eight workers die of the same poison, or a template takes
its generation along, that is one failure and not eight. A failure counts only if what failed was born after
the last one that was counted. So the first failure of a calm period is put right at once, for all that it
took along, and only what fails again waits: `first_s`, then twice that, up to `most_s`. Calm is when
something has held for `BACKOFF_CALM_S`.
"""

from dataclasses import dataclass, replace

BACKOFF_CALM_S = 10.0  # a worker that served this long did not die of its start
RESPAWN_FIRST_S = 0.1  # below what a client notices
RESPAWN_MOST_S = 10.0
REPAIR_FIRST_S = 0.5  # a whole generation costs more than a worker
REPAIR_MOST_S = 30.0
DOUBLINGS_MAX = 20  # beyond any `most_s`; keeps the power small


@dataclass(frozen=True, slots=True)
class Backoff:
    """A value: each method returns the next one. Times are monotonic seconds."""

    first_s: float = RESPAWN_FIRST_S
    most_s: float = RESPAWN_MOST_S
    streak: int = 0  # rounds of failures since calm
    counted_at: float = 0.0  # the last failure that counted
    open_at: float = 0.0  # not tried again before this
    calm_at: float | None = None  # if nothing fails until then, the streak is forgotten

    def failed(self, now: float, born_at: float) -> "Backoff":
        """What came to be at `born_at` has failed without having proved itself."""
        streak = 0 if self.calm(now) else self.streak
        if streak and born_at < self.counted_at:
            return replace(self, calm_at=None)
        return replace(self, streak=streak + 1, counted_at=now, open_at=now + self.delay_s(streak + 1), calm_at=None)

    def ended(self, now: float, born_at: float) -> "Backoff":
        """What had proved itself is gone: that opens a round in a calm period, and is no part of a storm."""
        return self.failed(now, born_at) if self.calm(now) else self

    def calm(self, now: float) -> bool:
        return self.streak == 0 or (self.calm_at is not None and now >= self.calm_at)

    def holds(self, now: float) -> "Backoff":
        """What was tried again works so far."""
        return self if self.calm_at is not None else replace(self, calm_at=now + BACKOFF_CALM_S)

    def delay_s(self, streak: int) -> float:
        """The wait after the `streak`th round."""
        if streak <= 1:
            return 0.0
        return min(self.most_s, self.first_s * 2.0 ** min(streak - 2, DOUBLINGS_MAX))


RESPAWN = Backoff()
REPAIR = Backoff(REPAIR_FIRST_S, REPAIR_MOST_S)
