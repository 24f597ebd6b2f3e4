"""The end of a worker's process. Shell; used in a worker when nothing of it serves any more.

Python's own end lets go of every object that there is. That takes 14 ms with an app of three lines, 36 ms with Django's
hello world, and most of it is the copying of pages that were shared with the template until then, because the counts
in them change. At a reload all old workers would do so at the same time, beside those that serve. So a worker ends as
the processes of `multiprocessing` do: what somebody may rely on is done, then it is gone. (Python's own end would not
take an app's module down here: the frames of threads that are daemons keep it.)
"""

import atexit
import fcntl
import gc
import io
import os
import stat
import sys
import threading
import traceback
from typing import Any, NoReturn

FLUSH_S = 2.0  # a thread of the app may hold a buffer until somebody reads what it writes
_STANDARD = (0, 1, 2)
_BUFFERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)


def end(status: int) -> NoReturn:
    """Wait for the app's threads that are not daemons, call its `atexit` hooks, write what is in its files' buffers."""
    try:
        _let_finish()
        flushing = threading.Thread(target=_flush, daemon=True)
        flushing.start()
        flushing.join(FLUSH_S)
    finally:
        os._exit(status)


def _let_finish() -> None:
    try:
        threading._shutdown()  # type: ignore[attr-defined]
    except BaseException:  # of what `concurrent.futures` and the like have registered there
        traceback.print_exc()
    atexit._run_exitfuncs()  # shows itself what goes wrong in one


def flush_standard() -> None:
    """What Python holds of its standard streams, also of those in whose place the app has put others."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        _flush_one(stream)


def _flush() -> None:
    flush_standard()
    if _writes_files():  # to look for buffers takes as long as Python's end
        gc.unfreeze()  # what the template had opened is to be found, too
        for found in gc.get_objects():
            if issubclass(type(found), _BUFFERS):  # not `isinstance`, which asks a proxy what it stands for
                _flush_one(found)


def _flush_one(stream: Any) -> None:
    try:
        stream.flush()
    except Exception:  # None, a closed pipe, a write interrupted, or whatever an app's own stream raises
        pass


def _writes_files() -> bool:
    """Whether a file with a name, or a pipe, is open for writing."""
    try:
        return any(_is_written(int(name)) for name in os.listdir("/proc/self/fd") if int(name) not in _STANDARD)
    except OSError:  # no descriptor left to look
        return True


def _is_written(fd: int) -> bool:
    try:
        found, flags = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GETFL)
    except OSError:  # the directory's own
        return False
    named = stat.S_ISREG(found.st_mode) and found.st_nlink > 0
    return (named or stat.S_ISFIFO(found.st_mode)) and flags & os.O_ACCMODE != os.O_RDONLY
