"""What a worker notes of its connections, so that they can be handed over when it is killed. Shell; worker and keeper.

Memory that it shares with its keeper, with a line for each descriptor. On a line are a word, how many bytes the client
was given, who the client is, and what was read of a request that has not begun. The word is 0 if nobody else could go
on: there is no connection, or a request runs. Else it is 1 and the bytes that were ever read of the connection, and
those since its `start` are kept. To note something is to store it, the word last: no system call, and it takes effect
at once. The start changes only while the word is 0.

A worker may be killed in the middle of everything. Bytes that it had taken from the kernel and not kept yet nobody has
any more; an answer that it was about to send, too. The kernel counts both (`_counted`), and where it does not agree
with what is noted, the connection is not handed over.
"""

import fcntl
import mmap
import socket
import struct
import termios
from collections.abc import Iterator

from graceserve.worker.arrival import Arrival, Counted
from graceserve.worker.environ import Peer, Route, Site

KEPT_BYTES_MAX = 1 << 13  # of a request that has not begun; of a longer one nothing is noted
NEAR_BYTES = 1024  # of these are kept beside those of other connections, the others in pages of its own: few have any
_FAR_BYTES = KEPT_BYTES_MAX - NEAR_BYTES
_FACTS_BYTES, _WORD_BYTES = 192, 8
_FACTS = struct.Struct("8sqHB")  # cookie of the socket, bytes it had been given before, length of what follows, deaths
_SEPARATOR = "\n"
_TCP = (0, socket.IPPROTO_TCP)  # not MPTCP, which is counted by subflows
_SO_COOKIE, _COOKIE_BYTES = 57, 8  # <asm-generic/socket.h>: no other socket gets this number
_INFO = struct.Struct("B119xQQ")  # struct tcp_info of <linux/tcp.h>: tcpi_state, tcpi_bytes_acked, tcpi_bytes_received
_SIZE = struct.Struct("i")
_ESTABLISHED, _CLOSE_WAIT = 1, 8  # <linux/tcp_states.h>
DEATHS_MAX = 2  # what has come of a request may be what they died of: it must not go round all workers
_MAP_NORESERVE = 0x4000  # <asm-generic/mman.h>; Python names it from 3.13 on


