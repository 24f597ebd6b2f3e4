"""What a slow client may do, on real sockets and a clock that the test turns."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import uvloop

from graceserve.logs import Log
from graceserve.worker.arrival import Arrival
from graceserve.worker.connection import Connection, State
from graceserve.worker.environ import Environs, Peer, Route, Site, constants
from graceserve.worker.filesend import FileSender
from graceserve.worker.filewrapper import FilePart, FileWrapper
from graceserve.worker.forwarded import Trust
from graceserve.worker.http.heads import heads
from graceserve.worker.http.policy import Admitted
from graceserve.worker.http.port import Limits
from graceserve.worker.http.reader import Reader
from graceserve.worker.ledger import Ledger
from graceserve.worker.patience import Pace, Patience
from graceserve.worker.runs import Inline
from graceserve.worker.spool import Spool
from graceserve.worker.wsgi import Exchange, Gateway, Outcome
from tests.http.apps import app
from tests.http.harness import PATIENCE_S

GET = b"GET / HTTP/1.1\r\nHost: t\r\n\r\n"


class Desk:
    """A `Home` for one connection, with a clock that stands still."""

    patience = Patience(keep_alive_s=75)
    ledger = Ledger(0)
    site = Site("unix:x")
    draining = watches = False
    keeps_answers = False  # until `inline.answer`

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()
        self.time = 1000.0
        self.over = False
        self.refusals: list[int] = []
        self.heads = heads("auto")
        self.inline = Inline(self.loop)
        self.environs = Environs(constants(1, 1, None, None, FileWrapper), Trust.of(""), frozenset())
        self.gateway = Gateway(app, Log(), bool)
        ours, self.client = self.pair()
        self.client.setblocking(False)
        self.connection = self.connect(ours)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """The server's end, and the client's."""
        return socket.socketpair()

    def connect(self, ours: socket.socket) -> Connection:
        """One that is open."""
        route = Route(self.site, Peer())
        self.environs.welcome(route)
        made = Connection(self, Arrival(ours, route))
        self.loop.run_until_complete(self.loop.connect_accepted_socket(lambda: made, ours))
        return made

    def now(self) -> float:
        return self.time

    def reader(self) -> Reader:
        return Reader(self.heads, Limits())

    def serve(self, connection: Connection, request: Admitted, spool: Spool | None) -> None:
        made = self.environs.make(request, spool and spool.rewound(), 0, connection.route)
        self.inline.call(connection, Exchange(self.gateway, request, made))
        if not self.keeps_answers:
            self.inline.answer()

    def send_file(self, connection: Connection, part: FilePart) -> FileSender:
        return FileSender(self.loop, connection.sock, part, connection.file_sent)

    def opened(self, connection: Connection) -> None: ...

    def served(self, exchange: Exchange, took_s: float) -> None: ...

    def rested(self, connection: Connection) -> None: ...

    def closed(self, connection: Connection) -> None:
        self.over = True

    def refused(self, connection: Connection, status: int, reason: str) -> None:
        self.refusals.append(status)

    def soon(self, connection: Connection) -> None:
        self.loop.call_soon(connection.advance)

    def close(self) -> None:
        self.client.close()
        self.until(lambda: self.over)
        self.loop.run_until_complete(asyncio.sleep(0.001))
        self.loop.close()

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

    def received(self) -> bytes | None:
        """What has come, if anything."""
        try:
            return self.client.recv(1 << 16)
        except BlockingIOError:
            return None

    def answer(self) -> bytes:
        self.until(lambda: True)
        found = self.received()
        return b"nothing" if found is None else found


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


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


def body_so_far(desk: Desk, size: int) -> None:
    """Wait until so much of it has been read."""
    desk.until(lambda: not desk.unread() and desk.connection.body_bytes == size)


def test_a_body_may_be_slow_but_not_stop(desk: Desk) -> None:
    desk.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n", State.BODY)
    for number in range(1, 6):
        desk.client.sendall(b"x" * 40_000)
        body_so_far(desk, number * 40_000)
        desk.pass_(59)
        assert not desk.refusals
    desk.pass_(61)
    assert desk.refusals == [408]


def test_a_body_in_drops_has_an_end(desk: Desk) -> None:
    """Each byte comes in time, and yet it would take a year."""
    desk.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000\r\n\r\n", State.BODY)
    for number in range(1, 13):
        desk.client.sendall(b"x")
        body_so_far(desk, number)
        desk.pass_(5)
        assert not desk.refusals
    desk.pass_(1)
    assert desk.refusals == [408]


@pytest.mark.parametrize("target", ["/big?3000000", "/file?3000000"])
def test_a_reader_that_stops_is_cut_off(desk: Desk, target: str) -> None:
    desk.send(f"GET {target} HTTP/1.1\r\nHost: t\r\n\r\n".encode(), State.RUNNING)
    desk.until(lambda: desk.connection.unsent_bytes)
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


def test_a_pace() -> None:
    """60 seconds, and one more for each 500 bytes; but never 60 without any."""
    pace = Pace(60.0, now=1000.0, bytes_so_far=5)
    assert not pace.too_slow(1060.0, 5)
    assert pace.too_slow(1060.1, 5)
    assert not pace.too_slow(1060.1, 505)
    assert not pace.too_slow(1061.0, 505)
    assert pace.too_slow(1061.1, 505)
    assert not pace.too_slow(1061.1, 1_000_005)
    assert pace.too_slow(1122.0, 1_000_005), "nothing for 60 s, whatever was earned before"
    assert not Pace(float("inf"), 0.0).too_slow(1e9, 0)


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
    assert not desk.connection.movable
    got = 0

    def all_read() -> bool:
        nonlocal got
        try:
            got += len(desk.client.recv(1 << 20))
        except BlockingIOError:
            pass
        return got > 50_000

    desk.until(all_read)
    assert desk.connection.at_rest and desk.connection.movable


@pytest.mark.parametrize("held", [b"G", GET[:-1], b"\r", b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx"])
def test_what_was_read_moves_along(desk: Desk, held: bytes) -> None:
    assert desk.connection.at_rest
    desk.client.sendall(held)
    desk.until(lambda: not desk.connection.at_rest)
    desk.until(lambda: not desk.unread())
    desk.time += 3
    assert not desk.connection.at_rest and desk.connection.movable
    leaving = desk.connection.arrival()
    waited_s = 0 if desk.connection.state is State.BODY else 3  # a body's pace is measured anew
    assert (leaving.read, leaving.waited_s, leaving.requests, leaving.continued) == (held, waited_s, 0, False)


def moved(desk: Desk, read: bytes, waited_s: float) -> Connection:
    """One that has come so, and that the loop has looked at."""
    arrival = Arrival(desk.connection.sock, desk.connection.route, False, read, waited_s=waited_s)
    connection = Connection(desk, arrival)
    connection._transport = desk.connection._transport
    if read:
        connection.advance()
    return connection


def test_the_time_that_a_client_has_taken_moves_along(desk: Desk) -> None:
    """Else a reload, or a slow sibling, would give a slow client its time anew."""
    half = moved(desk, GET[:-1], 50)
    assert (half.state, half.since) == (State.HEAD, desk.time - 50)
    assert half.arrival().waited_s == 50
    desk.time += 2
    assert half.arrival().waited_s == 52
    idle = moved(desk, b"", 30)
    assert (idle.state, idle.since, idle.arrival().waited_s) == (State.IDLE, desk.time - 30, 30)


def test_a_request_that_has_been_read_is_not_too_late(desk: Desk) -> None:
    """Neither for the time in which nobody had looked at it, nor for how long the connection was idle before."""
    desk.time += 70
    desk.connection.data_received(GET[:-1])
    assert desk.connection.arrival().waited_s == 0
    desk.time += 70
    desk.connection.check(desk.time)
    assert desk.connection.state is State.IDLE, "not closed as an idle one"
    body = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nx"
    uploading = moved(desk, body, 0)
    desk.time += 50
    assert (uploading.state, uploading.arrival().waited_s) == (State.BODY, 0)


def test_a_request_that_was_taken_back_and_put_again_is_served_once(desk: Desk) -> None:
    """Nothing of it is left for somebody else to run."""

    class Waits(Desk):
        def serve(self, connection: Connection, request: Admitted, spool: Spool | None) -> None:
            self.waiting = request, Exchange(self.gateway, request, {})
            connection.running(Idle())

    class Idle:
        def resume(self) -> None: ...

        def abandon(self) -> None: ...

    other = Waits()
    other.client.sendall(GET)
    other.until(lambda: other.connection.state is State.RUNNING)
    request, exchange = other.waiting
    other.connection.take_back(request)
    assert other.connection.movable and other.connection.arrival().read == GET and other.connection.requests == 0
    other.connection.again(Idle())
    assert not other.connection.movable and other.connection.requests == 1
    exchange.outcome = Outcome.COMPLETE
    other.connection.finished(exchange)
    assert other.connection.at_rest and other.connection.arrival().read == b""
    other.close()
