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
from graceserve.worker.lifecycle import Terms, Way
from graceserve.worker.patience import NEVER_S, Patience
from graceserve.worker.service import Service

CONNECTIONS = 4
REQUESTS = 12  # on each; CPython 3.11 adapts a function's code at its eighth call
REQUEST = b"GET / HTTP/1.1\r\nHost: rehearsal\r\n\r\n"
OK = b"HTTP/1.1 200 "


def rehearse(service: Service) -> None:
    """Serve, and hand over. Raises `AppError`."""
    rehearsal = _Rehearsal(_free_of_options(service))
    try:
        rehearsal.run()
    except OSError as error:
        rehearsal.problem = rehearsal.problem or str(error)
    finally:
        rehearsal.close()
    if rehearsal.problem:
        raise AppError(f"a worker can't serve a request of its own: {rehearsal.problem}")


def _free_of_options(service: Service) -> Service:
    """One that shows nothing, refuses nothing, and leaves no threads behind."""
    return replace(
        service, app=_app, settings=replace(service.settings, threads=1), limits=Limits(), patience=Patience(NEVER_S),
        connections_max=CONNECTIONS, access=None, tls=None, expected=None,
    )  # fmt: skip


def _app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


class _Rehearsal:
    def __init__(self, service: Service) -> None:
        self.problem = ""
        self._loop = uvloop.new_event_loop()
        self._loop.set_exception_handler(self._on_bug)
        self._inbox = Inbox.new()
        self._acceptor = Acceptor([], self._inbox.take, service.log)
        place = Board().place(0)
        self._connections = Connections(service, self._loop, self._inbox.put, place, self._on_settled)
        self._arrivals = Arrivals(service, self._loop, self._acceptor, self._connections, self._on_settled)
        self._clients: dict[socket.socket, int] = {}  # and the requests that each has yet to send

    def run(self) -> None:
        """Until all that is asked is answered, and handed over."""
        loop = self._loop
        for _ in range(CONNECTIONS):
            self._connect()
        self._arrivals.start()
        loop.call_soon(asyncio._set_running_loop, None)  # as in `serve`
        loop.run_forever()
        self._arrivals.end()
        if not self.problem:
            self._take_back()

    def close(self) -> None:
        """Leave nothing behind."""
        for client in self._clients:
            self._loop.remove_reader(client)
            client.close()
        self._connections.close()
        self._connections.relief.watch.close()
        self._loop.close()
        self._acceptor.close()
        self._inbox.close()

    def _connect(self) -> None:
        client, server = socket.socketpair()
        with server:
            hand_over(Arrival(server, Route(Site("rehearsal"), Peer())), self._inbox.put)
        self._clients[client] = REQUESTS
        self._loop.add_reader(client, self._on_answer, client)
        self._ask(client)

    def _ask(self, client: socket.socket) -> None:
        self._clients[client] -= 1
        client.send(REQUEST)

    def _on_answer(self, client: socket.socket) -> None:
        answer = client.recv(65_536)
        if not answer.startswith(OK):
            self._fail(f"the answer begins with {answer[:40]!r}")
        elif self._clients[client]:
            self._ask(client)
        elif not any(self._clients.values()):
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        now = monotonic()
        self._acceptor.refuse()
        self._connections.relief.leave()
        self._connections.drain(Terms(Way.HAND_OVER, now, now + NEVER_S))
        self._loop.call_soon(self._loop.stop)

    def _take_back(self) -> None:
        for _ in self._clients:
            arrival = take_over(self._inbox.take, {})
            if arrival is not None:
                arrival.sock.close()

    def _on_settled(self) -> None:
        self._arrivals.resume()

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self._loop.stop()

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._fail(repr(context.get("exception") or context.get("message")))
