"""What a ledger gives back: exactly those connections with which somebody else can go on."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from graceserve.logs import Log
from graceserve.wire.channel import Inbox
from graceserve.worker.arrival import Arrival, Counted
from graceserve.worker.environ import Peer, Route, Site
from graceserve.worker.handoff import hand_over, take_over
from graceserve.worker.keeper import keep
from graceserve.worker.ledger import DEATHS_MAX, KEPT_BYTES_MAX, NEAR_BYTES, Ledger, _counted
from tests.http.test_time_limits import GET
from tests.http.test_time_limits import Desk as Home
from tests.process.procs import fds

CHILDREN = Path("/proc/thread-self/children")
ROUTE = Route(Site("127.0.0.1:80", "127.0.0.1", "80"), Peer("192.0.2.7", 4711))


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """The server's end, and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return listener.accept()[0], client


class Desk:
    """A ledger and a connection with a line in it."""

    def __init__(self) -> None:
        self.ledger = Ledger(1024)
        self.server, self.client = tcp_pair()
        self.client.sendall(b"before")
        assert self.server.recv(100) == b"before"
        self.server.sendall(b"what it was answered")
        self.line, self.word = self.ledger.line(Arrival(self.server, ROUTE))
        self.ledger.starts[self.line] = self.ledger.words[self.line] = self.word

    def read(self, data: bytes) -> None:
        """From the kernel, as a worker does, without a note of it."""
        self.client.sendall(data)
        left = len(data)
        while left:
            left -= len(self.server.recv(left))

    def note(self, size: int, kept: int) -> None:
        """So much was read."""
        self.ledger.starts[self.line] = self.word + size - kept
        self.ledger.words[self.line] = self.word + size

    def saved(self) -> list[tuple[bytes, bool]]:
        """What was read of each, and whether something of a request has come."""
        found = []
        for saved in self.ledger.saved():
            assert saved.route.peer == ROUTE.peer and saved.route.site.name == ROUTE.site.name
            assert saved.sock.fileno() == self.server.fileno() and not saved.fresh
            saved.sock.detach()
            found.append((saved.read, saved.waits))
        return found

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


def test_at_rest(desk: Desk) -> None:
    assert desk.saved() == [(b"", False)]


def test_unread(desk: Desk) -> None:
    desk.client.sendall(b"GET")
    assert desk.saved() == [(b"", True)]


def test_a_client_that_sends_no_more(desk: Desk) -> None:
    desk.client.sendall(b"GET")
    desk.client.shutdown(socket.SHUT_WR)
    while desk.server.recv(100, socket.MSG_PEEK) != b"GET":
        pass
    assert desk.saved() == [(b"", True)]


@pytest.mark.parametrize("size", [1, NEAR_BYTES, NEAR_BYTES + 1, KEPT_BYTES_MAX])
@pytest.mark.parametrize("first", [0, 1, NEAR_BYTES - 1, NEAR_BYTES, 5000])
def test_kept(desk: Desk, size: int, first: int) -> None:
    data = os.urandom(size)
    desk.read(data)
    first = min(first, size)
    desk.ledger.keep(desk.line, 0, data[:first])
    desk.ledger.keep(desk.line, first, data[first:])
    desk.note(size, size)
    assert desk.saved() == [(data, True)]


def test_read_and_not_noted(desk: Desk) -> None:
    desk.read(b"GET / HTTP/1.1\r\n\r\n")
    assert desk.saved() == []


def test_an_answer_that_is_not_out(desk: Desk) -> None:
    desk.ledger.given[desk.line] = 5
    assert desk.saved() == []
    desk.server.sendall(b"hello")
    assert desk.saved() == [(b"", False)]


def test_nothing_noted(desk: Desk) -> None:
    desk.ledger.words[desk.line] = 0
    assert desk.saved() == []


