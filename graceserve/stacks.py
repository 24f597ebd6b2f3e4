"""Where a process writes the stacks of its threads when it is stuck or crashes. Shell; template and workers.

An anonymous file (`memfd_create(2)`) that `faulthandler` writes to from the signal handler itself, so that it works
while C code holds the interpreter. The master holds the same file and reads it after the process's death.
"""

import ctypes
import faulthandler
import mmap
import os
import signal

# Asks for the stacks. A real-time signal: apps have uses of their own for SIGUSR1 and 2, faulthandler one for SIGABRT.
DUMP_SIGNAL = signal.SIGRTMIN + 2
SIGNAL_STACK_BYTES = 512 * 1024  # all signals at once, nested, at 3 to 11 kB a frame (AVX-512, AMX)


class _StackT(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


_signal_stacks: list[mmap.mmap] = []  # never freed: the kernel has their addresses


def open_stacks() -> int:
    """A descriptor for the master. From here `DUMP_SIGNAL` has all stacks written; a crash writes them, too."""
    fd = os.memfd_create("graceserve-stacks", os.MFD_CLOEXEC)
    faulthandler.enable(file=fd, all_threads=True)
    faulthandler.register(DUMP_SIGNAL, file=fd, all_threads=True, chain=False)
    _widen_signal_stack()
    return fd


def _widen_signal_stack() -> None:
    """`faulthandler.enable` installs an alternate stack of a few kB, which CPython's handlers for all signals then use.

    They nest, and the sixth one at a time crashed the process. The memory is private: were it shared with a forked
    sibling, a signal that both get at once (a drain) would have them run on one stack, and corrupt each other.
    """
    memory = mmap.mmap(-1, SIGNAL_STACK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _signal_stacks.append(memory)
    stack = _StackT(ctypes.addressof(ctypes.c_char.from_buffer(memory)), 0, SIGNAL_STACK_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.sigaltstack(ctypes.byref(stack), None):
        raise OSError(ctypes.get_errno(), "sigaltstack")
