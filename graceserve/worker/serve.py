"""A worker's loop: its channel, its signals, its connections. Shell; runs in a worker, in its main thread.

What the worker is at a moment is `lifecycle`'s; this carries its orders out. Two of them can't wait for the loop's next
turn, which an app call may hold up: to stop accepting, and to tell the master so. The signal handler does just these,
by system calls, and leaves the rest to the loop.
"""

import asyncio
from time import monotonic
from typing import Any

import uvloop

from graceserve.errors import WireError
from graceserve.priority import step_aside
from graceserve.wire import messages as m
from graceserve.wire.channel import Channel, Inbox, close_all
from graceserve.worker.accept import Acceptor
from graceserve.worker.arrivals import Arrivals
from graceserve.worker.board import Place
from graceserve.worker.connections import Connections
from graceserve.worker.guard import Guard, hasten
from graceserve.worker.lifecycle import ANSWER_S, STOP_LINGER_S, Input, Order, State, Terms, Way, step
from graceserve.worker.service import Service
from graceserve.worker.signals import obey, obey_no_more

RETRY_S = 0.05  # when the master's end of the channel is full
MESSAGES_A_TURN = 16


class Worker:
    """From READY to ENDED."""

    def __init__(self, service: Service, channel: Channel, inbox: Inbox, acceptor: Acceptor, place: Place) -> None:
        self._service = service
        self._log = service.log
        self._channel = channel
        self._inbox = inbox.put
        self._acceptor = acceptor
        self._loop = uvloop.new_event_loop()
        self._connections = Connections(service, self._loop, inbox.put, place, self._settled)
        self._arrivals = Arrivals(service, self._loop, acceptor, self._connections, self._settled)
        relief, grace_s = self._connections.relief, service.settings.graceful_timeout
        self._guard = Guard(channel.fileno(), grace_s, self, relief.watch, relief)
        self._life = State.READY
        self._terms: Terms | None = None
        self._terms_own = False  # a SIGTERM by hand: the master has not answered yet
        self._leaving_said = False
        self._orphan = False  # the master is gone

    def run(self) -> None:
        """Serve until the end. The master has been told `WorkerReady`."""
        self._loop.set_exception_handler(self._on_bug)
        self._loop.add_reader(self._channel.fileno(), self._on_channel)
        if self._service.settings.threads == 1:
            hasten()
        self._guard.start()
        # The app must not see a loop in its thread: Django's ORM and asyncio.run() would refuse to work. To hide it
        # once and for all is two system calls cheaper than for each request (CPython 3.11 asks for its pid).
        self._loop.call_soon(asyncio._set_running_loop, None)
        obey(self._on_term)
        try:
            self._loop.run_forever()
        finally:
            if self._terms is not None and self._terms.way is Way.HAND_OVER:
                step_aside()
            obey_no_more()
            self._connections.close()
            self._arrivals.end()
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
            case m.Outdated():
                self._acceptor.leave_inbox()
            case m.Drain(grace_s, stop):
                self._on_drain(grace_s, stop)
            case m.Ping():
                connections = self._connections
                pong = m.Pong(connections.requests, connections.count, connections.busy)
                self._channel.send(pong)  # if it is not taken: the next one comes soon
            case m.Reopen():
                self._log.reopen()
                self._connections.reopen()
            case _:
                self._log.warning("worker-ignored", message=type(message).__name__, name=getattr(message, "name", ""))
        close_all(fds)

    def _on_drain(self, grace_s: float, stop: bool) -> None:
        """Newer terms replace older ones."""
        self._set_terms(Way.STOP if stop else Way.HAND_OVER, grace_s)
        if stop:
            self._take_the_rest()
        self._acceptor.close()
        self._take(Input.DRAIN)

    def _set_terms(self, way: Way, grace_s: float) -> None:
        now = monotonic()
        self._terms = Terms(way, now, now + grace_s)
        self._terms_own = False
        self._loop.call_later(STOP_LINGER_S, self._drop_prefaces)

    def _drop_prefaces(self) -> None:
        """Of a connection whose PROXY header has not come by now no request will."""
        self._part_with_prefaces()
        self._arrivals.give_up()

    def _part_with_prefaces(self) -> None:
        if self._terms is not None and self._terms.way is Way.HAND_OVER:
            self._arrivals.hand_over(self._inbox)

    def _take_the_rest(self) -> None:
        self._connections.relief.end()
        if self._life in (State.ACCEPTING, State.DRAINING):
            self._arrivals.adopt_rest()

    def _on_master_gone(self) -> None:
        self._orphan = True
        grace_s = self._service.settings.graceful_timeout
        serving = self._life in (State.ACCEPTING, State.DRAINING)
        now = f"accepts no more, finishes its requests within {grace_s:g} s, then exits" if serving else "exits"
        self._log.warning("master-gone", now=now, connections=self._connections.count)
        self._loop.remove_reader(self._channel.fileno())
        self._set_terms(Way.STOP, grace_s)
        self.close_listeners()  # the next master wants to bind
        self._take_the_rest()
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
                self._arrivals.start()
            case Order.STOP_ACCEPTING:
                self._stop_accepting()
            case Order.SAY_LEAVING:
                self._say_leaving()
                self._say_leaving_later()
            case Order.EMPTY_OUT:
                assert self._terms is not None
                self._part_with_prefaces()
                self._connections.drain(self._terms)
                self._end_if_empty()
            case Order.END:
                self._loop.stop()
            case Order.SAY_READY | Order.SAY_FAILED:
                raise AssertionError("said before there is a loop")

    def _stop_accepting(self) -> None:
        """In a signal handler, too."""
        self._acceptor.refuse()
        self._connections.relief.leave()
        self._service.draining.set()

    def close_listeners(self) -> None:
        """See `guard.Ward`."""
        self._acceptor.close()
        self._connections.relief.leave()
        self._service.draining.set()

    def _say_leaving(self) -> None:
        """In a signal handler, too."""
        if not self._leaving_said:
            self._leaving_said = self._channel.send(m.Leaving("draining"))

    def _say_leaving_later(self) -> None:
        if not self._leaving_said and not self._orphan:
            self._say_leaving()
            self._loop.call_later(RETRY_S, self._say_leaving_later)

    def tell_stuck(self) -> None:
        """See `guard.Ward`."""
        self._log.error("stuck-without-master", grace_s=self._service.settings.graceful_timeout)

    def tell_bug(self, error: Exception) -> None:
        """See `guard.Ward`."""
        self._log.error("worker-bug", message="the guard passes nothing on any more", error=repr(error))

    def _settled(self) -> None:
        """A connection has come or gone, or an app thread has become free."""
        self._arrivals.resume()
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        left = self._arrivals.count or not self._connections.gone
        if self._life is State.DRAINING and not (left or self._terms_own):
            self._take(Input.EMPTY)