def test_a_number_that_was_given_anew(desk: Desk) -> None:
    """The app's own connection, to a database, as idle as the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as other:
        os.dup2(other.fileno(), desk.server.fileno())
        assert desk.saved() == []
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), desk.server.fileno())
    assert desk.saved() == []


@pytest.mark.parametrize("deaths", [0, DEATHS_MAX - 1, DEATHS_MAX, DEATHS_MAX + 1])
def test_what_they_may_have_died_of(desk: Desk, deaths: int) -> None:
    """A request that kills whoever reads it does not come to all. Who is idle, or was answered since, did not do it."""
    desk.line, desk.word = desk.ledger.line(Arrival(desk.server, ROUTE, deaths=deaths))
    desk.note(0, 0)
    assert desk.saved() == [(b"", False)]
    desk.client.sendall(b"GET")
    assert desk.saved() == ([(b"", True)] if deaths < DEATHS_MAX else [])
    assert desk.ledger.deaths(desk.line) == min(deaths, DEATHS_MAX)
    desk.server.sendall(b"hello")
    desk.ledger.given[desk.line] = 5
    assert desk.saved() == [(b"", True)]
    assert desk.ledger.deaths(desk.line) == 0


def test_the_deaths_are_told_to_the_next() -> None:
    inbox, (ours, theirs) = Inbox.new(), socket.socketpair()
    with ours, theirs:
        assert hand_over(Arrival(ours, ROUTE, deaths=2), inbox.put)
        taken = take_over(inbox.take, {})
        assert taken is not None and taken.deaths == 2
        taken.sock.close()
    inbox.close()


def test_counted() -> None:
    """What whoever had it knows, the kernel need not be asked."""
    desk = Desk()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        server, _ = listener.accept()
        desk.server.close()
        with server:
            client.sendall(b"GET")
            asked = desk.ledger.line(Arrival(server, ROUTE))
            assert desk.ledger.line(Arrival(server, ROUTE, counted=Counted(0, 0))) == asked
    assert desk.ledger.counted(desk.line) == Counted(desk.word - 1, len(b"what it was answered"))
    desk.note(size=10, kept=0)
    desk.ledger.given[desk.line] = 20
    assert desk.ledger.counted(desk.line) == Counted(desk.word - 1 + 10, len(b"what it was answered") + 20)
    desk.ledger.words[desk.line] = 0
    assert desk.ledger.counted(desk.line) is None
    desk.close()


def test_where_nobody_can_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old kernel, or a Python that was built on one."""
    monkeypatch.delattr(os, "pidfd_open")
    inbox, before = Inbox.new(), CHILDREN.read_text()
    keep(Ledger(0), inbox.put, "keeper", Log())
    assert CHILDREN.read_text() == before
    inbox.close()


def test_closed(desk: Desk) -> None:
    os.close(desk.server.detach())
    assert list(desk.ledger.saved()) == []


def test_what_has_no_line() -> None:
    """The kernel does not count a Unix socket's bytes; a descriptor may be beyond the ledger's end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ledger = Ledger(1024)
        assert ledger.line(Arrival(ours, ROUTE))[0] == ledger.spare
    desk = Desk()
    ledger = Ledger(desk.server.fileno())
    assert ledger.line(Arrival(desk.server, ROUTE))[0] == ledger.spare
    desk.close()


class TcpHome(Home):
    """Whose connections have lines."""

    ledger = Ledger(1024)
    site = ROUTE.site

    def pair(self) -> tuple[socket.socket, socket.socket]:
        return tcp_pair()

    def ask(self, data: bytes) -> None:
        """All of it is read."""
        before = self.connection._seen
        self.client.sendall(data)
        self.until(lambda: self.connection._seen == before + len(data))


def test_what_goes_along_is_what_the_kernel_counts() -> None:
    home = TcpHome()
    for pieces in ([GET], [GET * 3], [GET[:9], GET[9:]], [GET, GET[:9]], [GET[9:] + GET[:5]]):
        for piece in pieces:
            home.ask(piece)
        home.until(lambda: home.connection.movable)
        arrival = home.connection.arrival()
        assert arrival.counted == _counted(arrival.sock)
        home.connection._note()  # it stays
    home.close()


def test_a_late_word_about_a_lost_connection() -> None:
    """An app thread takes the request of a client that has gone: its descriptor is another one's by then."""
    home = TcpHome()
    lost, line = home.connection, home.connection.line
    home.client.close()
    home.until(lambda: home.over)
    home.until(lambda: line not in fds(os.getpid()))
    ours, client = home.pair()
    with client:
        if ours.fileno() != line:
            os.dup2(ours.fileno(), line)
            ours.close()
            ours = socket.socket(fileno=line)
        home.connect(ours)
        lost.alone()
        assert [saved.sock.detach() for saved in home.ledger.saved()] == [line]
    home.over = False
    home.close()
