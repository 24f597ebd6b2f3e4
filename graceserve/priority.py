"""Who goes first on a core that is busy: workers that serve, ahead of those that start or end. Shell; every process.

A process that wakes up for a request should not wait for one that imports an app. It need not where the other one has
asked for long slices of time (`sched_setattr(2)`, Linux 6.12): their shares stay the same, but who has shorter slices
interrupts the other at once, and not at the clock's next tick (4 ms). It takes no privilege, neither to ask for it nor
to return from it, as niceness would. A kernel that knows nothing of it does what it did before.
"""

import ctypes
import os

LONG_SLICE_NS = 10_000_000  # several times the usual one; where no core is ever idle, a wake-up may wait for as long
ENDING_NICER_BY = 10  # a tenth of a share: what an app does at its end takes time, but not for ever
_SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345}  # <asm/unistd.h>
_ORDINARY = (os.SCHED_OTHER, os.SCHED_BATCH)


class _SchedAttr(ctypes.Structure):
    """struct sched_attr of sched_setattr(2)."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("sched_policy", ctypes.c_uint32),
        ("sched_flags", ctypes.c_uint64),
        ("sched_nice", ctypes.c_int32),
        ("sched_priority", ctypes.c_uint32),
        ("sched_runtime", ctypes.c_uint64),
        ("sched_deadline", ctypes.c_uint64),
        ("sched_period", ctypes.c_uint64),
    )


def step_back() -> None:
    """Let those that serve interrupt the calling thread, and whatever it forks."""
    _set_slice(LONG_SLICE_NS)


def step_forward() -> None:
    """It serves from here on, and threads that it starts."""
    _set_slice(0)


def step_aside() -> None:
    """It has nothing to do any more but to end, while others serve."""
    try:
        os.nice(ENDING_NICER_BY)
    except OSError:
        return
    step_back()
    os.sched_yield()  # else this takes effect at the clock's next tick


def _set_slice(slice_ns: int) -> None:
    """0: the kernel's own. What the operator chose (chrt(1), nice(1)) stays; real time has no slices."""
    number = _SYS_SCHED_SETATTR.get(os.uname().machine)
    policy = os.sched_getscheduler(0)
    if number is None or policy not in _ORDINARY:
        return
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = _SchedAttr(ctypes.sizeof(_SchedAttr), policy, 0, nice, 0, slice_ns)
    ctypes.CDLL(None).syscall(ctypes.c_long(number), ctypes.c_long(0), ctypes.byref(asked), ctypes.c_long(0))
