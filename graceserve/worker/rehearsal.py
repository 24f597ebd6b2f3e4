"""A worker's first requests, with nobody in front of it. Shell; used in a worker before it says that it is ready.

Connections come through an inbox of its own, are asked a few times, answered by an app that has nothing to do with the
service's, and handed over at a drain: the whole life of a connection. It proves that this works in this interpreter.
And what runs for the first time takes several times as long: the interpreter has not seen the code yet, and memory that
is shared since the fork has to be copied. On a single core, where all workers of a release begin at the same moment,
clients waited 10 ms for that.
"""

import asyncio
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from time import monotonic
from typing import Any

import uvloop

from graceserve.template.load import AppError
from graceserve.wire.channel import Inbox
from graceserve.worker.accept import Acceptor
from graceserve.worker.arrival import Arrival
from graceserve.worker.arrivals import Arrivals
from graceserve.worker.board import Board
from graceserve.worker.connections import Connections
from graceserve.worker.environ import Peer, Route, Site
from graceserve.worker.handoff import hand_over, take_over
from graceserve.worker.http.port import Limits
from graceserve.worker.ledger import Ledger
from graceserve.worker.lifecycle import Terms, Way
from graceserve.worker.patience import NEVER_S, Patience
from graceserve.worker.service import Service

CONNECTIONS = 4
REQUESTS = 12  # on each; CPython 3.11 adapts a function's code at its eighth call
REQUEST = b"GET / HTTP/1.1\r\nHost: rehearsal\r\n\r\n"
OK = b"HTTP/1.1 200 "


def rehearse(service: Service) -> None:
    """Serve, and hand over. Raises `AppError`."""
    with ExitStack() as opened:
        try:
            problem = _Rehearsal(_free_of_options(service), opened).run()
        except OSError as error:
            problem = str(error)
    if problem:
        raise AppError(f"a worker can't serve a request of its own: {problem}")


def _free_of_options(service: Service) -> Service:
    """One that shows nothing, refuses nothing, and leaves no threads behind."""
    return replace(
        service, app=_app, settings=replace(service.settings, threads=1), limits=Limits(), patience=Patience(NEVER_S),
        connections_max=CONNECTIONS, ledger=Ledger(0), access=None, tls=None, expected=None,
    )  # fmt: skip


def _app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


class _Rehearsal:
    def __init__(self, service: Service, opened: ExitStack) -> None:
        """What it opens is closed with `opened`, also if something can't be opened."""
        self._opened = opened
        self._problem = ""
        self._loop = uvloop.new_event_loop()
        opened.callback(self._loop.close)
        self._loop.set_exception_handler(self._on_bug)
        self._inbox = Inbox.new()
        opened.callback(self._inbox.close)
        self._acceptor = Acceptor([], self._inbox.take, service.log)
        place = Board().place(0)
        self._connections = Connections(service, self._loop, self._inbox.put, place, self._on_settled)
        opened.callback(self._connections.close)
        opened.callback(self._connections.relief.close)
        self._arrivals = Arrivals(service, self._loop, self._acceptor, self._connections, self._on_settled)
        opened.callback(self._arrivals.end)
        self._left: dict[socket.socket, int] = {}  # answers that each client has yet to get

    def run(self) -> str:
        """Until all that is asked is answered, and handed over. What went wrong, or nothing."""
        for _ in range(CONNECTIONS):
            self._connect()
        self._arrivals.start()
        self._loop.call_soon(asyncio._set_running_loop, None)  # as in `serve`
        self._loop.run_forever()
        if not self._problem:
            self._take_back()
        return self._problem

    def _connect(self) -> None:
        client, server = socket.socketpair()
        with server:
            hand_over(Arrival(server, Route(Site("rehearsal"), Peer())), self._inbox.put)
        self._opened.callback(client.close)
        self._loop.add_reader(client, self._on_answer, client)
        self._opened.callback(self._loop.remove_reader, client)
        self._left[client] = REQUESTS
        client.send(REQUEST)

    def _on_answer(self, client: socket.socket) -> None:
        answer = client.recv(65_536)
        self._left[client] -= 1
        if not answer.startswith(OK):
            self._fail(f"the answer begins with {answer[:40]!r}")
        elif self._left[client]:
            client.send(REQUEST)
        elif not any(self._left.values()):
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        now = monotonic()
        self._acceptor.refuse()
        self._connections.relief.leave()
        self._connections.drain(Terms(Way.HAND_OVER, now, now + NEVER_S))
        self._loop.call_soon(self._loop.stop)

    def _take_back(self) -> None:
        for _ in self._left:
            arrival = take_over(self._inbox.take, {})
            if arrival is not None:
                arrival.sock.close()

    def _on_settled(self) -> None:
        self._arrivals.resume()

    def _fail(self, problem: str) -> None:
        self._problem = problem
        self._loop.stop()

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._fail(repr(context.get("exception") or context.get("message")))
