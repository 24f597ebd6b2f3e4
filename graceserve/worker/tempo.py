"""How long the app's calls take, of late, and what follows for those behind them. Pure; used with `--threads 1`.

Where calls are short as a rule, one that lasts for several times as long is soon known for a long one; and where such
ones have been very long lately, it is worth its cost to move at once whoever waits behind it, though nobody is free: in
the queue of all workers they keep their place, and here those who came later would be served before them. Where calls
take some milliseconds anyway, or the longer ones a little more, that would move connections to and fro for nothing.
"""

SLOW_S = 0.01  # a call that takes as long may be followed by others
SLOW_TIMES = 100  # for as many times as long,
SLOW_FOR_S_MAX = 10.0  # at most

# A call is long if it has lasted for this, or 1 ms or 2 less behind short ones. It is above a clock tick's 4 ms, for
# which a sibling on the same core may go first: with 3 ms the guard woke up 500 times a second for nothing.
LONG_S = 0.005
LONG_S_MIN = 0.002  # while calls are slow now and then, and short else
LONG_TIMES = 4  # the usual call
QUEUE_S = 0.02  # a call that goes on for as long is worth the move even if nobody is free: it costs below 1 % of it
VERY_LONG_S = 0.1  # where most long ones were, who waits behind another one is moved at once
_FORGETS = 1 / 16  # of the usual call's length, each time
_FORGETS_LONG = 1 / 4


class Tempo:
    """Of one worker. Told by the loop thread; `queue_s` is read by the guard's, too."""

    __slots__ = ("_usual_s", "_very_long", "long_s", "queue_s", "slow_until")

    def __init__(self) -> None:
        self._usual_s = LONG_S
        self._very_long = 0.0  # how many of the long ones
        self.slow_until = 0.0  # the next call may well be a slow one
        self.long_s = LONG_S  # whole milliseconds: a call that has lasted for this is a long one
        self.queue_s = QUEUE_S  # and so long after that who waits had better do so in the inbox, though nobody is free

    def took(self, now: float, took_s: float) -> None:
        """A call, which ends now. All that take 2 ms or more are to be told, and some of the others."""
        if took_s > self.long_s:
            self._very_long += ((took_s > VERY_LONG_S) - self._very_long) * _FORGETS_LONG
        else:
            self._usual_s += (took_s - self._usual_s) * _FORGETS
        if took_s > SLOW_S:
            self.slow_until = max(self.slow_until, now + min(SLOW_TIMES * took_s, SLOW_FOR_S_MAX))
        self.long_s = self._long_s() if now < self.slow_until else LONG_S
        self.queue_s = 0.0 if self.long_s < LONG_S and self._very_long > 0.5 else QUEUE_S

    def _long_s(self) -> float:
        return min(max(-(-LONG_TIMES * self._usual_s // 0.001) / 1000, LONG_S_MIN), LONG_S)
