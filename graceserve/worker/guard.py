"""The guard thread: notices that the master is gone while the app holds the loop thread. Shell; used in a worker.

It sleeps in `poll` until the channel hangs up. A worker whose loop turns then drains by itself; one that is stuck in an
app call would keep the port from the next master and never leave. Killing the stuck is otherwise the master's business.
"""

import os
import select
import threading
from collections.abc import Callable

EXIT_STUCK = 1


class Guard:
    """One a worker; its thread is a daemon."""

    def __init__(self, channel_fd: int, grace_s: float, stop_accepting: Callable[[], None], told: Callable[[], None]):
        """`stop_accepting` and `told` (before an exit for being stuck) are called on the guard's thread."""
        self._channel_fd = channel_fd
        self._grace_s = grace_s
        self._stop_accepting = stop_accepting
        self._told = told

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="graceserve-guard", daemon=True).start()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._channel_fd, 0)  # nothing but the hang-up, which needs no asking
        poll.poll()
        self._stop_accepting()  # at once, and not only if the loop does not: the next master wants to bind
        threading.Event().wait(self._grace_s)  # the process's end is the only thing that cuts this short
        self._told()
        os._exit(EXIT_STUCK)