class Ledger:
    """One a worker. Connections write `words`, `starts`, `given` and what is `near` themselves, each on its line."""

    def __init__(self, descriptors: int) -> None:
        """Lines for the descriptors below this number, and a `spare` one that nobody reads."""
        self.spare = descriptors
        self.words = _shared((descriptors + 1) * _WORD_BYTES).cast("q")
        self.starts = _shared((descriptors + 1) * _WORD_BYTES).cast("q")
        self.given = _shared((descriptors + 1) * _WORD_BYTES).cast("q")
        self._near = _shared((descriptors + 1) * NEAR_BYTES)
        self._far = _shared((descriptors + 1) * _FAR_BYTES)
        self._facts = _shared((descriptors + 1) * _FACTS_BYTES)

    # --- worker

    def line(self, arrival: Arrival) -> tuple[int, int]:
        """The line of a connection, and its word as long as nothing is kept. Only of TCP does the kernel count, and
        nobody else can go on with TLS."""
        sock, route = arrival.sock, arrival.route
        fd = sock.fileno()
        if fd >= self.spare or route.secure or not route.site.host or sock.proto not in _TCP:
            return self.spare, 1
        self.words[fd] = 0
        told = _SEPARATOR.join((route.site.name, route.peer.address, str(route.peer.port))).encode()
        if _FACTS.size + len(told) > _FACTS_BYTES:
            return self.spare, 1
        try:
            count = arrival.counted or _counted(sock)
            facts = _FACTS.pack(_cookie(sock), count.written, len(told), min(arrival.deaths, DEATHS_MAX)) + told
        except OSError:  # the client is gone, or the kernel does not count
            return self.spare, 1
        at = fd * _FACTS_BYTES
        self._facts[at : at + len(facts)] = facts
        self.given[fd] = 0
        return fd, count.read + 1

    def counted(self, line: int) -> Counted | None:
        """What was ever read and written by the time of the last note, as a message says it."""
        if line == self.spare or not self.words[line]:
            return None
        written = _FACTS.unpack_from(self._facts, line * _FACTS_BYTES)[1]
        return Counted(self.words[line] - 1, written + self.given[line])

    def deaths(self, line: int) -> int:
        """See `Arrival`."""
        answered = line == self.spare or self.given[line]
        return 0 if answered else int(_FACTS.unpack_from(self._facts, line * _FACTS_BYTES)[3])

    def near(self, line: int) -> memoryview:
        """Where the first bytes are kept that were read of a request."""
        return self._near[line * NEAR_BYTES : (line + 1) * NEAR_BYTES]

    def keep(self, line: int, start: int, data: bytes) -> None:
        """These, behind `start` others."""
        room = max(0, NEAR_BYTES - start)
        near, far = data[:room], data[room:]
        at = line * NEAR_BYTES + start
        self._near[at : at + len(near)] = near
        at = line * _FAR_BYTES + start - NEAR_BYTES + room
        self._far[at : at + len(far)] = far

    # --- keeper

    def saved(self) -> Iterator[Arrival]:
        """All that can be handed over, once nobody writes here any more."""
        for fd, word in enumerate(self.words.tolist()[: self.spare]):
            if not word:
                continue
            try:
                sock = socket.socket(fileno=fd)
            except OSError:  # closed since, or no socket any more
                continue
            cookie, _, size, _ = _FACTS.unpack_from(self._facts, fd * _FACTS_BYTES)
            saved = self._saved(sock, word, size) if self._agrees(sock, cookie) else None
            if saved is not None and (saved.deaths <= DEATHS_MAX or not saved.waits):
                yield saved
            else:
                sock.detach()  # it is not ours to close

    def _agrees(self, sock: socket.socket, cookie: bytes) -> bool:
        """Whether it is the connection that was noted, and nothing is lost."""
        try:
            return _cookie(sock) == cookie and _counted(sock) == self.counted(sock.fileno())
        except OSError:
            return False

    def _saved(self, sock: socket.socket, word: int, size: int) -> Arrival:
        fd = sock.fileno()
        kept = word - self.starts[fd]
        at = fd * _FACTS_BYTES + _FACTS.size
        name, address, port = bytes(self._facts[at : at + size]).decode().split(_SEPARATOR)
        route, deaths = Route(Site(name), Peer(address, int(port))), self.deaths(fd) + 1
        waits = bool(kept) or _size(sock, termios.FIONREAD) > 0
        return Arrival(sock, route, fresh=False, read=self._kept(fd, kept), waits=waits, deaths=deaths)

    def _kept(self, line: int, size: int) -> bytes:
        near, far = line * NEAR_BYTES, line * _FAR_BYTES
        rest = max(0, size - NEAR_BYTES)
        return bytes(self._near[near : near + size - rest]) + bytes(self._far[far : far + rest])


def _counted(sock: socket.socket) -> Counted:
    """tcp(7): TCP_INFO, SIOCINQ, SIOCOUTQ. Raises `OSError`, also if it is no TCP, or the kernel an old one."""
    before = _info(sock)
    while True:
        unread, unacked = _size(sock, termios.FIONREAD), _size(sock, termios.TIOCOUTQ)
        info = _info(sock)
        if info == before:
            break
        before = info  # something has come in between
    state, acked, received = info
    if state not in (_ESTABLISHED, _CLOSE_WAIT):
        raise OSError(f"TCP state {state}")
    return Counted(received - unread - (state == _CLOSE_WAIT), acked + unacked)  # the client's FIN counts


def _shared(size: int) -> memoryview:
    """Zeros, shared with processes that are forked from here on. It takes memory where it is touched."""
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _MAP_NORESERVE))


def _cookie(sock: socket.socket) -> bytes:
    return sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE_BYTES)


def _info(sock: socket.socket) -> tuple[int, int, int]:
    data = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    if len(data) < _INFO.size:
        raise OSError("TCP_INFO is short of what is needed")
    state, acked, received = _INFO.unpack(data)
    return state, acked, received


def _size(sock: socket.socket, what: int) -> int:
    return int(_SIZE.unpack(fcntl.ioctl(sock, what, bytes(_SIZE.size)))[0])
