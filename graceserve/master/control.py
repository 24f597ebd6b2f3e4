"""The control socket: `graceserve reload`, `status` and the rest talk to the master here. Shell; master.

A `SOCK_SEQPACKET` socket in Linux's abstract namespace (no file: works read-only and home-less), or at a given path.
Who may talk is the kernel's word (`SO_PEERCRED`, unix(7)): root, the user that the master runs as, and the one who
started it.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from graceserve.errors import OperatorError, WireError
from graceserve.master.book import Child, Kind
from graceserve.master.desk import Desk
from graceserve.master.listeners import make_room
from graceserve.master.reloads import Reloads
from graceserve.wire import messages as m
from graceserve.wire.channel import Channel, close_all
from graceserve.wire.control_name import abstract_name

STATUS_WAIT_S = 0.2  # for the workers to tell how they are; one in an app call will not
CLIENTS_MAX = 256  # at once; beyond it a client is told to come again
_UCRED = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class Orders:
    """What a client may ask for, beside a reload."""

    status: Callable[[float], dict[str, Any]]  # of when the workers were pinged for it
    stop: Callable[[bool], None]
    reopen: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Door:
    """Where clients come in. `path` is empty for the abstract name; `uid` is who started the master."""

    sock: socket.socket
    path: str
    uid: int

    @classmethod
    def open(cls, path: str, pid: int, ids: tuple[int, int] | None) -> "Door":
        """Bind and listen; a file is `ids`' own, whom the master becomes. Raises `OperatorError`."""
        if path:
            make_room(path, f"--control-socket {path}", socket.SOCK_SEQPACKET)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)
        try:
            sock.bind(path or abstract_name(pid))
            sock.listen(CLIENTS_MAX)
            if path and ids is not None:
                os.chown(path, *ids)
        except OSError as error:
            sock.close()
            where = f"--control-socket {path}" if path else "the control socket"
            raise OperatorError(f"{where}: {error.strerror}; is another master there? choose another path") from None
        finally:
            os.umask(before)
        return cls(sock, path, os.geteuid())


class Control:
    """The door and the clients that came in."""

    def __init__(self, desk: Desk, reloads: Reloads, orders: Orders, door: Door) -> None:
        self._desk = desk
        self._reloads = reloads
        self._orders = orders
        self._door = door
        self.clients: dict[int, Channel] = {}
        self._status_asked: list[tuple[Channel, float]] = []  # who waits for one, and since when
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def attach(self) -> None:
        """Begin (or, after a re-exec, go on) to listen."""
        self._desk.poller.register(self._door.sock, self._accept)
        for client in self.clients.values():
            self._desk.poller.register(client, partial(self._listen, client))

    def close(self) -> None:
        """The master ends; clients that wait see end-of-file."""
        for client in list(self.clients.values()):
            self._hang_up(client)
        self._desk.poller.unregister(self._door.sock)
        self._door.sock.close()
        if self._door.path:
            try:
                os.unlink(self._door.path)
            except OSError:
                pass

    @property
    def fds(self) -> list[int]:
        """Every descriptor it owns."""
        return [self._door.sock.fileno(), *self.clients]

    def dump(self) -> dict[str, Any]:
        """For the re-exec."""
        door = self._door
        return {"fd": door.sock.fileno(), "path": door.path, "uid": door.uid, "clients": list(self.clients)}

    @classmethod
    def load(cls, desk: Desk, reloads: Reloads, orders: Orders, data: Mapping[str, Any]) -> "Control":
        """The control socket of `dump`; its descriptors were inherited."""
        door = Door(socket.socket(fileno=data["fd"]), data.get("path", ""), data.get("uid", 0))
        control = cls(desk, reloads, orders, door)
        control.clients = {fd: Channel.of_fd(fd) for fd in data.get("clients", ())}
        return control

    def _accept(self) -> None:
        try:
            sock, _ = self._door.sock.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return  # else it has gone again
        client = Channel(sock)
        _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if uid not in (0, self._door.uid, os.geteuid()):
            client.send(m.Refused(f"the master is another user's (uid {os.geteuid()}), and you are uid {uid}"))
            client.close()
        elif len(self.clients) >= CLIENTS_MAX:
            client.send(m.Refused(f"{CLIENTS_MAX} clients wait already; try again later"))
            client.close()
        else:
            self.clients[client.fileno()] = client
            self._desk.poller.register(client, partial(self._listen, client))

    def _turn_away(self) -> None:
        """Out of descriptors: a client that is left in the queue would wake the loop for ever."""
        os.close(self._spare_fd)
        try:
            sock, _ = self._door.sock.accept()
            sock.close()
        except OSError:
            pass
        self._spare_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _listen(self, client: Channel) -> None:
        try:
            received = client.receive()
        except BlockingIOError:
            return
        except WireError as error:
            client.send(m.Refused(str(error)))
            received = None
        if received is None:
            self._hang_up(client)
            return
        message, fds = received
        close_all(fds)
        self._obey(client, message)

    def _obey(self, client: Channel, message: m.Message) -> None:
        match message:
            case m.AskReload():
                self._desk.log.info("reload", by="graceserve reload")
                self._reloads.ask(client)
            case m.AskRollback():
                self._desk.log.info("reload", by="graceserve rollback")
                self._reloads.ask_back(client)
            case m.AskStatus():
                self._ask_workers()
                self._status_asked.append((client, self._desk.kernel.now()))
            case m.AskStop(quick):
                self._orders.stop(quick)
            case m.AskReopen():
                self._orders.reopen()
                client.send(m.Done())
            case _:
                name = message.name if isinstance(message, m.Unknown) else type(message).__name__
                client.send(m.Refused(f"this master does not know {name}; it may be older than your command"))

    @property
    def deadline(self) -> float | None:
        """When a client must have its status at the latest."""
        first = min((asked for _, asked in self._status_asked), default=None)
        return None if first is None else first + STATUS_WAIT_S

    def turn(self, at_once: bool = False) -> None:
        """Answer who waits for a status, if all workers have told how they are, or have had time to."""
        now, waiting, self._status_asked = self._desk.kernel.now(), self._status_asked, []
        for client, asked in waiting:
            silent = (child for child in self._workers() if child.pong_at < asked)
            if at_once or now >= asked + STATUS_WAIT_S or next(silent, None) is None:
                self._tell_status(client, asked)
            else:
                self._status_asked.append((client, asked))

    def _workers(self) -> Iterator[Child]:
        return (child for child in self._desk.book.children if child.kind is Kind.WORKER and child.ready)

    def _ask_workers(self) -> None:
        for child in self._workers():
            if child.channel is not None:
                child.channel.send(m.Ping())

    def _tell_status(self, client: Channel, asked: float) -> None:
        try:
            client.send(m.Status(self._orders.status(asked)))
        except WireError as error:  # some hundred workers
            client.send(m.Refused(f"the status does not fit into one message: {error}"))

    def _hang_up(self, client: Channel) -> None:
        self._desk.poller.unregister(client)
        self._status_asked = [row for row in self._status_asked if row[0] is not client]
        self.clients.pop(client.fileno(), None)
        self._reloads.forget_client(client)
        client.close()
