"""What a slow client may do, on real sockets and a clock that the test turns."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from graceserve.logs import Log
from graceserve.worker.connection import Connection, Patience, Request, State
from graceserve.worker.environ import Peer, Route, Site, constants, environ
from graceserve.worker.http.h11_port import H11Parser
from graceserve.worker.http.port import Limits
from graceserve.worker.runs import InlineRun
from graceserve.worker.wsgi import Exchange
from tests.http.apps import app
from tests.http.harness import PATIENCE_S

GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"


class Desk:
    """A `Home` for one connection, with a clock that stands still."""

    limits = Limits()
    patience = Patience(keep_alive_s=75)

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.time = 1000.0
        self.over = False
        self.refusals: list[int] = []
        ours, self.client = socket.socketpair()
        self.client.setblocking(False)
        self.connection = Connection(self, ours, Route(Site("unix:x"), Peer()), 0)
        self.loop.run_until_complete(self.loop.connect_accepted_socket(lambda: self.connection, ours))

    def now(self) -> float:
        return self.time

    def parser(self) -> H11Parser:
        return H11Parser(self.limits)

    def begin(self, connection: Connection, request: Request) -> InlineRun:
        constant = constants(1, 1, None, None, None)
        made = environ(request.admitted, request.spool.rewound(), 0, connection.route, constant)
        exchange = Exchange(app, made, Log(), keep_alive=request.admitted.keep_alive, close_now=lambda: False)
        return InlineRun(connection, exchange, self.loop)

    def opened(self, connection: Connection) -> None: ...

    def served(self, connection: Connection) -> None: ...

    def rested(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None:
        self.over = True

    def refused(self, connection: Connection, status: int, reason: str) -> None:
        self.refusals.append(status)

    def soon(self, connection: Connection) -> None:
        self.loop.call_soon(connection.advance)

    def until(self, happened: Any) -> None:
        """Turn the loop until it is true."""

        async def turn() -> None:
            while not happened():
                await asyncio.sleep(0.001)

        self.loop.run_until_complete(asyncio.wait_for(turn(), PATIENCE_S))

    def send(self, data: bytes, state: State) -> None:
        """And wait until the connection is in this state."""
        self.client.sendall(data)
        self.until(lambda: self.connection.state is state and not self.unread())

    def unread(self) -> bool:
        """Whether the kernel still holds something for the server."""
        import array
        import fcntl
        import termios

        waiting = array.array("i", [0])
        fcntl.ioctl(self.connection.sock.fileno(), termios.FIONREAD, waiting)
        return bool(waiting[0])

    def pass_(self, seconds: float) -> None:
        self.time += seconds
        self.connection.check(self.time)

    def answer(self) -> bytes:
        self.until(lambda: True)
        try:
            return self.client.recv(1 << 16)
        except BlockingIOError:
            return b"nothing"


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.client.close()
    desk.until(lambda: desk.over)
    desk.loop.run_until_complete(asyncio.sleep(0.001))
    desk.loop.close()


def test_an_idle_connection_is_closed_silently(desk: Desk) -> None:
    desk.pass_(75)
    assert not desk.connection.gone
    desk.pass_(1)
    desk.until(lambda: desk.over)
    assert desk.answer() == b""


def test_a_request_starts_the_idle_time_anew(desk: Desk) -> None:
    desk.pass_(70)
    desk.send(GET, State.IDLE)
    desk.until(lambda: desk.connection.requests == 1)
    desk.pass_(70)
    assert not desk.connection.gone


def test_a_head_has_a_total_whatever_its_pace(desk: Desk) -> None:
    for byte in GET[:12]:
        desk.send(bytes((byte,)), State.HEAD)
        desk.pass_(5)
        assert not desk.refusals
    desk.pass_(1)
    assert desk.refusals == [408]
    assert desk.answer().startswith(b"HTTP/1.1 408 ")


def test_a_body_may_be_slow_but_not_stop(desk: Desk) -> None:
    desk.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\n", State.BODY)
    for _ in range(2):
        desk.pass_(59)
        desk.client.sendall(b"x")
        desk.until(lambda: desk.connection.since == desk.time)
    desk.pass_(61)
    assert desk.refusals == [408]


def test_a_reader_that_stops_is_cut_off(desk: Desk) -> None:
    desk.send(b"GET /big?3000000 HTTP/1.1\r\nHost: t\r\n\r\n", State.RUNNING)
    assert desk.connection.unsent_bytes
    for _ in range(5):
        desk.pass_(59)
        held = desk.connection.unsent_bytes
        desk.client.recv(400_000)
        desk.until(lambda held=held: desk.connection.unsent_bytes < held)
        desk.connection.check(desk.time)
    assert not desk.connection.gone
    desk.pass_(59)
    desk.pass_(2)
    desk.until(lambda: desk.over)


def test_a_refused_client_that_goes_on_is_closed_in_the_end(desk: Desk) -> None:
    desk.send(b"noise\r\n\r\n", State.LAST)
    assert desk.answer().startswith(b"HTTP/1.1 400 ")
    desk.client.sendall(b"more")
    desk.until(lambda: not desk.unread())
    assert not desk.over
    desk.pass_(2.1)
    desk.until(lambda: desk.over)


def test_an_idle_connection_with_an_unsent_response_does_not_move(desk: Desk) -> None:
    desk.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    desk.send(b"GET /big?50000 HTTP/1.1\r\nHost: t\r\n\r\n", State.IDLE)
    assert desk.connection.requests == 1 and desk.connection.unsent_bytes
    assert not desk.connection.can_move()
    got = 0

    def all_read() -> bool:
        nonlocal got
        try:
            got += len(desk.client.recv(1 << 20))
        except BlockingIOError:
            pass
        return got > 50_000

    desk.until(all_read)
    assert desk.connection.can_move()


@pytest.mark.parametrize("held", [b"G", GET[:-1], b"\r", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx"])
def test_a_connection_of_which_bytes_are_held_does_not_move(desk: Desk, held: bytes) -> None:
    assert desk.connection.can_move()
    desk.client.sendall(held)
    desk.until(lambda: not desk.connection.can_move())
    desk.until(lambda: not desk.unread())
    assert not desk.connection.can_move()


def test_what_comes_while_it_holds_still_stays_in_the_kernel(desk: Desk) -> None:
    desk.connection.hold_still()
    desk.client.sendall(GET)
    desk.loop.run_until_complete(asyncio.sleep(0.02))
    assert desk.unread() and desk.connection.can_move()
    desk.connection.go_on()
    desk.until(lambda: desk.connection.requests == 1)
