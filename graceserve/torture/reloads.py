"""How the server is reloaded: a master of graceserve is asked, or a HUP, or a command. Shell; `graceserve torture`."""

import asyncio
import os
import signal
import time
from typing import Protocol

from graceserve.client import Found, find, pid_of, received
from graceserve.errors import OperatorError
from graceserve.status_text import told_text
from graceserve.torture.options import Plan
from graceserve.torture.tally import Verdict
from graceserve.wire import messages as m

COMMAND_S_MAX = 600.0
_OUTPUT_CHARS_MAX = 300


class Gone(Exception):
    """There is nobody to reload any more. `str()` says who it was."""


class Reload(Protocol):
    """A way to reload."""

    name: str  # whom, and how

    async def once(self) -> Verdict:
        """Reload and wait for the verdict, if there is one. Raises `Gone`."""

    def gone(self) -> str:
        """Empty while the server is there, as far as can be known; else who is gone."""


def choose(plan: Plan) -> Reload | None:
    """The way that the plan names, None if there is nothing to reload. Raises `OperatorError`."""
    if not plan.reloads:
        return None
    if plan.reload_command:
        return CommandReload(plan.reload_command)
    if plan.control_socket or not plan.pid:
        return MasterReload(plan.pid, plan.control_socket)
    try:
        return MasterReload(plan.pid, "")
    except OperatorError:  # no graceserve, or one of somebody else, which the signal will tell
        return HupReload(plan.pid)


class MasterReload:
    """As `graceserve reload` does."""

    def __init__(self, pid: str, control_socket: str) -> None:
        self._control_socket = control_socket
        found = find(pid, control_socket)
        found.channel.close()
        self._pid = str(found.pid)
        self.name = f"graceserve master {found.pid}, through its control socket"

    async def once(self) -> Verdict:
        """See `Reload`."""
        began = time.monotonic()
        try:
            found = find(self._pid, self._control_socket)
        except OperatorError as error:
            raise Gone(str(error)) from None
        try:
            found.channel.send(m.AskReload())
            ok, text = await _told(found)
        finally:
            found.channel.close()
        return Verdict(ok, text, time.monotonic() - began)

    def gone(self) -> str:
        """See `Reload`."""
        return "" if _signals(int(self._pid)) is not None else f"the master (pid {self._pid}) is gone"


class HupReload:
    """A HUP to a server that handles it."""

    def __init__(self, pid: str) -> None:
        self._text = pid
        number = pid_of(pid)
        self.name = f"pid {number}, by HUP"
        handled = _signals(number)
        if handled is None:
            raise OperatorError(f"--pid {pid}: there is no process {number}")
        if signal.SIGHUP not in handled:
            fix = "give --reload-command, or the pid of the server's first process"
            raise OperatorError(f"--pid {pid}: process {number} does not handle HUP, which may end it; {fix}")
        try:
            os.kill(number, 0)
        except OSError as error:
            raise OperatorError(f"--pid {pid}: {error.strerror}; run this as that user or root") from None

    async def once(self) -> Verdict:
        """See `Reload`. A pid file is read each time."""
        gone = self.gone()
        if gone:
            raise Gone(gone)
        try:
            os.kill(pid_of(self._text), signal.SIGHUP)
        except (OSError, OperatorError) as error:
            raise Gone(str(error)) from None
        return Verdict(True, "HUP sent", 0.0, known=False)

    def gone(self) -> str:
        """See `Reload`."""
        try:
            number = pid_of(self._text)
        except OperatorError as error:
            return str(error)
        return "" if _signals(number) is not None else f"the server (pid {number}) is gone"


class CommandReload:
    """A shell command; its exit status is the verdict."""

    def __init__(self, command: str) -> None:
        self._command = command
        self.name = f"by `{command}`"

    async def once(self) -> Verdict:
        """See `Reload`."""
        began = time.monotonic()
        pipe, stdout = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_shell(
            self._command, stdin=pipe, stdout=stdout, stderr=asyncio.subprocess.STDOUT
        )
        try:
            async with asyncio.timeout(COMMAND_S_MAX):
                out, _ = await process.communicate()
        except TimeoutError:
            return Verdict(False, f"no end within {COMMAND_S_MAX:g} s", time.monotonic() - began)
        finally:
            if process.returncode is None:
                process.terminate()
        said = " ".join(out.decode(errors="replace").split())[-_OUTPUT_CHARS_MAX:]
        text = f"exit {process.returncode}" + (f": {said}" if said else "")
        return Verdict(process.returncode == 0, text, time.monotonic() - began)

    def gone(self) -> str:
        """See `Reload`. Nobody knows."""
        return ""


async def _told(found: Found) -> tuple[bool, str]:
    """The verdict of a master: whether it switched, and its words."""
    while True:
        match await _next(found):
            case m.Told(outcome="switched") as told:
                return True, told_text(told, "reload")[0].partition("\n")[0]
            case m.Told() as told:
                return False, told_text(told, "reload")[1].partition("\n")[0]
            case m.Refused(reason):
                return False, reason
            case None:
                return False, "the master went away before the verdict"


async def _next(found: Found) -> m.Message | None:
    """None at end-of-file."""
    loop = asyncio.get_running_loop()
    while True:
        ready = asyncio.Event()
        loop.add_reader(found.channel.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(found.channel.fileno())
        try:
            return received(found)
        except BlockingIOError:
            continue


def _signals(pid: int) -> set[int] | None:
    """What a process catches, or blocks to take it by signalfd (proc(5)). None if it is gone, or a zombie."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            facts = dict(line.partition(":")[::2] for line in file)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if facts.get("State", "").split()[:1] in (["Z"], ["X"]):
        return None
    mask = int(facts.get("SigCgt", "0"), 16) | int(facts.get("SigBlk", "0"), 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
