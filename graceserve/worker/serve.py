"""A worker's loop: its channel, its signals, its connections. Shell; runs in a worker, in its main thread.

What the worker is at a moment is `lifecycle`'s; this carries its orders out. Two of them can't wait for the loop's next
turn, which an app call may hold up: to stop accepting, and to tell the master so. The signal handler does just these,
by system calls, and leaves the rest to the loop.
"""

import asyncio
import os
import ssl
import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import uvloop

from graceserve.config import Settings
from graceserve.errors import WireError
from graceserve.logs import Log
from graceserve.template.load import WSGIApplication
from graceserve.wire import messages as m
from graceserve.wire.channel import Channel, close_all
from graceserve.worker.accept import Acceptor
from graceserve.worker.access_format import Entry, refused
from graceserve.worker.access_log import FLUSH_S, AccessLog
from graceserve.worker.connection import Connection
from graceserve.worker.draining import Draining
from graceserve.worker.drive import drive
from graceserve.worker.environ import Environs
from graceserve.worker.filesend import FileSender
from graceserve.worker.filewrapper import FilePart
from graceserve.worker.guard import Guard
from graceserve.worker.handoff import Arrival, hand_over
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.port import Heads, Limits
from graceserve.worker.http.reader import Reader
from graceserve.worker.http.response import Header
from graceserve.worker.lifecycle import STOP_LINGER_S, Fate, Input, Order, State, Terms, Way, step
from graceserve.worker.patience import Patience
from graceserve.worker.pool import Pool
from graceserve.worker.preface import Expected, Preface
from graceserve.worker.runs import Run, ThreadRun, run_inline
from graceserve.worker.signals import obey, obey_no_more
from graceserve.worker.spool import Spool
from graceserve.worker.wsgi import Exchange, Gateway

SWEEP_S = 1.0  # how often time limits are looked at, while there are connections
SWEEP_SLICE = 500  # connections looked at in one go: about half a millisecond
DRAIN_SWEEP_S = 0.05  # the same in a drain, where idle connections are handed over or closed
HANDSHAKE_S_MAX = 3600.0  # of `--head-timeout 0`
TURN_S = 0.002  # of app calls in a row; from here answers are sent first
EXHAUSTED_S = 1.0  # no accepting for this long when descriptors or memory ran out
ANSWER_S = 1.0  # for the master to answer a SIGTERM by hand: at a stop there is a queue to be emptied first
RETRY_S = 0.05  # when the master's end of the channel is full
MESSAGES_A_TURN = 16


@dataclass(frozen=True, slots=True)
class Service:
    """What there is to serve, and how."""

    app: WSGIApplication
    environs: Environs
    heads: Heads
    limits: Limits
    patience: Patience
    settings: Settings
    connections_max: int
    draining: Draining
    log: Log
    expected: Expected | None = None  # the PROXY protocol
    tls: ssl.SSLContext | None = None
    access: AccessLog | None = None


