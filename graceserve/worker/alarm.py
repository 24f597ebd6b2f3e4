"""A timer that one thread sets and another waits for with poll(2). Shell; used in a worker.

timerfd_create(2), for Python below 3.13, which has no words of its own for it. Who sets it goes on at once: to wake the
other thread there and then would make the two take turns, and on a busy core let a third process in between.
"""

import ctypes
import os

_CLOCK_MONOTONIC = 1  # <linux/time.h>
_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK  # TFD_CLOEXEC and TFD_NONBLOCK, <sys/timerfd.h>
_Itimerspec = ctypes.c_long * 4  # struct itimerspec: interval and value, each in seconds and nanoseconds

# By a `PyDLL`, which keeps the interpreter's lock: they never wait.
_create = ctypes.PyDLL(None, use_errno=True).timerfd_create
_settime = ctypes.PyDLL(None).timerfd_settime


class Alarm:
    """Goes off once, so many seconds after it was set last. Raises `OSError` if there is no descriptor left."""

    __slots__ = ("_fd", "_words")

    def __init__(self, after_s: float) -> None:
        self._fd: int = _create(_CLOCK_MONOTONIC, _FLAGS)
        if self._fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        self.after(after_s)

    def after(self, after_s: float) -> None:
        """Go off so many seconds after it is set, from the next time on."""
        after = _Itimerspec(0, 0, *divmod(round(after_s * 1_000_000_000), 1_000_000_000))
        # As they are passed on: to convert them takes as long as the call.
        self._words = ctypes.c_int(self._fd), ctypes.c_int(0), ctypes.byref(after), None

    def fileno(self) -> int:
        """Readable when it has gone off, until `heard`."""
        return self._fd

    def set(self) -> None:
        """Now, and not as it was set before. In a signal handler, too."""
        _settime(*self._words)

    def heard(self) -> None:
        """Wait for the next time. If it was set again meanwhile, it has not gone off: no harm."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Nobody sets it any more."""
        os.close(self._fd)
