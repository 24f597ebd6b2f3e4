"""The seam between the master and the operating system. Shell; everything that a test may want to fake is here.

Nothing here waits. What fails in a forked child before its `execve` ends that child with `_exit`, after it has said why
on its channel: it must never run the parent's clean-up.
"""

import ctypes
import os
import signal
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from graceserve.wire.channel import Channel
from graceserve.wire.messages import ExecFailed

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>, prctl(2)
_FAMILY_MAX = 1000  # processes looked at
_IGNORED_OVER_EXEC = (signal.SIGHUP, signal.SIGINT)  # the process group's; Python keeps them ignored while it starts


@dataclass(frozen=True, slots=True)
class Spawn:
    """A program to exec. `inherit` are the descriptors it keeps beside 0, 1 and 2; `output` replaces `output_of`."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    inherit: Sequence[int] = ()
    say: Channel | None = None  # where the child says that its exec failed
    output: int = -1
    output_of: Sequence[int] = (1, 2)
    die_with_parent: bool = False  # SIGKILL when this process ends (prctl(2), PR_SET_PDEATHSIG)
    new_session: bool = False  # a process group of its own, out of reach of the terminal's and the supervisor's signals


def module_argv(python: str, flags: Sequence[str], safe_path: bool, module: str, *words: str) -> list[str]:
    """`python -m module`; with `safe_path` (a console script's way) the working directory is not put on sys.path."""
    return [python, *flags, *(["-P"] if safe_path else []), "-m", module, *words]


class Kernel:
    """Processes, clock and /proc."""

    def now(self) -> float:
        """CLOCK_MONOTONIC in seconds; goes on over a re-exec."""
        return time.monotonic()

    def become_subreaper(self) -> bool:
        """Have orphaned descendants become this process's children (prctl(2)); kept over `execve`."""
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)

    def spawn(self, order: Spawn) -> int:
        """The pid of the new process. Raises `OSError` if there can't be one (EAGAIN, ENOMEM)."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                _become(order)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def kill(self, pid: int, number: int) -> bool:
        """Whether there was such a process."""
        try:
            os.kill(pid, number)
        except OSError:
            return False
        return True

    def kill_group(self, pid: int, number: int) -> bool:
        """The same for the process group that `pid` leads."""
        try:
            os.killpg(pid, number)
        except OSError:
            return self.kill(pid, number)  # it has not called setsid yet
        return True

    def reap(self) -> Iterator[tuple[int, int]]:
        """(pid, wait status) of each child that has ended, ours or a stranger that was reparented to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            yield pid, status

    def effort(self, pid: int) -> tuple[int, int]:
        """(clock ticks of CPU, bytes read) of a process so far; zeros when it is gone. /proc, proc(5)."""
        ticks = read = 0
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                columns = file.read().rpartition(b") ")[2].split()
            ticks = sum(int(column) for column in columns[11:15])  # its own, and of its children that have ended
            with open(f"/proc/{pid}/io", "rb") as file:
                read = int(file.readline().split()[1])
        except (OSError, ValueError, IndexError):
            pass
        return ticks, read

    def family(self, pid: int) -> list[int]:
        """The process and all its living descendants."""
        found: list[int] = []
        ahead = [pid]
        while ahead and len(found) < _FAMILY_MAX:
            found.append(ahead.pop())
            try:
                with open(f"/proc/{found[-1]}/task/{found[-1]}/children", "rb") as file:
                    ahead += [int(child) for child in file.read().split()]
            except (OSError, ValueError):
                continue  # it has ended meanwhile
        return found

    def rss_bytes(self, pid: int) -> int:
        """Resident memory; 0 when the process is gone."""
        try:
            with open(f"/proc/{pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, ValueError, IndexError):
            return 0


def describe(status: int) -> str:
    """A wait status in words: "exited with status 3", "was killed by SIGSEGV"."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exited with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def file_identity(path: str) -> tuple[int, int, bool]:
    """(device, inode, is a socket) of `path`; (0, 0, False) when there is none."""
    try:
        info = os.stat(path)
    except OSError:
        return 0, 0, False
    return info.st_dev, info.st_ino, stat.S_ISSOCK(info.st_mode)


def _become(order: Spawn) -> NoReturn:
    try:
        _prepare_child(order)
        os.execve(order.argv[0], list(order.argv), dict(order.env))
    except BaseException as error:  # nothing of the parent's may run in here, whatever happens
        try:
            if order.say is not None:
                order.say.send(ExecFailed(f"{order.argv[0]}: {error}"))
        finally:
            os._exit(127)


def _prepare_child(order: Spawn) -> None:
    signal.set_wakeup_fd(-1)  # it is the parent's
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if order.die_with_parent:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if order.new_session:
        os.setsid()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; a shell's programs rely on them
            signal.signal(number, signal.SIG_DFL)
    else:
        for number in _IGNORED_OVER_EXEC:
            signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.chdir(order.cwd)
    if order.output >= 0:
        for fd in order.output_of:
            os.dup2(order.output, fd)
    for fd in order.inherit:
        os.set_inheritable(fd, True)
