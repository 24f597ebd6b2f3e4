"""Bind addresses, as gunicorn writes them. Pure; used by the options and by the master's listeners."""

from dataclasses import dataclass
from enum import Enum

from graceserve.errors import OperatorError

PORT_DEFAULT = 8000


class Family(Enum):
    """What kind of socket an address names."""

    TCP = "tcp"
    UNIX = "unix"
    FD = "fd"


@dataclass(frozen=True, slots=True)
class Address:
    """One `--bind`. `host` and `port` for TCP, `path` for UNIX, `fd` for FD."""

    family: Family
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1

    @property
    def name(self) -> str:
        """The address as it is logged and compared over reloads."""
        match self.family:
            case Family.UNIX:
                return f"unix:{self.path}"
            case Family.FD:
                return f"fd://{self.fd}"
            case Family.TCP:
                return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(text: str) -> Address:
    """`HOST:PORT`, `HOST`, `:PORT`, `[IPV6]:PORT`, `unix:PATH` or `fd://N`. Raises `OperatorError`."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        path = path.removeprefix("//") if path.startswith("//") else path
        if not path:
            raise _bad(text, "a Unix socket needs a path, as in unix:/run/app.sock")
        return Address(Family.UNIX, path=path)
    if text.startswith("fd://"):
        number = text.removeprefix("fd://")
        if not number.isdecimal():
            raise _bad(text, "a descriptor is a number, as in fd://3")
        return Address(Family.FD, fd=int(number))
    return _tcp(text.removeprefix("tcp://"), text)


def _tcp(rest: str, text: str) -> Address:
    if rest.startswith("["):
        host, bracket, port = rest[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise _bad(text, "an IPv6 address is written [::1]:8000")
        return Address(Family.TCP, host=host, port=_port(port[1:], text))
    host, _, port = rest.partition(":")
    if ":" in port:
        raise _bad(text, f"an IPv6 address is written [{rest.rpartition(':')[0]}]:{rest.rpartition(':')[2]}")
    if not host and not port:
        raise _bad(text, "use HOST:PORT, unix:PATH or fd://N")
    return Address(Family.TCP, host=host or "0.0.0.0", port=_port(port, text))


def _port(port: str, text: str) -> int:
    if not port:
        return PORT_DEFAULT
    if not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise _bad(text, f"{port!r} is not a port (0 to 65535)")
    return int(port)


def _bad(text: str, fix: str) -> OperatorError:
    return OperatorError(f"--bind {text}: {fix}")
