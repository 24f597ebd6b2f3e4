"""Handing a live connection to another worker, and taking one over (DESIGN section 4). Shell; used in a worker.

Any connection can move of which no request has begun and nothing is unsent. What was read of it goes along in a file
(memfd_create(2)), as bytes that tell another reader what this one has seen. What the client sends meanwhile waits in
the kernel, in the socket that both processes hold. The sender then closes its descriptor without a shutdown, which the
client can't see. If the message is not taken, nothing has changed.

Why no request runs twice: the inbox has the connection from the moment at which the kernel takes the message, and from
there on its sender neither reads of it nor runs what it has read.
"""

import os
import socket

from graceserve.errors import WireError
from graceserve.wire.channel import Channel, close_all
from graceserve.wire.messages import HandOver
from graceserve.worker.arrival import Arrival, Counted
from graceserve.worker.environ import Peer, Route, Site

_UNKNOWN = Counted(-1, -1)
FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


class NotAConnection(Exception):
    """Something else came through the inbox, and was closed."""


def hand_over(arrival: Arrival, inbox: Channel) -> bool:
    """Whether the inbox took it. Then the socket is to be closed here, without another look at it."""
    site, peer = arrival.route.site, arrival.route.peer
    counted = arrival.counted or _UNKNOWN
    told = HandOver(
        site.name, peer.address, peer.port, arrival.requests, round(arrival.waited_s, 3), arrival.continued,
        arrival.fresh, arrival.deaths, arrival.waits, counted.read, counted.written,
    )  # fmt: skip
    fds = [arrival.sock.fileno()]
    if not arrival.read:
        return inbox.send(told, fds)
    try:
        fds.append(_file_with(arrival.read))
    except OSError:  # no descriptor, no memory
        return False
    try:
        return inbox.send(told, fds)
    finally:
        os.close(fds[1])


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
        case (HandOver() as told, [fd, *files]) if len(files) <= 1:
            return _arrival(told, fd, files, sites)
        case (other, fds):
            close_all(fds)
            raise NotAConnection(f"{type(other).__name__} with {len(fds)} descriptors")


def next_waits(inbox: Channel) -> bool:
    """Whether something of a request has come of the connection that is next in the inbox."""
    try:
        told = inbox.glance()
    except WireError:
        return False
    return isinstance(told, HandOver) and told.waits


def _arrival(told: HandOver, fd: int, files: list[int], sites: dict[str, Site]) -> Arrival:
    try:
        sock = _stream_socket(fd)
    except NotAConnection:
        close_all(files)
        raise
    read = b""
    if files:
        try:
            read = _content(files[0])
        except OSError as error:
            sock.close()
            raise NotAConnection(f"what was read of a connection can't be read again: {error}") from None
    site = sites.get(told.listener) or site_of(told.listener, sock)
    route = Route(site, Peer(told.peer, told.peer_port))
    counted = Counted(told.read_bytes, told.written_bytes) if told.read_bytes >= 0 else None
    return Arrival(
        sock, route, fresh=told.fresh, read=read, requests=told.requests, waited_s=told.waited_s,
        continued=told.continued, deaths=told.deaths, waits=told.waits, counted=counted,
    )  # fmt: skip


def _file_with(data: bytes) -> int:
    fd = os.memfd_create("graceserve-read", os.MFD_CLOEXEC)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def _content(fd: int) -> bytes:
    with open(fd, "rb", buffering=0) as file:
        file.seek(0)
        return file.read()


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
