"""Who takes what from the inbox, and when: a worker's loop, step by step, with a sibling that does nothing."""

import asyncio
import select
import socket
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest
import uvloop

from graceserve.config import Settings
from graceserve.logs import Log
from graceserve.wire.channel import Inbox
from graceserve.worker import arrivals
from graceserve.worker.accept import Acceptor
from graceserve.worker.arrival import Arrival
from graceserve.worker.arrivals import Arrivals
from graceserve.worker.board import Board
from graceserve.worker.connections import Connections
from graceserve.worker.draining import Draining
from graceserve.worker.environ import Peer, Route, Site, constants
from graceserve.worker.filewrapper import FileWrapper
from graceserve.worker.handoff import hand_over, take_over
from graceserve.worker.http.heads import heads
from graceserve.worker.ledger import Ledger
from graceserve.worker.main import environs_of, limits_of, patience_of
from graceserve.worker.service import Service
from tests.http.test_ledger import tcp_pair
from tests.http.test_time_limits import GET

TIMEOUT_S = 10.0


class Scene:
    """A worker that takes from an inbox only."""

    def __init__(self) -> None:
        settings, log, draining = Settings(threads=1), Log(), Draining()
        self.called: Callable[[str], object] = str  # with the path
        service = Service(
            app=self._app, environs=environs_of(settings, constants(1, 1, draining, sys.stderr, FileWrapper)),
            heads=heads("auto"), limits=limits_of(settings), patience=patience_of(settings), settings=settings,
            connections_max=100, draining=draining, log=log, ledger=Ledger(0),
        )  # fmt: skip
        self.loop = uvloop.new_event_loop()
        self.inbox = Inbox.new()
        board = Board()
        self.place, self.sibling = board.place(0), board.place(1)
        self.place.enter()
        self.sibling.enter()
        self.acceptor = Acceptor([], self.inbox.take, log)
        self.connections = Connections(service, self.loop, self.inbox.put, self.place, self._changed)
        self.arrivals = Arrivals(service, self.loop, self.acceptor, self.connections, self._changed)
        self.arrivals.start()
        self.loop.call_soon(asyncio._set_running_loop, None)
        self.clients: list[socket.socket] = []

    def _changed(self) -> None:
        self.arrivals.resume()

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.called(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def arrive(self, *, asks: bool) -> None:
        """A connection in the inbox."""
        server, client = tcp_pair()
        self.clients.append(client)
        if asks:
            client.sendall(GET)
        with server:
            assert hand_over(Arrival(server, Route(Site("unix:x"), Peer()), fresh=False, waits=asks), self.inbox.put)

    def turn(self, times: int = 1) -> None:
        """Of the loop."""
        for _ in range(times):
            self.loop.call_soon(self.loop.stop)
            self.loop.run_forever()

    def until(self, what: Callable[[], object]) -> None:
        given_up = monotonic() + TIMEOUT_S

        def look() -> None:
            if what() or monotonic() > given_up:
                self.loop.stop()
            else:
                self.loop.call_soon(look)

        look()
        self.loop.run_forever()
        assert what(), "it does not happen"

    def in_inbox(self) -> int:
        """How many there are; whoever counts puts them back."""
        found = []
        while select.select([self.inbox.take], [], [], 0)[0]:
            taken = take_over(self.inbox.take, {})
            assert taken is not None
            found.append(taken)
        for arrival in found:
            assert hand_over(arrival, self.inbox.put)
            arrival.sock.close()
        return len(found)

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.until(lambda: not self.connections.count)
        self.arrivals.end()
        self.connections.close()
        self.connections.relief.close()
        self.inbox.close()
        self.loop.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_one_by_one(scene: Scene) -> None:
    """Each is served before the next is taken, with which another worker may be quicker. One of them may take long."""
    left: list[int] = []
    scene.called = lambda path: left.append(scene.in_inbox())
    scene.sibling.busy()
    for _ in range(6):
        scene.arrive(asks=True)
    scene.until(lambda: len(left) == 6)
    assert left == [5, 4, 3, 2, 1, 0]


def test_those_in_the_inbox_have_waited_for_longer(scene: Scene) -> None:
    """What the worker's own clients ask while it takes them comes behind them."""
    paths: list[str] = []
    scene.sibling.busy()
    scene.arrive(asks=True)
    scene.until(lambda: scene.connections.requests == 1)
    own = scene.clients[0]

    def called(path: str) -> None:
        paths.append(path)
        if len(paths) == 1:
            own.sendall(GET.replace(b" / ", b" /own "))

    scene.called = called
    for _ in range(4):
        scene.arrive(asks=True)
    scene.until(lambda: len(paths) == 5)
    assert paths == ["/", "/", "/", "/", "/own"]


@pytest.mark.parametrize("asks", [True, False])
def test_others_first_unless_somebody_waits(scene: Scene, asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "OTHERS_FIRST_S", 0.5)
    scene.sibling.busy()
    for _ in range(3):
        scene.arrive(asks=False)
    scene.until(lambda: scene.connections.count == 3)
    scene.sibling.free()  # and it has no connection at all
    scene.arrive(asks=asks)
    scene.turn(3)
    assert scene.connections.count == (4 if asks else 3)
    scene.until(lambda: scene.connections.count == 4)


def test_noise_is_not_urgent(scene: Scene) -> None:
    assert not scene.acceptor.urgent
    scene.inbox.put._sock.send(b"?")
    assert not scene.acceptor.urgent
    scene.until(lambda: not scene.acceptor.inbox_holds_some)
    scene.inbox.put.close()
    assert not scene.acceptor.urgent
