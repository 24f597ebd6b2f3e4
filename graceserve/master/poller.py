"""The one place where the master waits: poll(2). Shell."""

import select
from collections.abc import Callable
from typing import Protocol


class HasFileno(Protocol):
    """A descriptor's owner."""

    def fileno(self) -> int:
        """The descriptor."""


class Poller:
    """Callbacks by descriptor. A callback runs when its descriptor is readable or at end-of-file."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], None]] = {}

    def register(self, owner: HasFileno, call: Callable[[], None]) -> None:
        """Call `call` whenever there is something to read."""
        self._calls[owner.fileno()] = call
        self._poll.register(owner.fileno(), select.POLLIN)

    def unregister(self, owner: HasFileno) -> None:
        """Before the descriptor is closed. Idempotent."""
        if self._calls.pop(owner.fileno(), None) is not None:
            self._poll.unregister(owner.fileno())

    def wait(self, timeout_s: float | None) -> list[Callable[[], None]]:
        """Wait until something is readable or `timeout_s` has passed; the callbacks to run."""
        timeout_ms = None if timeout_s is None else max(0.0, timeout_s) * 1000 + 0.5  # poll rounds down; don't spin
        return [self._calls[fd] for fd, _ in self._poll.poll(timeout_ms) if fd in self._calls]
