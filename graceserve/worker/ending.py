"""The end of a worker's process. Shell; used in a worker when nothing of it serves any more.

Python's own end lets go of every object that there is. That takes 14 ms with an app of three lines, 36 ms with Django's
hello world, and most of it is the copying of pages that were shared with the template until then, because the counts
in them change. At a reload all old workers would do so at the same time, beside those that serve. So a worker ends as
the processes of `multiprocessing` do: what somebody may rely on is done, and then it is gone.
"""

import atexit
import fcntl
import gc
import io
import os
import stat
import sys
import threading
from typing import NoReturn

_STANDARD = (0, 1, 2)
_BUFFERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def end(status: int) -> NoReturn:
    """Wait for the app's threads that are not daemons, call its `atexit` hooks, write what is in its files' buffers."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        flush_standard()
        if _writes_files():  # to look for their buffers takes as long as Python's end
            _flush_files()
        os._exit(status)


def flush_standard() -> None:
    """What Python holds of its standard streams."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError, RuntimeError):  # None, a closed pipe, a write interrupted
            pass


def _writes_files() -> bool:
    """Whether a file with a name, or a pipe, is open for writing."""
    return any(_is_written(int(name)) for name in os.listdir("/proc/self/fd") if int(name) not in _STANDARD)


def _is_written(fd: int) -> bool:
    try:
        found, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:  # the directory's own
        return False
    named = stat.S_ISREG(found.st_mode) and found.st_nlink > 0
    return (named or stat.S_ISFIFO(found.st_mode)) and flags & os.O_ACCMODE != os.O_RDONLY


def _flush_files() -> None:
    gc.unfreeze()  # what the template had opened is to be found, too
    for found in gc.get_objects():
        if issubclass(type(found), _BUFFERS):  # not `isinstance`, which asks a proxy of the app's what it stands for
            try:
                found.flush()
            except (OSError, ValueError):  # no room, or closed
                pass
