"""What the loop thread is doing, for the guard to see, and the two keeping out of each other's way. Shell; worker.

The loop thread counts: `turn` is odd while the app is called, and only then: no connection but the app's, and those
whose answers are kept (`runs.Inline`), is in a state between two. A turn that goes on for long is one that holds
everybody else up; the guard then may touch what belongs to the loop thread, until the turn ends: read other
connections, change their state, and put something else in the place of their descriptors, but never have their
transports do anything. Two stores decide who is first, in an order that the interpreter's lock makes one for both
threads: the guard sets `touched` and then looks at `turn`, the loop thread counts on and then looks at `touched`. So a
turn costs the loop thread no lock. Nor does it wake the guard, which sleeps until the alarm goes off: whoever calls the
app puts that off, if not each time. What wakes another thread in the middle of a request has the kernel look for who is
to run next; on a core with an app that is being imported, that was the import, for up to 4 ms. When the guard falls
asleep two stores decide again: it sets `asleep` and looks at `turn`, the loop thread the other way round.
"""

import threading
from collections.abc import Callable
from contextvars import Context
from typing import ParamSpec, TypeVar

from graceserve.worker.alarm import Alarm
from graceserve.worker.tempo import Tempo

P = ParamSpec("P")
T = TypeVar("T")


class Watch:
    """One a worker with `--threads 1`."""

    __slots__ = ("alarm", "asleep", "lock", "settled", "tempo", "touched", "turn")

    def __init__(self) -> None:
        self.settled: Callable[[], object] = bool  # called on the loop thread, if the guard was at work in a turn
        self.turn = 0
        self.touched = False
        self.tempo = Tempo()
        self.alarm = Alarm(self.tempo.long_s)
        self.asleep = True  # nothing but the alarm wakes the guard, and that is not set
        self.lock = threading.Lock()  # held by the guard while it is at work

    def run(self, context: Context, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the app, in this context."""
        self.turn += 1
        self.arm()
        try:
            return context.run(call, *args, **kwargs)
        finally:
            self.turn += 1
            if self.touched:
                self.settle()

    def settle(self) -> None:
        """Once `turn` has gone on: wait until the guard has stopped, and take note of what it did."""
        with self.lock:
            self.touched = False
        self.arm()
        self.settled()

    def took(self, now: float, took_s: float) -> None:
        """See `Tempo`."""
        before_s = self.tempo.long_s
        self.tempo.took(now, took_s)
        if self.tempo.long_s != before_s:
            self.alarm.after(self.tempo.long_s)

    def close(self) -> None:
        """Where there is no guard."""
        self.alarm.close()

    def arm(self) -> None:
        """Have the guard look `long_s` from now, and no sooner. In a signal handler, too."""
        self.asleep = False
        self.alarm.set()
