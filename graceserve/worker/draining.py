"""`graceserve.draining` in environ: lets a streaming app end politely. Shell; used in a worker.

Shaped as `threading.Event`, but set from a signal handler that may interrupt the very thread which waits on it, where
an Event's lock could deadlock. Here the kernel keeps the state: an eventfd that stays readable once written.
"""

import os
import select


class Draining:
    """One a worker. Set once, never cleared."""

    __slots__ = ("_fd", "_set")

    def __init__(self) -> None:
        self._set = False
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """For the worker only. Idempotent, and safe in a signal handler and from any thread."""
        if not self._set:
            self._set = True
            os.eventfd_write(self._fd, 1)

    def is_set(self) -> bool:
        """Whether the worker drains: an endless response should end soon."""
        return self._set

    def wait(self, timeout: float | None = None) -> bool:
        """Wait at most `timeout` seconds for it; whether it is set."""
        if not self._set:
            waiter = select.poll()
            waiter.register(self._fd, select.POLLIN)
            waiter.poll(None if timeout is None else max(0.0, timeout * 1000))
        return self._set
