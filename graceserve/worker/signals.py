"""A worker's signals. Shell; used in a worker, in its main thread.

Python-level handlers, not the loop's: they run between two bytecodes of an app call, too, so that a worker that is busy
with a long request still stops accepting at once. HUP, INT and the like come to the whole process group and are the
master's; they get a handler that does nothing, since the app's subprocesses would inherit SIG_IGN.
"""

import atexit
import faulthandler
import os
import signal
from collections.abc import Callable

from graceserve.worker.ending import flush_standard

QUIT_S = 2.0  # for the app's atexit hooks at a quick end
DEAF_TO = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU,
           signal.SIGWINCH)  # fmt: skip


def obey(on_term: Callable[[], None]) -> None:
    """From here SIGTERM calls `on_term`, wherever the main thread is, and SIGQUIT ends the process."""
    for number in DEAF_TO:
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)
    signal.signal(signal.SIGTERM, lambda *_: on_term())
    signal.signal(signal.SIGQUIT, lambda *_: quit_now())


def obey_no_more() -> None:
    """At the end: what still comes (the SIGTERM of a drain that is over already) must not change the exit status.

    SIG_IGN after all: the interpreter's finalization puts SIG_DFL in the place of a Python-level handler.
    """
    for number in (*DEAF_TO, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def quit_now() -> None:
    """End here and now, with status 0, after the atexit hooks.

    Not by an exception: in a handler it would come up inside of the app, which may swallow it (`except BaseException`,
    `__del__`, a C callback). The hooks may hang, or want a lock that the interrupted code holds; faulthandler's
    watchdog, a thread without Python, then ends the process with status 1.
    """
    with open(os.devnull, "w") as nowhere:
        faulthandler.dump_traceback_later(QUIT_S, exit=True, file=nowhere)
        atexit._run_exitfuncs()
        flush_standard()
        os._exit(0)
