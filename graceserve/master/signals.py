"""The master's signals. Shell. A handler only counts; the loop acts, a stop before anything else."""

import os
import signal
from types import FrameType

STOP_FIRST = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
OBEYED = (
    *STOP_FIRST, signal.SIGCHLD, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU
)  # fmt: skip
DEAF_TO = (signal.SIGWINCH,)  # gunicorn's "stop the workers of a daemon"; there is no such state here


class Signals:
    """Counts of the signals that came, and a descriptor that turns readable when one does."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def install(self) -> None:
        """Take the signals over, and unblock all (a re-exec'd master starts with all blocked)."""
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in OBEYED:
            signal.signal(number, self._count)
        for number in DEAF_TO:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])

    def fileno(self) -> int:
        """Readable when a signal has come."""
        return self._read_fd

    def take(self) -> list[int]:
        """Each signal that came since the last call, stops first, then in the order of `OBEYED`.

        A burst of one signal is one entry, but for TTIN and TTOU, which count.
        """
        try:
            os.read(self._read_fd, 4096)
        except BlockingIOError:
            pass
        counts, self._counts = self._counts, {}
        several = (signal.SIGTTIN, signal.SIGTTOU)
        return [n for n in OBEYED for _ in range(counts.get(n, 0) if n in several else min(1, counts.get(n, 0)))]

    @property
    def pending(self) -> bool:
        """Whether one has come that `take` has not given yet."""
        return bool(self._counts)

    def _count(self, number: int, _frame: FrameType | None) -> None:
        self._counts[number] = self._counts.get(number, 0) + 1
