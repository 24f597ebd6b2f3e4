"""The keeper of a worker: hands its connections over when it is killed. Shell; a small process beside each worker.

    worker --clone(2) with CLONE_FILES--> keeper, which sleeps on a pidfd --worker dead--> inbox --> another worker

Both have one table of descriptors. So when the worker is killed, crashes, or is ended by its app, nothing is closed,
and what clients have sent to it is not lost. The keeper sends those connections to the inbox of which no request has
begun (the worker notes that in its `ledger`), and ends, which closes the others. After an ordinary end there are none.

As long as the worker lives the keeper opens and closes nothing: it would be the worker's. What it knows it has from
the moment of its making: none of the app's code, and none of the worker's connections. The app's `wait` does not see
it, because it ends without a signal to its parent (wait(2), `__WCLONE`), and when it is killed itself the worker goes
on without. Where there is no such system call nobody keeps.
"""

import ctypes
import gc
import os
import select
import signal
from time import monotonic
from typing import NoReturn

from setproctitle import setproctitle

from graceserve.priority import step_forward
from graceserve.wire.channel import Channel
from graceserve.worker.handoff import hand_over
from graceserve.worker.ledger import Ledger

INBOX_FULL_S = 1.0  # for workers to make room in it; what is left then is closed
_CLONE_FILES = 0x400  # <linux/sched.h>
_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}  # <asm/unistd.h>; the flags come first on all of them


def keep(ledger: Ledger, inbox: Channel, channel: Channel, title: str) -> None:
    """Make the keeper of the calling process, which must have one thread."""
    number = _SYS_CLONE.get(os.uname().machine)
    if number is None:
        return
    try:
        worker = os.pidfd_open(os.getpid())
    except OSError:
        return
    clone = ctypes.PyDLL(None).syscall  # a `CDLL` would let go of the interpreter's lock, and the child have to get it
    words = [ctypes.c_long(word) for word in (number, _CLONE_FILES, 0, 0, 0, 0)]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # in the keeper for good
    pid = clone(*words)
    if pid == 0:
        _keep(worker, ledger, inbox, channel, title)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid < 0:
        os.close(worker)


def _keep(worker: int, ledger: Ledger, inbox: Channel, channel: Channel, title: str) -> NoReturn:
    """Nothing of the worker's may run in here, nor be let go of, whatever happens."""
    try:
        gc.disable()
        setproctitle(title)
        ended = select.poll()
        ended.register(worker, select.POLLIN)
        ended.poll()
        _rescue(ledger, inbox, channel)
    finally:
        os._exit(0)


def _rescue(ledger: Ledger, inbox: Channel, channel: Channel) -> None:
    """Those first whose client waits for something."""
    step_forward()
    until = monotonic() + INBOX_FULL_S
    for saved in sorted(ledger.saved(), key=lambda saved: not saved.waits):
        while not hand_over(saved.arrival, inbox):
            if monotonic() > until or not _has_room(inbox, channel):
                return


def _has_room(inbox: Channel, channel: Channel) -> bool:
    """Wait a moment for it. Not when the master is gone: nobody will come, and the next one wants to bind."""
    poll = select.poll()
    poll.register(inbox, select.POLLOUT)
    poll.register(channel, 0)
    return all(fd == inbox.fileno() for fd, _ in poll.poll(INBOX_FULL_S * 1000))
