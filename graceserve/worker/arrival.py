"""A connection that a worker is to serve, wherever it came from. Shell; used in a worker."""

import socket
from dataclasses import dataclass

from graceserve.worker.environ import Route


@dataclass(frozen=True, slots=True)
class Arrival:
    """Whoever gets it owns the socket."""

    sock: socket.socket
    route: Route
    fresh: bool = True  # what comes next is what a listener's connections begin with: a PROXY header, a TLS handshake
    read: bytes = b""  # and not served
    requests: int = 0  # begun before
    waited_s: float = 0.0  # so far, for the client: since the last response, or since the first byte of half a head
    untouched: bool = False  # accepted just now: nothing was ever read of it or written to it
    deaths: int = 0  # of workers that had it, since it was answered something
    continued: bool = False  # of the request in `read`, the client was told to go on with its body
