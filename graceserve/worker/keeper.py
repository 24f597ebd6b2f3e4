"""The keeper of a worker: hands its connections over when it is killed. Shell; a small process beside each worker.

    worker --clone(2) with CLONE_FILES--> keeper, which sleeps on a pidfd --worker dead--> inbox --> another worker

Both have one table of descriptors. So when the worker is killed, crashes, or is ended by its app, nothing is closed,
and what clients have sent to it is not lost. The keeper sends those connections to the inbox of which no request has
begun (the worker notes that in its `ledger`), and closes the others first. After an ordinary end there are none.

As long as the worker lives the keeper opens and closes nothing: it would be the worker's. What it knows it has from
the moment of its making: none of the app's code, and none of the worker's connections. The app's `wait` does not see
it, because it ends without a signal to its parent (wait(2), `__WCLONE`), and when it is killed itself the worker goes
on without. Where there is no such system call nobody keeps. An app that execs another program in its worker leaves the
table to the keeper, and with it what that program would have closed, until it ends.
"""

import ctypes
import gc
import os
import select
import signal
from collections import deque
from time import monotonic
from typing import NoReturn

from setproctitle import setproctitle

from graceserve.logs import Log
from graceserve.priority import step_forward
from graceserve.wire.channel import Channel
from graceserve.worker.arrival import Arrival
from graceserve.worker.handoff import hand_over
from graceserve.worker.ledger import Ledger

WITHIN_S = 60.0  # a successor that is to empty the inbox may have to import the app first; what is left then is closed
AGAIN_S = 0.01  # when the inbox is full
_CLONE_FILES = 0x400  # <linux/sched.h>
_SYS_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220}  # <asm/unistd.h>; the flags come first on all of them


def keep(ledger: Ledger, inbox: Channel, title: str, log: Log) -> None:
    """Make the keeper of the calling process, which must have one thread."""
    number = _SYS_CLONE.get(os.uname().machine)
    if number is None:
        return
    try:
        worker = os.pidfd_open(os.getpid())
    except (AttributeError, OSError):  # neither Python nor the kernel need know it
        return
    clone = ctypes.PyDLL(None).syscall  # a `CDLL` would let go of the interpreter's lock, and the child have to get it
    words = [ctypes.c_long(word) for word in (number, _CLONE_FILES, 0, 0, 0, 0)]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # in the keeper for good
    pid = clone(*words)
    if pid == 0:
        _keep(worker, ledger, inbox, title, log)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    if pid < 0:
        os.close(worker)


def _keep(worker: int, ledger: Ledger, inbox: Channel, title: str, log: Log) -> NoReturn:
    """Nothing of the worker's may run in here, nor be let go of, whatever happens."""
    try:
        gc.disable()
        setproctitle(title)
        ended = select.poll()
        ended.register(worker, select.POLLIN)
        ended.poll()
        saved = deque(sorted(ledger.saved(), key=lambda arrival: not arrival.waits))  # first who waits for something
        if saved:
            log.info("kept", connections=len(saved), waiting=sum(one.waits for one in saved))
            _close_all_but({inbox.fileno(), *(one.sock.fileno() for one in saved)})
            step_forward()
            _rescue(saved, inbox)
    finally:
        os._exit(0)


def _close_all_but(kept: set[int]) -> None:
    """The table is the keeper's alone now, and what else is in it is not to outlive the worker: running requests,
    listeners, the app's files and their locks. Nor this end of the inbox, which others take from."""
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd not in kept:
            try:
                os.close(fd)
            except OSError:  # the directory's own
                pass


def _rescue(saved: deque[Arrival], inbox: Channel) -> None:
    """Until all are in it, or nobody is left who could take them."""
    hung_up = select.poll()
    hung_up.register(inbox, 0)
    until = monotonic() + WITHIN_S
    while saved and monotonic() < until:
        if hand_over(saved[0], inbox):
            saved.popleft().sock.close()
        elif hung_up.poll(AGAIN_S * 1000):
            return
        else:
            saved.rotate(-1)
