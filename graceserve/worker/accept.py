"""Where connections come from: the listeners, and the generation's inbox. Shell; used in a worker.

All of them hang in an epoll of their own, which is one descriptor to the loop. So accepting can be ended for good from
a signal handler in the middle of an app call, or from the guard thread, by system calls alone: the loop's own state,
which may be in use at that moment, is not touched.
"""

import errno
import select
import socket
from collections.abc import Iterator

from graceserve.logs import Log
from graceserve.wire.channel import Channel
from graceserve.worker.arrival import Arrival, Counted
from graceserve.worker.environ import Peer, Route
from graceserve.worker.handoff import NotAConnection, next_waits, site_of, take_over

# accept(2), "Error handling": errors of the connection that was in the queue, not of the listener
_TRANSIENT = frozenset(
    (errno.EAGAIN, errno.ECONNABORTED, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN,
     errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM)
)  # fmt: skip

_NOTHING = Counted(0, 0)
REST_MAX = 8192  # of each queue at a stop; more than a backlog holds


class Acceptor:
    """Owns the listeners and the inbox. Silent until `resume`, and for good after `refuse`; `close` gives them back."""

    def __init__(self, listeners: list[tuple[str, socket.socket]], inbox: Channel, log: Log) -> None:
        self._log = log
        self._epoll = select.epoll()
        self._inbox = inbox
        self._listeners = {sock.fileno(): sock for _, sock in listeners}
        self._sites = {sock.fileno(): site_of(name, sock) for name, sock in listeners}
        self._by_name = {site.name: site for site in self._sites.values()}
        self._inbox_fd = inbox.fileno()
        self._sources: tuple[int, ...] = (*self._listeners, self._inbox_fd)
        self._inbox_poll = select.poll()
        self._inbox_poll.register(self._inbox_fd, select.POLLIN)
        self._open = False
        self.refused = False

    def fileno(self) -> int:
        """Readable when `take` has something to do."""
        return self._epoll.fileno()

    @property
    def inbox_holds_some(self) -> bool:
        """Whether `take` would find something there, unless a sibling is quicker."""
        takes = self._open and not self.refused and self._inbox_fd in self._sources
        return takes and bool(self._inbox_poll.poll(0))

    @property
    def urgent(self) -> bool:
        """Whether a request waits in the inbox, on the connection that is next."""
        return self._inbox_fd in self._sources and next_waits(self._inbox)

    def resume(self) -> None:
        """Let arrivals wake the loop."""
        if self.refused or self._open:
            return
        self._open = True
        for fd in self._sources:
            self._register(fd)

    def pause(self) -> None:
        """Leave arrivals to others, for now."""
        if self._open and not self.refused:
            self._open = False
            for fd in self._sources:
                self._unregister(fd)

    def leave_inbox(self) -> None:
        """To the workers of a newer generation. But for `rest`."""
        self._unregister(self._inbox_fd)
        self._sources = tuple(self._listeners)

    def refuse(self) -> None:
        """Never accept again, but for `rest`. Idempotent; for a signal handler, too."""
        self.refused = True
        for fd in self._sources:
            self._unregister(fd)

    def close(self) -> None:
        """Refuse, and close the listeners. Idempotent; for another thread, too."""
        self.refuse()
        for sock in self._listeners.values():
            sock.close()

    def end(self) -> None:
        """Close, where no loop polls it any more."""
        self.close()
        self._epoll.close()

    def rest(self) -> Iterator[Arrival]:
        """All that is queued now, on every listener that is open and in the inbox: at a stop nobody else will come for
        it, and who puts something into the inbox later takes it out himself."""
        for fd in (*self._listeners, self._inbox_fd):
            for _ in range(REST_MAX):
                try:
                    arrival = self._take_rest(fd)
                except OSError as error:  # BlockingIOError is the end of the queue
                    if error.errno in _TRANSIENT and error.errno != errno.EAGAIN:
                        continue
                    break
                except NotAConnection as error:
                    self._log.warning("inbox-ignored", reason=str(error))
                    continue
                if arrival is None:
                    break
                yield arrival

    def _take_rest(self, fd: int) -> Arrival | None:
        if fd == self._inbox_fd:
            return take_over(self._inbox, self._by_name)
        return self._arrival(fd)

    def take(self) -> Arrival | None:
        """One arrival; epoll goes round the sources. Raises `OSError` when descriptors or memory run out."""
        for fd, _ in self._epoll.poll(0, 1):
            return self._take_over() if fd == self._inbox_fd else self._accept(fd)
        return None

    def _accept(self, fd: int) -> Arrival | None:
        if self.refused:
            return None
        try:
            return self._arrival(fd)
        except OSError as error:
            if error.errno in _TRANSIENT or self.refused:
                return None
            raise

    def _arrival(self, fd: int) -> Arrival:
        sock, address = self._listeners[fd].accept()
        peer = Peer(str(address[0]), int(address[1])) if isinstance(address, tuple) else Peer()
        return Arrival(sock, Route(self._sites[fd], peer), counted=_NOTHING)

    def _take_over(self) -> Arrival | None:
        if self.refused:
            return None
        try:
            arrival = take_over(self._inbox, self._by_name)
        except BlockingIOError:  # a sibling was quicker
            return None
        except NotAConnection as error:
            self._log.warning("inbox-ignored", reason=str(error))
            return None
        return arrival

    def _register(self, fd: int) -> None:
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except (OSError, ValueError):
            if not self.refused:  # closed by a signal handler in this very loop
                raise

    def _unregister(self, fd: int) -> None:
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):  # was not registered
            pass
