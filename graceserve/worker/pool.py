"""The app's threads with `--threads N`. Shell; used in a worker.

Daemon threads: a call that never returns must not keep the process from its end.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Pool:
    """N threads that take work in order. `submit` and `busy` are the loop thread's; work must not raise."""

    def __init__(self, threads: int) -> None:
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._size = threads
        self.busy = 0  # submitted and not ended
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"graceserve-app-{number + 1}", daemon=True).start()

    @property
    def saturated(self) -> bool:
        """Whether one more request would have to wait."""
        return self.busy >= self._size

    def submit(self, work: Callable[[], None]) -> None:
        """Run it as soon as a thread is free. Whoever learns of its end says `ended`."""
        self.busy += 1
        self._work.put(work)

    def ended(self) -> None:
        """A piece of work is done."""
        self.busy -= 1

    def _serve(self) -> None:
        while True:
            self._work.get()()
