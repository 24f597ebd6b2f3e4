"""From the queue of a listener, or from the inbox, to an open connection. Shell; used in a worker's loop.

    taken --PROXY header, if one is expected--> opening --TLS handshake, if that is asked for--> a `Connection`

All workers are woken for an arrival, and who is first would often be first for all of them, at a reload above all: so
who has more connections than another free worker gives that one a moment, unless a request waits. And with
`--threads 1` one that comes from the inbox with something to say is served before the next is taken, which others may
be quicker with.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from functools import partial

from graceserve.wire.channel import Channel
from graceserve.worker.accept import Acceptor
from graceserve.worker.arrival import Arrival
from graceserve.worker.connection import Connection
from graceserve.worker.connections import Connections
from graceserve.worker.drive import drive
from graceserve.worker.handoff import hand_over
from graceserve.worker.preface import Preface
from graceserve.worker.service import Service

OTHERS_FIRST_S = 0.002  # for a worker with fewer connections to take the next one
EXHAUSTED_S = 1.0  # no accepting for this long when descriptors or memory ran out
HANDSHAKE_S_MAX = 3600.0  # of `--head-timeout 0`
_GLANCE = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class Arrivals:
    """Of one worker."""

    def __init__(
        self, service: Service, loop: asyncio.AbstractEventLoop, acceptor: Acceptor, connections: Connections,
        settled: Callable[[], None],
    ) -> None:  # fmt: skip
        """`settled`: an arrival has become a connection, or nothing."""
        self._service = service
        self._loop = loop
        self._acceptor = acceptor
        self._connections = connections
        connections.others_wait = self._others_wait
        self._settled = settled
        self._prefaces: set[Preface] = set()
        self._opening = 0
        self._defers = True  # once, and then takes the next one all the same
        self._pause: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """Of those on their way."""
        return len(self._prefaces) + self._opening

    def start(self) -> None:
        """Accept from here on."""
        self._loop.add_reader(self._acceptor.fileno(), self._on_arrival)
        self._acceptor.resume()

    def end(self) -> None:
        """The loop is about to be closed."""
        self._loop.remove_reader(self._acceptor.fileno())
        self._acceptor.end()

    def resume(self) -> None:
        """There may be room again."""
        if self._pause is None and self._room():
            self._acceptor.resume()

    def adopt_rest(self) -> None:
        """All that is queued now: at a stop nobody else will come for it."""
        for arrival in self._acceptor.rest():
            self._adopt(arrival)

    def hand_over(self, inbox: Channel) -> None:
        """Those that are waiting for a PROXY header can wait somewhere else."""
        for preface in tuple(self._prefaces):
            if hand_over(preface.arrival, inbox):
                self._prefaces.discard(preface)
                preface.let_go()

    def give_up(self) -> None:
        """Of a connection whose PROXY header has not come by now no request will."""
        for preface in tuple(self._prefaces):
            preface.give_up()

    def _room(self) -> bool:
        return self._connections.have_room(self.count)

    def _on_arrival(self) -> None:
        if not self._room():
            self._acceptor.pause()
            return
        if self._connections.newcomer is not None:
            return  # it is served first: others may be quicker with the next one
        if self._connections.leave_it_to_others():
            return  # they have been woken, too
        if self._defers and self._connections.more_than_others(self.count) and not self._acceptor.urgent:
            self._defers = False
            self._pause_for(OTHERS_FIRST_S)
            return
        self._defers = True
        try:
            arrival = self._acceptor.take()
        except OSError as error:
            self._service.log.error("accept-error", reason=str(error), connections=self._connections.count)
            self._pause_for(EXHAUSTED_S)
            return
        if arrival is not None:
            self._adopt(arrival)

    def _others_wait(self) -> bool:
        return self._acceptor.inbox_holds_some and self._room() and not self._connections.leave_it_to_others()

    def _pause_for(self, time_s: float) -> None:
        self._acceptor.pause()
        self._pause = self._loop.call_later(time_s, self._end_pause)

    def _end_pause(self) -> None:
        self._pause = None
        self.resume()

    def _adopt(self, arrival: Arrival) -> None:
        expected = self._service.expected
        if expected is None or not arrival.fresh or not expected.of.covers(arrival.route.peer.address):
            self._open(arrival)
            return
        preface = Preface(self._loop, arrival, expected, self._on_preface)
        self._prefaces.add(preface)
        preface.start()

    def _on_preface(self, preface: Preface, arrival: Arrival | None) -> None:
        self._prefaces.discard(preface)
        if arrival is not None:
            self._open(arrival)
            return
        peer = preface.peer.address or "unix"
        log = self._service.log
        tell = log.warning if preface.begun else log.debug  # a port that is only probed is no news
        tell("proxy-protocol-refused", peer=peer, reason=preface.problem)
        self._settled()

    def _open(self, arrival: Arrival) -> None:
        tls = self._service.tls if arrival.fresh else None
        arrival.route.secure = tls is not None
        self._service.environs.welcome(arrival.route)
        connection = Connection(self._connections, arrival)
        handshake_s = min(self._service.patience.head_s, HANDSHAKE_S_MAX) if tls is not None else None
        self._opening += 1
        done = self._opened
        if not arrival.fresh and (arrival.waits or _speaks(arrival)):
            self._connections.expect(connection)
            done = partial(self._opened_newcomer, connection)
        drive(
            self._loop.connect_accepted_socket(
                lambda: connection, arrival.sock, ssl=tls, ssl_handshake_timeout=handshake_s
            ),
            done,
        )

    def _opened_newcomer(self, connection: Connection, error: BaseException | None) -> None:
        self._connections.expect_no_more(connection)
        self._opened(error)

    def _opened(self, error: BaseException | None) -> None:
        self._opening -= 1
        if isinstance(error, (ssl.SSLError, ConnectionError, TimeoutError)):  # a scanner, or a client without TLS
            self._service.log.debug("handshake-failed", reason=str(error))
        elif error is not None:
            self._service.log.warning("connection-lost-on-arrival", reason=repr(error))
        self._settled()  # until now an opened one counted twice


def _speaks(arrival: Arrival) -> bool:
    """Whether it has something to say."""
    try:
        return bool(arrival.sock.recv(1, _GLANCE))
    except OSError:  # nothing yet, or nothing any more
        return False
