"""The app's threads with `--threads N`. Shell; used in a worker.

Daemon threads: a call that never returns must not keep the process from its end. What they have to tell goes to the
loop in batches, since to wake it takes a system call. The loop sends the answers, too: a thread that sends one would
have to fight for the interpreter afterwards.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graceserve.worker.runs import ThreadRun


class Pool:
    """N threads that take work in order. All but `tell` and `room` is the loop thread's."""

    def __init__(self, threads: int, loop: asyncio.AbstractEventLoop, settled: Callable[[], None]) -> None:
        """`settled` is called on the loop thread when all that the threads had to tell was heard."""
        self._loop = loop
        self._settled = settled
        self._work: SimpleQueue[ThreadRun] = SimpleQueue()
        self._done: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._told = False  # the loop knows that there is something in `_done`
        self._size = threads
        self.busy = 0  # submitted and not ended
        self.room = threading.Condition()  # for threads that are ahead of their clients
        for number in range(threads):
            threading.Thread(target=self._serve, name=f"graceserve-app-{number + 1}", daemon=True).start()

    @property
    def saturated(self) -> bool:
        """Whether one more request would have to wait."""
        return self.busy >= self._size

    @property
    def queued(self) -> bool:
        """Whether one has to."""
        return self.busy > self._size

    def submit(self, run: "ThreadRun") -> None:
        """Have a thread `work` at it as soon as one is free. It calls `ended` on the loop's thread."""
        self.busy += 1
        self._work.put(run)

    def take_back(self) -> "list[ThreadRun]":
        """Those that no thread has taken, in order."""
        taken: list[ThreadRun] = []
        try:
            while True:
                taken.append(self._work.get_nowait())
        except Empty:
            self.busy -= len(taken)
            return taken

    def ended(self) -> None:
        """A piece of work is done."""
        self.busy -= 1

    def tell(self, call: Callable[[Any], None], argument: Any) -> None:
        """On an app thread: have the loop call it. All that the threads tell comes in this order."""
        self._done.append((call, argument))
        if not self._told:  # in this order: who sees it set has appended before the loop looks
            self._told = True
            try:
                self._loop.call_soon_threadsafe(self._take)
            except RuntimeError:  # the loop is closed: the process is at its end
                pass

    def _take(self) -> None:
        self._told = False
        done = self._done
        try:
            while done:
                call, argument = done.popleft()
                call(argument)
        finally:
            if done:  # a bug; it costs one request, and not all those behind it
                self._loop.call_soon(self._take)
            self._settled()

    def _serve(self) -> None:
        while True:
            self._work.get().work()
