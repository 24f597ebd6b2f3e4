"""The commands' side of the control socket. Shell; runs in `graceserve reload|rollback|status|stop|reopen`.

It finds the master (by pid, by pid file, by socket file, or as the only one there is), makes sure by SO_PEERCRED that
it talks to that process of that user, asks, and waits for the answer. A reload may take as long as the master gives it.
"""

import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from graceserve.errors import OperatorError, WireError
from graceserve.status_text import status_text, told_text
from graceserve.wire import messages as m
from graceserve.wire.channel import Channel, close_all
from graceserve.wire.control_name import abstract_name, listed_pids

CONNECT_S = 5.0
ANSWER_S = 10.0  # a master never waits for anything: no answer within this is none at all
_UCRED = struct.Struct("iII")  # pid, uid, gid: struct ucred, unix(7)

Say = Callable[[str], None]


class Exit(IntEnum):
    """Exit statuses of the commands."""

    DONE = 0
    FAILED = 1  # the new release failed and the old one serves on; or the master went away
    USAGE = 2  # also: no such master, or it refuses this user
    SUPERSEDED = 3  # a newer reload took this one's place


@dataclass(frozen=True, slots=True)
class Found:
    """A master that answered. The channel is the caller's to close."""

    pid: int
    channel: Channel


def find(pid: str, control_socket: str) -> Found:
    """The master. `pid`: a number or a pid file; both empty: the only one. Raises `OperatorError` if there is none."""
    wanted = pid_of(pid) if pid else 0
    if control_socket:
        found = _connect(control_socket, f"--control-socket {control_socket}")
        if wanted and found.pid != wanted:
            found.channel.close()
            raise OperatorError(f"--control-socket {control_socket}: pid {found.pid} listens there, not {wanted}")
        return found
    if wanted:
        return _connect_pid(wanted)
    return _only_one()


def reload(found: Found, say: Say, complain: Say, back: bool = False) -> Exit:
    """Reload (`back`: roll back) and wait for the verdict."""
    say(_named(found.pid))
    found.channel.send(m.AskRollback() if back else m.AskReload())
    while True:
        match _next(found, None):
            case m.Progress(text):
                say(text)
            case m.Told() as told:
                out, err = told_text(told, "rollback" if back else "reload")
                if out:
                    say(out)
                if err:
                    complain(err)
                return {"switched": Exit.DONE, "superseded": Exit.SUPERSEDED}.get(told.outcome, Exit.FAILED)
            case m.Refused(reason):
                complain(reason)
                return Exit.USAGE
            case None:
                complain("the master went away before the verdict")
                return Exit.FAILED


def status(found: Found, say: Say, complain: Say, as_json: bool) -> Exit:
    """Print what runs."""
    found.channel.send(m.AskStatus())
    match _answer(found):
        case m.Status(facts):
            say(json.dumps(facts, indent=2) if as_json else status_text(facts))
            return Exit.DONE
        case other:
            return _no_answer(other, complain)


def reopen(found: Found, complain: Say) -> Exit:
    """Have every process open its log file again."""
    found.channel.send(m.AskReopen())
    match _answer(found):
        case m.Done():
            return Exit.DONE
        case other:
            return _no_answer(other, complain)


def stop(found: Found, say: Say, complain: Say, quick: bool) -> Exit:
    """Stop, and wait until the master is gone."""
    named = _named(found.pid)
    found.channel.send(m.AskStop(quick))
    while True:
        match _next(found, None):
            case m.Refused(reason):
                complain(reason)
                return Exit.USAGE
            case None:
                say(f"stopped {named}")
                return Exit.DONE


# --- one message --------------------------------------------------------------------------------------------------


