"""A connection that a worker is to serve, wherever it came from. Shell; used in a worker."""

import socket
from dataclasses import dataclass

from graceserve.worker.environ import Route


@dataclass(frozen=True, slots=True)
class Counted:
    """Bytes that this end of a connection ever read and wrote."""

    read: int
    written: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """Whoever gets it owns the socket."""

    sock: socket.socket
    route: Route
    fresh: bool = True  # what comes next is what a listener's connections begin with: a PROXY header, a TLS handshake
    read: bytes = b""  # and not served
    waits: bool = False  # something of a request has come, as far as is known
    requests: int = 0  # begun before
    waited_s: float = 0.0  # so far, for the client: since the last response, or since the first byte of half a head
    counted: Counted | None = None  # None: to be asked of the kernel
    deaths: int = 0  # of workers that had it, since it was answered something
    continued: bool = False  # of the request in `read`, the client was told to go on with its body
