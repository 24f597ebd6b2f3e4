"""What the loop thread is doing, for the guard to see, and the two keeping out of each other's way. Shell; worker.

The loop thread counts: `turn` is odd while the app is called, and only then: no connection but the app's, and those
whose answers are kept (`runs.Inline`), is in a state between two. A turn that goes on for long is one that holds
everybody else up; the guard then may touch what belongs to the loop thread, until the turn ends: read other
connections, change their state, and put something else in the place of their descriptors, but never have their
transports do anything. Two stores decide who is first, in an order that the interpreter's lock makes one for both
threads: the guard sets `touched` and then looks at `turn`, the loop thread counts on and then looks at `touched`. So a
turn costs the loop thread no lock and no system call.
"""

import os
import threading
from collections.abc import Callable
from contextvars import Context
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Watch:
    """One a worker with `--threads 1`."""

    __slots__ = ("asleep", "lock", "settled", "touched", "turn", "wake_fd")

    def __init__(self) -> None:
        self.settled: Callable[[], object] = bool  # called on the loop thread, if the guard was at work in a turn
        self.turn = 0
        self.touched = False
        self.asleep = True  # the guard looks at nothing until `wake`
        self.lock = threading.Lock()  # held by the guard while it is at work
        self.wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def run(self, context: Context, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the app, in this context."""
        self.turn += 1
        if self.asleep:
            self.wake()
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
        os.eventfd_write(self.wake_fd, 1)
        self.settled()

    def close(self) -> None:
        """Where there is no guard."""
        os.close(self.wake_fd)

    def wake(self) -> None:
        """Have the guard look. In a signal handler, too."""
        self.asleep = False
        os.eventfd_write(self.wake_fd, 1)