class Worker:
    """From READY to ENDED. Is the connections' `Home`."""

    def __init__(self, service: Service, channel: Channel, acceptor: Acceptor) -> None:
        self._service = service
        self._log = service.log
        self._channel = channel
        self._acceptor = acceptor
        self._loop = uvloop.new_event_loop()
        self._pool = Pool(service.settings.threads, self._loop) if service.settings.threads > 1 else None
        grace_s = service.settings.graceful_timeout
        self._guard = Guard(channel.fileno(), grace_s, self._close_listeners, self._tell_stuck)
        self._life = State.READY
        self.draining = False  # there are terms
        self._terms: Terms | None = None
        self._terms_own = False  # a SIGTERM by hand: the master has not answered yet
        self._successor: Channel | None = None
        self._inbox_takes = True
        self._leaving_said = False
        self._orphan = False  # the master is gone
        self._sweep: asyncio.TimerHandle | None = None
        self._unswept: list[Connection] = []
        self._waiting: list[Connection] = []  # for `advance`
        self._prefaces: set[Preface] = set()
        self._arriving = 0  # accepted, but not opened yet
        self._connections: set[Connection] = set()
        self._requests = 0
        self._pid = os.getpid()
        self._gateway = Gateway(service.app, service.log, self._announces_close)
        self._make_environ = service.environs.make
        self.watches = self._pool is not None or service.access is not None
        self._secure_gateway = Gateway(service.app, service.log, self._is_draining)  # TLS can't be handed over
        self.patience = service.patience

    def run(self) -> None:
        """Serve until the end. The master has been told `WorkerReady`."""
        self._loop.set_exception_handler(self._on_bug)
        self._loop.add_reader(self._channel.fileno(), self._on_channel)
        self._guard.start()
        # The app must not see a loop in its thread: Django's ORM and asyncio.run() would refuse to work. To hide it
        # once and for all is two system calls cheaper than for each request (CPython 3.11 asks for its pid).
        self._loop.call_soon(asyncio._set_running_loop, None)
        obey(self._on_term)
        try:
            self._loop.run_forever()
        finally:
            obey_no_more()
            if self._service.access is not None:
                self._service.access.close()  # writes what is left
                self._tell_dropped(self._service.access)
            self._loop.remove_reader(self._acceptor.fileno())
            self._loop.remove_reader(self._channel.fileno())
            self._loop.close()

    # --- what comes in

    def _on_term(self) -> None:
        """The signal handler: the main thread may be anywhere, in the app, too."""
        self._stop_accepting()
        self._say_leaving()
        self._loop.call_soon_threadsafe(self._after_term)  # the one call that wakes a waiting loop

    def _after_term(self) -> None:
        self._on_channel()  # by order, the terms are there already
        if self._terms is None:  # by hand: the master answers `Leaving` with them
            self._set_terms(Way.LINGER, self._service.settings.graceful_timeout)
            self._terms_own = True
            self._loop.call_later(ANSWER_S, self._on_no_answer)
        self._take(Input.TERM)

    def _on_no_answer(self) -> None:
        self._terms_own = False
        self._end_if_empty()

    def _on_channel(self) -> None:
        if self._orphan:
            return
        for _ in range(MESSAGES_A_TURN):
            try:
                received = self._channel.receive()
            except BlockingIOError:
                return
            except WireError as error:
                self._log.warning("worker-ignored", reason=str(error))
                continue
            if received is None:
                self._on_master_gone()
                return
            self._on_message(*received)

    def _on_message(self, message: m.Message, fds: list[int]) -> None:
        match message:
            case m.Accept():
                self._take(Input.ACCEPT)
            case m.Drain(grace_s, stop):
                self._on_drain(grace_s, stop, fds)
                fds = fds[1:]
            case m.Ping():
                busy = sum(connection.busy for connection in self._connections)
                self._channel.send(m.Pong(self._requests, len(self._connections), busy))  # the next one comes soon
            case m.Reopen():
                self._log.reopen()
                if self._service.access is not None and not self._service.access.reopen():
                    self._log.error("access-log-not-reopened", reason=self._service.access.problem)
            case _:
                self._log.warning("worker-ignored", message=type(message).__name__, name=getattr(message, "name", ""))
        close_all(fds)

    def _on_drain(self, grace_s: float, stop: bool, fds: list[int]) -> None:
        """Newer terms replace older ones."""
        if self._successor is not None:
            self._successor.close()
        self._successor = Channel.of_fd(fds[0]) if fds else None
        self._inbox_takes = True
        way = Way.STOP if stop else Way.HAND_OVER if self._successor is not None else Way.LINGER
        self._set_terms(way, grace_s)
        if stop and not self._acceptor.closed and self._life in (State.ACCEPTING, State.DRAINING):
            for arrival in self._acceptor.rest():
                self._adopt(arrival)
        self._acceptor.close()
        self._take(Input.DRAIN)

    def _set_terms(self, way: Way, grace_s: float) -> None:
        self._terms = Terms(way, self.now(), self.now() + grace_s)
        self._terms_own = False
        self.draining = self._gateway.draining = self._secure_gateway.draining = True
        self._loop.call_later(STOP_LINGER_S, self._drop_prefaces)

    def _drop_prefaces(self) -> None:
        """Of a connection whose PROXY header has not come by now no request will."""
        for preface in tuple(self._prefaces):
            preface.give_up()

    def _on_master_gone(self) -> None:
        self._orphan = True
        grace_s = self._service.settings.graceful_timeout
        serving = self._life in (State.ACCEPTING, State.DRAINING)
        now = f"accepts no more, finishes its requests within {grace_s:g} s, then exits" if serving else "exits"
        self._log.warning("master-gone", now=now, connections=len(self._connections))
        self._loop.remove_reader(self._channel.fileno())
        self._set_terms(Way.STOP, grace_s)
        self._close_listeners()  # the next master wants to bind
        self._take(Input.MASTER_GONE)

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._log.error("worker-bug", message=context.get("message", ""), error=repr(error))

    # --- orders

    def _take(self, what: Input) -> None:
        now = step(self._life, what)
        self._life = now.state
        for order in now.orders:
            self._carry_out(order)

    def _carry_out(self, order: Order) -> None:
        match order:
            case Order.START_ACCEPTING:
                self._loop.add_reader(self._acceptor.fileno(), self._on_arrival)
                self._acceptor.resume()
            case Order.STOP_ACCEPTING:
                self._stop_accepting()
            case Order.SAY_LEAVING:
                self._say_leaving()
                self._say_leaving_later()
            case Order.EMPTY_OUT:
                self._empty_out()
            case Order.END:
                self._loop.stop()
            case Order.SAY_READY | Order.SAY_FAILED:
                raise AssertionError("said before there is a loop")

    def _stop_accepting(self) -> None:
        """In a signal handler, too."""
        self._acceptor.refuse()
        self._service.draining.set()

    def _close_listeners(self) -> None:
        """On the guard's thread, too."""
        self._acceptor.close()
        self._service.draining.set()

    def _say_leaving(self) -> None:
        """In a signal handler, too."""
        if not self._leaving_said:
            self._leaving_said = self._channel.send(m.Leaving("draining"))

    def _say_leaving_later(self) -> None:
        if not self._leaving_said and not self._orphan:
            self._say_leaving()
            self._loop.call_later(RETRY_S, self._say_leaving_later)

    def _tell_stuck(self) -> None:
        self._log.error("stuck-without-master", grace_s=self._service.settings.graceful_timeout)

    # --- arrivals

    def _on_arrival(self) -> None:
        if not self._may_begin():
            self._acceptor.pause()
            return
        try:
            arrival = self._acceptor.take()
        except OSError as error:
            self._log.error("accept-error", reason=str(error), connections=len(self._connections))
            self._acceptor.pause()
            self._loop.call_later(EXHAUSTED_S, self._resume_accepting)
            return
        if arrival is not None:
            self._adopt(arrival)

    def _may_begin(self) -> bool:
        """Whether a new connection's request would be served at once."""
        held = len(self._connections) + self._arriving + len(self._prefaces)
        return held < self._service.connections_max and not (self._pool is not None and self._pool.saturated)

    def _resume_accepting(self) -> None:
        if self._life is State.ACCEPTING and self._may_begin():
            self._acceptor.resume()

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
        log = self._log.warning if preface.begun else self._log.debug  # a port that is only probed is no news
        log("proxy-protocol-refused", peer=peer, reason=preface.problem)
        self._resume_accepting()
        self._end_if_empty()

    def _open(self, arrival: Arrival) -> None:
        tls = self._service.tls if arrival.fresh else None
        arrival.route.secure = tls is not None
        self._service.environs.welcome(arrival.route)
        connection = Connection(self, arrival.sock, arrival.route, arrival.requests)
        handshake_s = min(self.patience.head_s, HANDSHAKE_S_MAX) if tls is not None else None
        self._arriving += 1
        drive(
            self._loop.connect_accepted_socket(
                lambda: connection, arrival.sock, ssl=tls, ssl_handshake_timeout=handshake_s
            ),
            self._arrived,
        )

    def _arrived(self, error: BaseException | None) -> None:
        self._arriving -= 1
        if isinstance(error, (ssl.SSLError, ConnectionError, TimeoutError)):  # a scanner, or a client without TLS
            self._log.debug("handshake-failed", reason=str(error))
        elif error is not None:
            self._log.warning("connection-lost-on-arrival", reason=repr(error))
        self._resume_accepting()  # until now an opened one counted twice
        self._end_if_empty()

    # --- a drain

    def _empty_out(self) -> None:
        """Apply the newest terms to each connection now, and again until none is left."""
        for connection in tuple(self._connections):
            self._part_with(connection)
        self._arm_sweep()
        self._end_if_empty()

    def _part_with(self, connection: Connection) -> None:
        """What becomes of an idle connection in a drain."""
        if self._terms is None or not connection.at_rest:
            return
        match self._terms.fate(connection.since, self.now()):
            case Fate.HAND_OVER if self._successor is not None and not connection.route.secure:
                self._inbox_takes = hand_over(connection, self._successor)
            case Fate.CLOSE:
                connection.close_idle()

    def _end_if_empty(self) -> None:
        busy = self._pool is not None and self._pool.busy > 0  # also for clients that have gone
        held = self._connections or self._arriving or self._prefaces
        if self._life is State.DRAINING and not (held or busy or self._terms_own):
            self._take(Input.EMPTY)

    # --- time limits

    def _arm_sweep(self) -> None:
        """Whenever there is a connection, and only then, the timer runs."""
        if self._life is State.DRAINING and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._sweep is None and self._connections:
            many = max(1.0, len(self._connections) / SWEEP_SLICE)
            period_s = DRAIN_SWEEP_S if self._life is State.DRAINING else SWEEP_S / many
            self._sweep = self._loop.call_later(period_s, self._on_sweep)

    def _on_sweep(self) -> None:
        """Look at the time limits of all connections, of many in slices, so that requests do not wait for it."""
        self._sweep = None
        now = self.now()
        if not self._unswept or self._life is State.DRAINING:
            self._unswept = list(self._connections)
            self._inbox_takes = True
        size = len(self._unswept) if self._life is State.DRAINING else SWEEP_SLICE
        some, self._unswept = self._unswept[:size], self._unswept[size:]
        for connection in some:
            connection.check(now)
            if self._inbox_takes:
                self._part_with(connection)
        self._arm_sweep()

    # --- connection.Home

    def now(self) -> float:
        """See `Home`."""
        return self._loop.time()

    def reader(self) -> Reader:
        """See `Home`."""
        return Reader(self._service.heads, self._service.limits)

    def opened(self, connection: Connection) -> None:
        """See `Home`."""
        self._connections.add(connection)
        if self._sweep is None:
            self._arm_sweep()
        self._part_with(connection)

    def serve(self, connection: Connection, request: Admitted, spool: Spool | None) -> None:
        """See `Home`."""
        self._requests += 1
        route = connection.route
        if spool is None:
            environ = self._make_environ(request, BytesIO(), 0, route)
        else:
            environ = self._make_environ(request, spool.rewound(), spool.size_bytes, route)
        exchange = Exchange(self._gateway, request, environ)
        if route.secure:
            exchange.sends_files = False
            exchange.gateway = self._secure_gateway
        pool = self._pool
        run: Run | None
        if pool is None:
            run = run_inline(connection, exchange, self._loop)
            if run is None:
                return
        else:
            run = ThreadRun(connection, exchange, pool)
            pool.submit(run.work)
        connection.running(run)

    def send_file(self, connection: Connection, part: FilePart) -> FileSender:
        """See `Home`."""
        return FileSender(self._loop, connection.sock, part, connection.file_sent)

    def served(self, connection: Connection, exchange: Exchange) -> None:
        """See `Home`."""
        if self._service.access is not None:
            self._note(
                self._service.access, exchange.environ, exchange.status, exchange.headers, exchange.body_bytes,
                self.now() - connection.since,
            )  # fmt: skip
        if self._pool is not None:
            self._resume_accepting()
            self._end_if_empty()

    def rested(self, connection: Connection) -> None:
        """See `Home`."""
        self._part_with(connection)

    def closed(self, connection: Connection) -> None:
        """See `Home`."""
        self._connections.discard(connection)
        self._resume_accepting()
        self._end_if_empty()

    def refused(self, connection: Connection, status: int, reason: str) -> None:
        """See `Home`."""
        peer = connection.route.peer.address
        self._log.debug("request-refused", status=status, reason=reason, peer=peer)
        if self._service.access is not None:
            took_s = self.now() - connection.since
            self._note(self._service.access, refused(peer), str(status), [], 0, took_s)

    def _note(  # noqa: PLR0913, PLR0917 - what a line tells
        self, access: AccessLog, environ: dict[str, Any], status: str, headers: list[Header], size: int, took_s: float
    ) -> None:
        if access.add(Entry(environ, status, headers, size, took_s, time.time(), self._pid)):
            self._loop.call_later(FLUSH_S, self._flush_access)

    def _flush_access(self) -> None:
        access = self._service.access
        if access is not None:
            if access.flush():
                self._loop.call_later(FLUSH_S, self._flush_access)
            self._tell_dropped(access)

    def _tell_dropped(self, access: AccessLog) -> None:
        if dropped := access.take_dropped():
            self._log.warning("access-log-dropped", lines=dropped, reason=access.problem)

    def soon(self, connection: Connection) -> None:
        """See `Home`."""
        if not self._waiting:
            self._loop.call_soon(self._advance)
        self._waiting.append(connection)

    def _advance(self) -> None:
        """Serve those whose bytes have come. The loop sends what they are answered when this is over, therefore it
        does not go on for long: where the app takes its time, each answer leaves at once."""
        waiting, self._waiting = self._waiting, []
        until = self.now() + TURN_S
        for number, connection in enumerate(waiting, 1):
            connection.advance()
            if self.now() > until and number < len(waiting):
                if not self._waiting:
                    self._loop.call_soon(self._advance)
                self._waiting[:0] = waiting[number:]
                break

    def _is_draining(self) -> bool:
        """Asked on app threads, too."""
        return self.draining

    def _announces_close(self) -> bool:
        """Asked on app threads, too."""
        return self._terms is not None and self._terms.announce_close(self._inbox_takes)
