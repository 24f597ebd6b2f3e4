"""Whom a long app call holds up, with `--threads 1`: their connections go to the inbox. Shell; used in a worker.

Those who are answered already get their answers first.

    bytes come --> the guard hands the connection over --> the call ends --> the loop thread lets go of it

A sibling takes it, or, if all are in long calls, whoever is through first: one queue for all of them, in the order in
which they came. While nobody is free a connection stays where it is until the call has lasted for longer
(`Tempo.queue_s`), so that short calls move nothing, however busy all are; and a request moves but once, since who is
free takes one from the inbox and serves it before the next (`Connections.newcomer`). A call that long is followed by
`older_first`, and so is who was taken from the inbox: what comes to the worker now has waited for less long than what
is still in there.

The guard leaves the loop's own things alone: it sends the descriptor, puts a silent one in its place, so that the new
owner's is the only one and can be closed, and marks the connection as moved. The loop thread ends what is left of it
before it polls again.
"""

import asyncio
import os
import select
import socket
from collections import deque
from time import monotonic

from graceserve.wire.channel import Channel
from graceserve.worker.board import Place
from graceserve.worker.connection import Connection
from graceserve.worker.handoff import hand_over
from graceserve.worker.runs import Inline

AGAIN_S = 0.001  # who waits goes as soon as somebody is free, or the inbox has room
LATER_S = 0.003  # a client may take more of its answer; who can't be moved is left alone as long
OLDER_FIRST_TURNS = 200  # of the loop, at most, in which those in the inbox go before those who come here


class Relief:
    """See `guard.Helper`. `waiting` is the loop thread's: those whose bytes have been read, in order."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, inbox: Channel, place: Place, waiting: deque[Connection], inline: Inline
    ) -> None:
        self._inline = inline
        self.watch = inline.watch
        self.watch.settled = self._settle
        self.now = monotonic
        self._inbox = inbox
        self._place = place
        self._waiting = waiting
        self._leaving = False
        self._ended = False
        self._loop_epoll = _epoll_of(loop)
        self._silence = socket.socketpair()  # ends at which nothing ever happens
        self._epoll = select.epoll()
        self._by_fd: dict[int, Connection] = {}
        self._passed: list[Connection] = []
        self._turn = -1  # that the guard looked at last
        self._turn_since = 0.0
        self.older_first = 0  # turns of the loop that are left for those in the inbox; they have waited for longer

    def fileno(self) -> int:
        """See `guard.Helper`."""
        return self._epoll.fileno()

    # --- loop thread

    def leave(self) -> None:
        """This worker accepts nothing any more. In a signal handler, too, and on any thread."""
        self._leaving = True
        self._place.leave()
        self.watch.arm()

    def opened(self, connection: Connection) -> None:
        """It may wait from now on."""
        fd = connection.fd
        self._by_fd[fd] = connection
        try:
            self._epoll.register(fd, select.EPOLLIN)
        except OSError:  # no memory, or fs.epoll.max_user_watches: it waits as long as the call lasts
            pass

    def closed(self, connection: Connection) -> None:
        """The kernel forgets a descriptor that is closed; its number may be another connection's by now."""
        fd = connection.fd
        if self._by_fd.get(fd) is connection:
            del self._by_fd[fd]

    def end(self) -> None:
        """The service stops: nobody takes anything any more."""
        self._ended = True

    def close(self) -> None:
        """Where there is no guard."""
        self.watch.close()
        self._epoll.close()
        if self._loop_epoll is not None:
            self._loop_epoll.close()
        for end in self._silence:
            end.close()

    def _settle(self) -> None:
        passed, self._passed = self._passed, []
        for connection in passed:
            connection.let_go()
        self._place.free()
        if self._lasts_long():
            self.older_first = OLDER_FIRST_TURNS

    # --- guard's thread

    @property
    def lonely(self) -> bool:
        """See `guard.Helper`."""
        return self._ended or (self._place.alone and not self._leaving)

    def pass_on(self, turn: int) -> float | None:
        """See `guard.Helper`."""
        watch = self.watch
        with watch.lock:
            watch.touched = True
            if watch.turn != turn:
                return None
            self._place.busy()
            later = not self._inline.send_early(turn)
            if turn != self._turn:
                self._turn, self._turn_since = turn, self.now()
            if self._ended or not (self._lasts_long() or self._place.others_free or self._leaving):
                return AGAIN_S
            return self._pass_all(turn, later)

    def _pass_all(self, turn: int, later: bool) -> float | None:
        """Those that were read, then those that are readable. `later`: there is something else to be done then."""
        watch = self.watch
        for connection in tuple(self._waiting):
            if watch.turn != turn:
                return None
            if connection.movable and not self._pass(connection):
                return AGAIN_S
        for fd, _ in self._epoll.poll(0, len(self._by_fd) or 1):
            connection_or_none = self._by_fd.get(fd)
            if watch.turn != turn:
                return None
            if connection_or_none is None or not connection_or_none.movable:
                later = True
            elif not self._pass(connection_or_none):
                return AGAIN_S
        return LATER_S if later else None

    def _pass(self, connection: Connection) -> bool:
        taken = self.move(connection, waits=True)
        if taken:
            self._passed.append(connection)
        return taken

    # --- both

    def _lasts_long(self) -> bool:
        """Whether who waits in this turn had better do so in the inbox, though nobody is free. Or who waited in it."""
        return self.now() - self._turn_since >= self.watch.tempo.queue_s and not self._place.alone

    def move(self, connection: Connection, *, waits: bool = False) -> bool:
        """Whether the inbox took it. Then neither its bytes nor its end are this process's any more. `waits`: as for
        `Connection.arrival`.

        On the loop thread `let_go` has to be the next thing that happens to it: libuv aborts the process if it is to
        change what it waits for with a descriptor that is not in its epoll any more.
        """
        if not hand_over(connection.arrival(waits=waits), self._inbox):
            return False
        connection.moved()
        fd = connection.fd
        self._by_fd.pop(fd, None)
        _unregister(self._epoll, fd)  # it would keep what others hold, under a number of ours
        if self._loop_epoll is not None:
            _unregister(self._loop_epoll, fd)
            os.dup2(self._silence[0].fileno(), fd, inheritable=False)
        return True


def _epoll_of(loop: asyncio.AbstractEventLoop) -> select.epoll | None:
    """The one that the loop waits in. uvloop calls it private; without it what is moved is closed a little later."""
    get_fd = getattr(loop, "_get_backend_id", None)
    return select.epoll.fromfd(os.dup(get_fd())) if get_fd is not None else None


def _unregister(epoll: select.epoll, fd: int) -> None:
    try:
        epoll.unregister(fd)
    except OSError:  # was not registered
        pass
