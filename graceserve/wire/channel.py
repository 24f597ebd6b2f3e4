"""A channel: messages with descriptors over one end of a `SOCK_SEQPACKET` pair. Shell; used in every process.

Channels never block: `send` says whether the kernel took the message, `receive` gives what is there. A descriptor that
arrives is close-on-exec (`MSG_CMSG_CLOEXEC`) and belongs to the caller.
"""

import array
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graceserve.errors import WireError
from graceserve.wire.messages import MESSAGE_BYTES_MAX, Message, decode, encode

FDS_MAX = 64  # a Fork carries channel, inbox and the listeners; the kernel's own limit is 253 (SCM_MAX_FD)
_FDS_BYTES = socket.CMSG_SPACE(FDS_MAX * 4)
_CUT_SHORT = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)


class Channel:
    """One end. Its owner closes it; end-of-file at the other end is how the peer learns of it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    @classmethod
    def pair(cls) -> tuple["Channel", "Channel"]:
        """Two connected ends, both close-on-exec."""
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(left), cls(right)

    @classmethod
    def of_fd(cls, fd: int) -> "Channel":
        """The channel whose descriptor was inherited or received; takes it over and makes it close-on-exec."""
        os.set_inheritable(fd, False)
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The descriptor, -1 once closed."""
        return self._sock.fileno()

    @property
    def closed(self) -> bool:
        """Whether this end was closed here."""
        return self._sock.fileno() < 0

    def set_blocking(self) -> None:
        """For the template, whose one waiting place is `receive`."""
        self._sock.setblocking(True)

    def send(self, message: Message, fds: Sequence[int] = ()) -> bool:
        """Whether the kernel took it: not if the peer is gone or its buffer is full. Descriptors stay the caller's."""
        if self.closed:
            return False
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([encode(message)], ancillary, socket.MSG_NOSIGNAL)
        except OSError:  # EAGAIN, EPIPE, ECONNRESET, ETOOMANYREFS: not taken, whatever the reason
            return False
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message with its descriptors, None at end-of-file. `BlockingIOError` when there is none yet.

        Raises `WireError` for a datagram that is no message; its descriptors are closed.
        """
        try:
            data, ancillary, flags = self._receive()
        except ConnectionError:  # told once, and ahead of its last words, if the peer died with messages unread
            try:
                data, ancillary, flags = self._receive()
            except ConnectionError:
                return None
        fds = list(_descriptors(ancillary))
        if not data:
            close_all(fds)
            return None
        try:
            if flags & _CUT_SHORT:
                raise WireError(f"a datagram over {MESSAGE_BYTES_MAX} bytes or {FDS_MAX} descriptors")
            return decode(data), fds
        except WireError:
            close_all(fds)
            raise

    def glance(self) -> Message | None:
        """The next message, which stays where it is; None if there is none. Raises `WireError` if it is no message."""
        try:
            data = self._sock.recv(MESSAGE_BYTES_MAX, socket.MSG_PEEK)
        except OSError:  # none yet, or never again
            return None
        return decode(data) if data else None

    def _receive(self) -> tuple[bytes, list[tuple[int, int, bytes]], int]:
        data, ancillary, flags, _ = self._sock.recvmsg(MESSAGE_BYTES_MAX, _FDS_BYTES, socket.MSG_CMSG_CLOEXEC)
        return data, ancillary, flags

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()


@dataclass(frozen=True, slots=True)
class Inbox:
    """Where workers put live connections and those that can serve take them: a listener for what is connected.

    There is one for the whole life of the service, and each process has both ends. One for each generation loses
    connections: what waits in it when its workers are told to leave, before they came to take it, is closed with it.
    """

    put: Channel
    take: Channel

    @classmethod
    def new(cls) -> "Inbox":
        """An empty one."""
        return cls(*Channel.pair())

    @property
    def fds(self) -> list[int]:
        """Both ends."""
        return [self.put.fileno(), self.take.fileno()]

    def close(self) -> None:
        """Idempotent."""
        self.put.close()
        self.take.close()


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        os.close(fd)


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            yield from numbers
