"""All connections of a worker, and the requests on them. Shell; used in a worker, on its loop thread.

Bytes are read first, of all that have sent some, and then served in one go. With `--threads 1` the app is called here;
else its threads take the requests, in order, and what waits too long for one goes to a sibling (`relief` does that for
the other kind). In a drain everything of which no request has begun goes to the inbox.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from io import BytesIO
from time import monotonic

from graceserve.wire.channel import Channel
from graceserve.worker.board import Place
from graceserve.worker.connection import Connection
from graceserve.worker.filesend import FileSender
from graceserve.worker.filewrapper import FilePart
from graceserve.worker.http.memo import Memo
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.reader import Reader
from graceserve.worker.journal import Journal
from graceserve.worker.lifecycle import Terms, Way
from graceserve.worker.pool import Pool
from graceserve.worker.relief import OLDER_FIRST_TURNS, Relief
from graceserve.worker.runs import Inline, ThreadRun
from graceserve.worker.service import Service
from graceserve.worker.spool import Spool
from graceserve.worker.wsgi import Exchange, Gateway

SWEEP_S = 1.0  # how often time limits are looked at, while there are connections
SWEEP_SLICE = 500  # connections looked at in one go: about half a millisecond
DRAIN_SWEEP_S = 0.05  # the same in a drain, where connections are handed over or closed
TURN_S = 0.002  # of app calls in a row; then what has come in between is read
TOGETHER_S = 0.0005  # so long an answer waits for those behind it, to be sent with them
ARM_S = 0.001  # how often the guard's alarm is put off: each time may leave a virtual machine
FEWER = 1  # connections that another worker may have less, and this one takes the next all the same
QUEUED_S = 0.004  # a request that has waited for an app thread as long is passed on, if somebody is free


class Connections:
    """See `connection.Home`."""

    def __init__(
        self, service: Service, loop: asyncio.AbstractEventLoop, inbox: Channel, place: Place,
        changed: Callable[[], None],
    ) -> None:  # fmt: skip
        """`changed`: there may be room now, or nothing left."""
        self._service = service
        self._loop = loop
        self._place = place
        self._changed = changed
        self.now = monotonic
        self._all: set[Connection] = set()
        threads = service.settings.threads
        self._pool = Pool(threads, loop, self._on_threads) if threads > 1 else None
        self._journal = Journal(service.access, loop, service.log) if service.access is not None else None
        self.watches = self._journal is not None
        self.patience = service.patience
        self.ledger = service.ledger
        self._words = self.ledger.words
        self.requests = 0  # begun
        self._gateway = Gateway(service.app, service.log, self._announces_close, keeps_environ=self.watches)
        self._secure_gateway = Gateway(  # TLS can't be handed over
            service.app, service.log, self._is_draining, keeps_environ=self.watches
        )
        self._memo = Memo(service.limits)
        self._make_environ = service.environs.make
        self._waiting: deque[Connection] = deque()  # to be served
        self._advances = False  # that is scheduled
        self._advance = self._advance_inline if self._pool is None else self._advance_threads
        self._arm_at = 0.0
        self._begun_s = 0.0  # when requests were given to the threads the last time
        self._queue_check: asyncio.TimerHandle | None = None
        self._saturated = False  # as the siblings see it
        self._inline = Inline(loop)
        self._tempo = self._inline.watch.tempo
        self.relief = Relief(loop, inbox, place, self._waiting, self._inline)
        self.newcomer: Connection | None = None  # from the inbox, with something to say, and not served yet
        self.others_wait: Callable[[], bool] = bool  # whether there is somebody in the inbox for this worker to take
        self._sweep: asyncio.TimerHandle | None = None
        self._unswept: list[Connection] = []
        self.draining = False  # there are terms
        self._terms: Terms | None = None
        self._inbox_full_since: float | None = None
        self._inbox_again = 0.0  # not to be tried before

    # --- for the worker

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._all)

    @property
    def busy(self) -> int:
        """Those with a request that runs, or waits for a thread."""
        return sum(connection.busy for connection in self._all)

    @property
    def gone(self) -> bool:
        """Whether none is left, and no request runs, also of a client that has gone."""
        return not self._all and (self._pool is None or not self._pool.busy)

    def have_room(self, arriving: int) -> bool:
        """Whether one more, beside those that arrive, could begin a request at once."""
        if self._pool is not None and self._pool.saturated:
            return False
        return len(self._all) + arriving < self._service.connections_max

    def leave_it_to_others(self) -> bool:
        """Whether one more would have to wait here, and not elsewhere."""
        return bool(self._waiting) and self._place.others_free

    def more_than_others(self, arriving: int) -> bool:
        """Whether somebody who is free has clearly fewer, so that the next one had better be theirs."""
        fewest = self._place.fewest_of_others
        return fewest is not None and len(self._all) + arriving > fewest + FEWER

    def drain(self, terms: Terms) -> None:
        """Apply these to each connection now, and again until none is left."""
        self._terms = terms
        self.draining = self._gateway.draining = self._secure_gateway.draining = True
        self._part_with_queue()
        for connection in tuple(self._all):
            self._part_with(connection)
        self._arm_sweep()

    def reopen(self) -> None:
        """The log files were moved away."""
        if self._journal is not None:
            self._journal.reopen()

    def close(self) -> None:
        """At the end."""
        if self._journal is not None:
            self._journal.close()

    # --- a drain

    def _part_with(self, connection: Connection) -> None:
        """What becomes of a connection in a drain: it is somebody else's, or closed, or stays for now."""
        terms = self._terms
        if terms is None or (terms.way is Way.HAND_OVER and connection.movable and self._hand_over(connection)):
            return
        if connection.at_rest and terms.closes(connection.since, self.now()):
            connection.close_idle()

    def _hand_over(self, connection: Connection) -> bool:
        now = self.now()
        if now < self._inbox_again:
            return False
        if not self.relief.move(connection):
            self._inbox_again = now + DRAIN_SWEEP_S / 2
            if self._inbox_full_since is None and self.draining:
                self._inbox_full_since = now
            return False
        self._inbox_full_since = None
        connection.let_go()
        return True

    def _part_with_queue(self) -> None:
        if self._pool is not None and self._terms is not None and self._terms.way is Way.HAND_OVER:
            self._pass_on_queue(self._pool, self.now())
            self._show_room(self._pool)

    def _part_with_waiting(self) -> None:
        """A request that has come is served by those who are to serve."""
        for connection in tuple(self._waiting):
            self._part_with(connection)

    def _is_draining(self) -> bool:
        """Asked on app threads, too."""
        return self.draining

    def _announces_close(self) -> bool:
        """Asked on app threads, too."""
        since, now = self._inbox_full_since, self.now()
        full_s = now - since if since is not None else 0.0
        return self._terms is not None and self._terms.announces_close(full_s, now)

    # --- time limits

    def _arm_sweep(self) -> None:
        """Whenever there is a connection, and only then, the timer runs."""
        if self.draining and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        if self._sweep is None and self._all:
            many = max(1.0, len(self._all) / SWEEP_SLICE)
            self._sweep = self._loop.call_later(DRAIN_SWEEP_S if self.draining else SWEEP_S / many, self._on_sweep)

    def _on_sweep(self) -> None:
        """Look at the time limits of all connections, of many in slices, so that requests do not wait for it."""
        self._sweep = None
        now = self.now()
        if not self._unswept or self.draining:
            self._unswept = list(self._all)
            self._part_with_queue()
        size = len(self._unswept) if self.draining else SWEEP_SLICE
        some, self._unswept = self._unswept[:size], self._unswept[size:]
        for connection in some:
            connection.check(now)
            self._part_with(connection)
        self._arm_sweep()

    # --- turns

    def soon(self, connection: Connection) -> None:
        """See `Home`."""
        self._waiting.append(connection)
        if not self._advances:
            self._go_on()

    def _go_on(self) -> None:
        """As long as somebody waits. Also behind a bug: that costs one connection, and not all those behind it."""
        self._advances = bool(self._waiting) or not self._inline.done
        if self._advances:
            self._loop.call_soon(self._advance)

    def _advance_threads(self) -> None:
        """Have the app's threads serve those whose bytes have come."""
        if self.draining:
            self._part_with_waiting()
        waiting = self._waiting
        self._begun_s = monotonic()
        try:
            while waiting:
                waiting.popleft().advance()
        finally:
            self._go_on()
        assert self._pool is not None
        self._show_room(self._pool)

    def _advance_inline(self) -> None:
        """Serve those whose bytes have come, and send what they are answered now and then, and in the end."""
        if self.draining:
            self._part_with_waiting()
        waiting, inline = self._waiting, self._inline
        before = monotonic()
        end = before + TURN_S
        answer_at = self._calls_follow(before)
        many = len(waiting)
        if self.newcomer is not None or self.relief.older_first:
            many = self._many_due()
        try:
            for _ in range(many):
                waiting.popleft().advance()
                now = monotonic()
                if now > answer_at:
                    if now > self._arm_at:  # some of the short calls, and all that are not
                        inline.watch.took(now, now - before)
                    inline.answer()
                    now = monotonic()
                    if now > end:
                        break
                    answer_at = self._calls_follow(now)
                before = now
            inline.answer()
        finally:
            self._go_on()

    def _many_due(self) -> int:
        """How many of those that wait, with whoever has waited for longest in front."""
        waiting, newcomer, relief = self._waiting, self.newcomer, self.relief
        older_first = relief.older_first > 0
        relief.older_first -= older_first
        if newcomer is None:
            if self.others_wait():
                return 0
            relief.older_first = 0
        elif newcomer not in waiting:
            return 0  # it is being opened: the guard could not hand it over again if the next call were a long one
        else:
            self.newcomer = None
            if older_first:
                waiting.remove(newcomer)
                waiting.appendleft(newcomer)
                return 1
        return len(waiting)

    def expect(self, newcomer: Connection) -> None:
        """It is to be opened, and served, before another one is taken from the inbox."""
        if self._pool is None:
            self.newcomer = newcomer
            self.relief.older_first = OLDER_FIRST_TURNS

    def expect_no_more(self, newcomer: Connection) -> None:
        """It is open, or could not be opened. If nothing has been read of it by now nobody waits for it."""
        if self.newcomer is newcomer and newcomer not in self._waiting:
            self.newcomer = None

    def _calls_follow(self, now: float) -> float:
        """When what they answer is to be sent."""
        if now > self._arm_at:
            self._arm_at = now + ARM_S
            self._inline.watch.arm()
        return now + TOGETHER_S if now > self._tempo.slow_until else now  # the next call may be a slow one

    # --- app threads

    def _on_threads(self) -> None:
        """Some are through."""
        assert self._pool is not None
        self._show_room(self._pool)
        self._changed()

    def _show_room(self, pool: Pool) -> None:
        """Tell the siblings whether this worker could begin a request, and care for those that have to wait."""
        if pool.saturated != self._saturated:
            self._saturated = pool.saturated
            if self._saturated:
                self._place.busy()
            else:
                self._place.free()
        if pool.queued and self._queue_check is None:
            self._queue_check = self._loop.call_later(QUEUED_S, self._check_queue, pool)

    def _check_queue(self, pool: Pool) -> None:
        """What has waited for too long goes to where it need not, if there is such a place."""
        self._queue_check = None
        if self._place.others_free and not self.draining:
            self._pass_on_queue(pool, self.now() - QUEUED_S)
        self._show_room(pool)

    def _pass_on_queue(self, pool: Pool, until: float) -> None:
        """Those requests that have waited for a thread since then or before go, as far as the inbox takes them."""
        takes = True
        for run in pool.take_back():
            connection = run.client
            assert isinstance(connection, Connection)
            if takes and not run.begun and connection.busy and run.since <= until:
                connection.take_back(run.request)
                takes = connection.movable and self._hand_over(connection)
                if takes:
                    self.requests -= 1
                    continue
                connection.again(run)
            pool.submit(run)

    # --- connection.Home

    def reader(self) -> Reader:
        """See `Home`."""
        return Reader(self._service.heads, self._service.limits, self._memo)

    def opened(self, connection: Connection) -> None:
        """See `Home`."""
        self._all.add(connection)
        self._place.holds(len(self._all))
        if self._pool is None:
            self.relief.opened(connection)
        if self._sweep is None:
            self._arm_sweep()
        self._part_with(connection)

    def serve(self, connection: Connection, request: Admitted, spool: Spool | None) -> None:
        """See `Home`."""
        self.requests += 1
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
        if pool is None:
            self._words[connection.line] = 0  # `alone`, whose call would be felt here
            self._inline.call(connection, exchange)
            if route.secure:
                self._inline.answer()  # the guard can't send it
            return
        run = ThreadRun(connection, exchange, pool, self._begun_s)
        pool.submit(run)
        connection.running(run)

    def send_file(self, connection: Connection, part: FilePart) -> FileSender:
        """See `Home`."""
        return FileSender(self._loop, connection.sock, part, connection.file_sent)

    def served(self, exchange: Exchange, took_s: float) -> None:
        """See `Home`."""
        if self._journal is not None:
            self._journal.served(exchange, took_s)

    def rested(self, connection: Connection) -> None:
        """See `Home`."""
        self._part_with(connection)

    def closed(self, connection: Connection) -> None:
        """See `Home`."""
        self._all.discard(connection)
        self._place.holds(len(self._all))
        self.relief.closed(connection)
        self._changed()

    def refused(self, connection: Connection, status: int, reason: str) -> None:
        """See `Home`."""
        peer = connection.route.peer.address
        self._service.log.debug("request-refused", status=status, reason=reason, peer=peer)
        if self._journal is not None:
            self._journal.refused(peer, status, self.now() - connection.since)
