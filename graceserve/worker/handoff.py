"""Handing a live connection to another generation, and taking one over (DESIGN section 4). Shell; used in a worker.

Why no byte is lost: the sender stops reading before the descriptor goes out, and only sends connections of which it
holds nothing. What the client sends meanwhile waits in the kernel, in the socket that both processes hold; the sender
then closes its descriptor without a shutdown, which the client can't see. If the message is not taken, reading goes on.
"""

import os
import socket
from dataclasses import dataclass

from graceserve.errors import WireError
from graceserve.wire.channel import Channel, close_all
from graceserve.wire.messages import HandOver
from graceserve.worker.connection import Connection
from graceserve.worker.environ import Peer, Route, Site

FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A connection that this worker is to serve. Whoever gets it owns the socket."""

    sock: socket.socket
    route: Route
    requests: int = 0
    fresh: bool = False  # from a listener: nothing has been read of it, by anybody


class NotAConnection(Exception):
    """Something else came through the inbox, and was closed."""


def hand_over(connection: Connection, successor: Channel) -> bool:
    """Whether the successor's inbox took it. If not it stays here, unharmed."""
    descriptor = connection.hold_still()
    site, peer = connection.route.site, connection.route.peer
    if not successor.send(HandOver(site.name, peer.address, peer.port, connection.requests), [descriptor]):
        connection.go_on()
        return False
    connection.let_go()
    return True


def take_over(inbox: Channel, sites: dict[str, Site]) -> Arrival | None:
    """A connection from the inbox, None at end-of-file.

    Raises `BlockingIOError` when there is none (a sibling may have been quicker), and `NotAConnection`.
    """
    try:
        received = inbox.receive()
    except WireError as error:
        raise NotAConnection(str(error)) from None
    match received:
        case None:
            return None
        case (HandOver() as told, [fd]):
            sock = _stream_socket(fd)
            site = sites.get(told.listener) or site_of(told.listener, sock)
            return Arrival(sock, Route(site, Peer(told.peer, told.peer_port)), told.requests)
        case (other, fds):
            close_all(fds)
            raise NotAConnection(f"{type(other).__name__} with {len(fds)} descriptors")


def _stream_socket(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        os.close(fd)
        raise NotAConnection(f"the descriptor is no socket: {error}") from None
    if sock.family not in FAMILIES or sock.type != socket.SOCK_STREAM:
        sock.close()
        raise NotAConnection("the descriptor is no stream socket")
    return sock


def site_of(name: str, sock: socket.socket) -> Site:
    """Where a socket listens; also of a connection, whose own end says the same."""
    try:
        address = sock.getsockname()
    except OSError:
        return Site(name)
    if isinstance(address, tuple):
        return Site(name, str(address[0]), str(address[1]))
    return Site(name)