def _answer(found: Found) -> m.Message | None:
    """The next message that is not for somebody who waits."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        message = _next(found, deadline)
        if not isinstance(message, m.Progress | m.Unknown):
            return message


def _next(found: Found, deadline: float | None) -> m.Message | None:
    """None at end-of-file. Raises `OperatorError` if nothing comes until the deadline (monotonic)."""
    poll = select.poll()
    poll.register(found.channel.fileno(), select.POLLIN)
    while True:
        wait_ms = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        if not poll.poll(wait_ms):
            raise OperatorError(f"the master (pid {found.pid}) does not answer; look at its log")
        try:
            return received(found)
        except BlockingIOError:
            continue


def received(found: Found) -> m.Message | None:
    """What has come, None at end-of-file. Raises `BlockingIOError` if that is nothing, or noise."""
    try:
        got = found.channel.receive()
    except WireError:
        raise BlockingIOError from None
    if got is None:
        return None
    message, fds = got
    close_all(fds)
    return message


def _no_answer(message: m.Message | None, complain: Say) -> Exit:
    match message:
        case m.Refused(reason):
            complain(reason)
            return Exit.USAGE
        case None:
            complain("the master went away before its answer")
        case other:
            complain(f"the master answered {type(other).__name__}, which this graceserve does not understand")
    return Exit.FAILED


# --- which master -------------------------------------------------------------------------------------------------


def pid_of(text: str) -> int:
    """Of a number or a pid file. Raises `OperatorError`, which names `--pid`."""
    if text.isascii() and text.isdecimal() and len(text) < 10:
        if int(text) < 1:
            raise OperatorError(f"--pid {text}: that is no process; give the pid of the server's first one")
        return int(text)
    try:
        with open(text, encoding="utf-8") as file:
            content = file.read(64).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not a text"
        raise OperatorError(f"--pid {text}: {why}; give the master's pid or its pid file") from None
    if not (content.isascii() and content.isdecimal() and len(content) < 10):
        raise OperatorError(f"--pid {text}: {content!r} is not a pid; give the master's pid or its pid file")
    return int(content)


def _connect_pid(pid: int) -> Found:
    found = _connect(abstract_name(pid), f"--pid {pid}")
    if found.pid != pid:
        found.channel.close()
        raise OperatorError(f"--pid {pid}: pid {found.pid} listens under its name; that is no graceserve master")
    return found


def _only_one() -> Found:
    found: list[Found] = []
    for pid in _listed():
        try:
            found.append(_connect_pid(pid))
        except OperatorError:
            continue  # another user's, or gone by now
    if len(found) == 1:
        return found[0]
    for each in found:
        each.channel.close()
    if not found:
        raise OperatorError("no master of this user runs here; start one, or name it with --pid or --control-socket")
    masters = ", ".join(f"{each.pid} ({_title(each.pid)})" for each in found)
    raise OperatorError(f"{len(found)} masters run here; choose one with --pid: {masters}")


def _listed() -> list[int]:
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as file:
            return listed_pids(file.read())
    except OSError as error:
        raise OperatorError(f"/proc/net/unix: {error.strerror}; name the master with --pid") from None


def _title(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return " ".join(file.read(200).replace("\0", " ").split())
    except OSError:
        return "gone"


def _named(pid: int) -> str:
    """ "master PID [name]", where its process title tells the name."""
    _, found, name = _title(pid).partition("graceserve: master [")
    return f"master {pid} [{name}" if found else f"master {pid}"


def _connect(name: str, what: str) -> Found:
    """Raises `OperatorError` if nobody listens, or somebody whom this user has no reason to trust."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(name)
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    except OSError as error:
        sock.close()
        why = "no master listens there" if isinstance(error, ConnectionRefusedError) else error.strerror or str(error)
        raise OperatorError(f"{what}: {why}; `ps -ef | grep graceserve` shows what runs") from None
    if os.geteuid() not in (0, uid) and uid != 0:
        sock.close()
        raise OperatorError(f"{what}: the master belongs to another user (uid {uid}); run this as that user or root")
    return Found(pid, Channel(sock))
