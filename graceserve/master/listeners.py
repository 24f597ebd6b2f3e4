"""The listening sockets. Shell; the master binds them once, hands copies to workers, and keeps them over reloads."""

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from graceserve.address import Address, Family, parse
from graceserve.errors import OperatorError
from graceserve.master.kernel import file_identity

BACKLOG = 2048  # gunicorn's; the kernel cuts it to net.core.somaxconn
LISTEN_FDS_START = 3  # sd_listen_fds(3)
_BIND_BY_SYSTEMD = "systemd"


@dataclass(frozen=True, slots=True)
class Listener:
    """One bound socket. `name` is the bind as it was given, `address` what it came to (port 0 became a number)."""

    name: str
    address: str
    sock: socket.socket
    unlink: tuple[str, int, int] | None = None  # path, device, inode of a Unix socket that we made


class Listeners:
    """All of them by name. Closing one that is not wanted any more removes its socket file, if it is still ours."""

    def __init__(self) -> None:
        self._by_name: dict[str, Listener] = {}
        self.sealed = False  # the service runs: a descriptor number may be the master's own by now

    def all(self) -> list[Listener]:
        """In the order in which they were bound."""
        return list(self._by_name.values())

    def get(self, names: Iterable[str]) -> list[Listener]:
        """Those of `names` that are open."""
        return [self._by_name[name] for name in names if name in self._by_name]

    def open(self, binds: Sequence[str], umask: int) -> tuple[str, ...]:
        """Bind what is not bound yet; the names. Raises `OperatorError`, with nothing newly bound left over."""
        made: list[str] = []
        try:
            for text in binds:
                address = parse(text)
                if address.name not in self._by_name:
                    if self.sealed and address.family is Family.FD:
                        raise OperatorError(f"--bind {address.name}: a descriptor can't be added by a reload; restart")
                    self._by_name[address.name] = _bound(address, umask)
                    made.append(address.name)
        except OperatorError:
            self._close(made)
            raise
        return tuple(parse(text).name for text in binds)

    def adopt(self, environ: Mapping[str, str], pid: int) -> tuple[str, ...]:
        """Sockets that systemd bound for us, `sd_listen_fds(3)`; empty when there are none."""
        if environ.get("LISTEN_PID") != str(pid):
            return ()
        count = int(environ.get("LISTEN_FDS", "0") or 0)
        names = []
        for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + count):
            listener = _inherited(fd, f"{_BIND_BY_SYSTEMD}:{fd}")
            self._by_name[listener.name] = listener
            names.append(listener.name)
        return tuple(names)

    def keep(self, names: Iterable[str]) -> list[Listener]:
        """Close all others; those that were closed."""
        wanted = set(names)
        return self._close([name for name in self._by_name if name not in wanted])

    def dump(self) -> list[dict[str, object]]:
        """For the re-exec; the descriptors stay open."""
        return [
            {"name": it.name, "address": it.address, "fd": it.sock.fileno(), "unlink": it.unlink} for it in self.all()
        ]

    @classmethod
    def load(cls, rows: Iterable[Mapping[str, object]]) -> "Listeners":
        """The listeners of `dump`, whose descriptors were inherited."""
        listeners = cls()
        listeners.sealed = True
        for row in rows:
            name, fd, unlink = str(row["name"]), row["fd"], row.get("unlink")
            assert isinstance(fd, int)
            sock = socket.socket(fileno=fd)
            file = (str(unlink[0]), int(unlink[1]), int(unlink[2])) if isinstance(unlink, list) else None
            listeners._by_name[name] = Listener(name, str(row.get("address", name)), sock, file)
        return listeners

    def _close(self, names: Iterable[str]) -> list[Listener]:
        closed = [self._by_name.pop(name) for name in names]
        for listener in closed:
            listener.sock.close()
            if listener.unlink is not None:
                path, *identity = listener.unlink
                if list(file_identity(path)[:2]) == identity:
                    _unlink(path)
        return closed


def _bound(address: Address, umask: int) -> Listener:
    match address.family:
        case Family.FD:
            return _inherited(address.fd, address.name)
        case Family.UNIX:
            return _unix(address, umask)
        case Family.TCP:
            return _tcp(address)


def _inherited(fd: int, name: str) -> Listener:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise OperatorError(f"--bind {name}: descriptor {fd} is not a socket ({error.strerror})") from None
    os.set_inheritable(fd, False)  # children get it in a message, not by accident
    try:
        if sock.type != socket.SOCK_STREAM:
            raise OperatorError(f"--bind {name}: descriptor {fd} is not a stream socket")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OperatorError(f"--bind {name}: descriptor {fd} can't listen ({error.strerror})") from None
    except OperatorError:
        sock.close()
        raise
    sock.setblocking(False)
    return Listener(name, _address_of(sock), sock)


def _tcp(address: Address) -> Listener:
    host = address.host.encode()  # as bytes: for a str, Python loads its idna codec, a megabyte
    flags = socket.AI_PASSIVE | socket.AI_NUMERICSERV
    try:
        info = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=flags)[0]
    except socket.gaierror as error:
        raise OperatorError(f"--bind {address.name}: no such host {address.host} ({error.strerror})") from None
    sock = socket.socket(info[0], socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(info[4])
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OperatorError(f"--bind {address.name}: {_why(error)}") from None
    sock.setblocking(False)
    return Listener(address.name, _address_of(sock), sock)


def _unix(address: Address, umask: int) -> Listener:
    make_room(address.path, f"--bind {address.name}", socket.SOCK_STREAM)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(umask)
    try:
        sock.bind(address.path)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise OperatorError(f"--bind {address.name}: {_why(error)}") from None
    finally:
        os.umask(before)
    sock.setblocking(False)
    device, inode, _ = file_identity(address.path)
    return Listener(address.name, address.name, sock, (address.path, device, inode))


def make_room(path: str, option: str, kind: socket.SocketKind) -> None:
    """Remove a socket file that nobody listens on. Raises `OperatorError` if somebody does, or if it is no socket."""
    device, inode, is_socket = file_identity(path)
    if not (device or inode):
        return
    if not is_socket:
        raise OperatorError(f"{option}: the file there is not a socket; remove it or choose another path")
    try:
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except ConnectionRefusedError:
        _unlink(path)
        return
    except BlockingIOError:
        pass  # a full backlog is a live server's
    except OSError as error:
        raise OperatorError(f"{option}: {_why(error)}") from None
    raise OperatorError(f"{option}: another server listens there; stop it or choose another path")


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # not ours to remove any more: the bind that follows says what is wrong


def _address_of(sock: socket.socket) -> str:
    try:
        name = sock.getsockname()
    except OSError:
        return "?"
    if sock.family == socket.AF_UNIX:
        return f"unix:{name if isinstance(name, str) else name.decode(errors='replace')}"
    host, port = name[0], name[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _why(error: OSError) -> str:
    match error.errno:
        case 98:  # EADDRINUSE
            return "the address is in use; stop the server that has it (ss -ltnp) or choose another"
        case 13:  # EACCES
            return "permission denied; a port below 1024 needs CAP_NET_BIND_SERVICE, a path a writable directory"
        case 99:  # EADDRNOTAVAIL
            return "this machine has no such address"
        case _:
            return error.strerror or str(error)
