"""A worker that is killed takes only its running requests with it: its keeper hands its other connections over."""

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests.process.conftest import Serve
from tests.process.procs import alive, kill
from tests.process.releases import Site
from tests.process.server import Server, script_launch
from tests.process.waiting import eventually
from tests.process.web import connect, free_address, refused

APP = '''\
import json
import os
import time
from urllib.parse import parse_qs

RECORD = os.open({record!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def application(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    os.write(RECORD, f"{{query}} {{os.getpid()}}\\n".encode())
    while path in ("/wait", "/exit", "/raise") and not os.path.exists({gate!r}):
        time.sleep(0.005)
    if path == "/exit":
        os._exit(0)
    if path == "/raise":
        os.kill(os.getpid(), 11)
    if path == "/children":
        try:
            told = str(os.waitpid(-1, os.WNOHANG))
        except ChildProcessError:
            told = "no child"
    else:
        told = environ["wsgi.input"].read().decode()
    told = {{"id": query, "pid": os.getpid(), "told": told, "peer": environ.get("REMOTE_ADDR"),
             "port": environ.get("REMOTE_PORT")}}
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
'''
each_kind = pytest.mark.parametrize("threads", ["1", "4"], ids=["inline", "threads"])
CLIENTS = 8
MANY = 400  # more than an inbox holds


@dataclass(slots=True)
class Client:
    """One connection, which is never opened again."""

    sock: socket.socket
    read: bytes = b""

    def send(self, name: str, path: str = "/", body: bytes = b"") -> None:
        self.sock.sendall(request(name, path, body))

    def answer(self) -> dict[str, str]:
        """Raises `ConnectionError` if the connection ends before."""
        while b"\r\n\r\n" not in self.read:
            self._receive()
        head, _, self.read = self.read.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        while len(self.read) < size:
            self._receive()
        body, self.read = self.read[:size], self.read[size:]
        told: dict[str, str] = json.loads(body)
        return told

    def ask(self, name: str, path: str = "/", body: bytes = b"") -> dict[str, str]:
        self.send(name, path, body)
        told = self.answer()
        assert told["id"] == name
        return told

    @property
    def ended(self) -> bool:
        try:
            return self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionResetError("closed")
        self.read += data


def request(name: str, path: str = "/", body: bytes = b"") -> bytes:
    return f"POST {path}?{name} HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass(slots=True)
class Scene:
    """A server, and its clients by the worker that has them."""

    server: Server
    record: str
    gate: str  # the app's calls wait for this file
    stack: ExitStack
    clients: list[Client] = field(default_factory=list)

    def dial(self, first: bytes = b"") -> Client:
        client = Client(self.stack.enter_context(connect(self.server.address)))
        client.sock.sendall(first)
        self.clients.append(client)
        return client

    def dial_some(self) -> tuple[int, list[Client]]:
        """Connections, and the worker that has most of them."""
        by_pid: dict[int, list[Client]] = {}
        for number in range(CLIENTS):
            client = self.dial()
            by_pid.setdefault(int(client.ask(f"first-{number}")["pid"]), []).append(client)
        pid = max(by_pid, key=lambda pid: len(by_pid[pid]))
        return pid, by_pid[pid]

    def ran(self) -> Counter[str]:
        with open(self.record, encoding="ascii") as file:
            return Counter(line.split()[0] for line in file)

    def wait_for(self, name: str) -> None:
        eventually(lambda: self.ran()[name], what=f"{name} runs")

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        kill(pid, number)
        eventually(lambda: not alive(pid), what="it is dead")

    def once_each(self) -> bool:
        return set(self.ran().values()) == {1}


Play = Callable[..., Scene]


@pytest.fixture
def play(site: Site, serve: Serve) -> Iterator[Play]:
    with ExitStack() as stack:

        def start(*options: str) -> Scene:
            record, gate = site.path("record"), site.path("gate")
            release = site.bare("41")
            release.write("app.py", APP.format(record=record, gate=gate))
            site.flip(release)
            server = serve(script_launch(site.current, free_address(), *options)).wait_ready()
            return Scene(server, record, gate, stack)

        yield start


@each_kind
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_what_was_sent_to_the_dead(play: Play, threads: str, number: signal.Signals) -> None:
    """It is in the kernel when the worker dies; half of it was sent before, in one case, and follows in another."""
    scene = play("--threads", threads)
    pid, clients = scene.dial_some()
    half, more = request("half"), request("more", body=b"x" * 3000)
    os.kill(pid, signal.SIGSTOP)
    for at, client in enumerate(clients[2:]):
        client.send(f"second-{at}")
    clients[0].sock.sendall(half[:30])
    clients[1].sock.sendall(more[:1500])
    kill(pid, number)
    scene.kill(pid)  # it is stopped: SIGSEGV waits for it to go on, SIGKILL does not
    for at, client in enumerate(clients[2:]):
        told = client.answer()
        assert told["id"] == f"second-{at}" and told["pid"] != pid
    clients[0].sock.sendall(half[30:])
    clients[1].sock.sendall(more[1500:])
    assert clients[0].answer()["id"] == "half" and clients[1].answer()["told"] == "x" * 3000
    scene.server.wait_whole(without=[pid])
    assert all(client.ask(f"third-{at}")["pid"] != pid for at, client in enumerate(clients))
    assert scene.once_each()
    assert len(scene.server.keepers()) == 2


@each_kind
@pytest.mark.parametrize("size", [100, 3000])
def test_what_the_dead_had_read(play: Play, threads: str, size: int) -> None:
    """Half a request is in the worker's memory."""
    scene = play("--threads", threads)
    pid, clients = scene.dial_some()
    whole = [request(f"second-{at}", body=b"y" * size) for at in range(len(clients))]
    for client, data in zip(clients, whole, strict=True):
        client.sock.sendall(data[: 20 + size])
    other, beside = clients[0], whole[0][20 + size :]
    other.sock.sendall(beside)
    assert other.answer()["id"] == "second-0"  # the others were read before that, or with it
    eventually(lambda: unread(pid, scene.server.address) == 0, what="all is read")
    scene.kill(pid)
    for at, client in list(enumerate(clients))[1:]:
        client.sock.sendall(whole[at][20 + size :])
        told = client.answer()
        assert told["id"] == f"second-{at}" and told["told"] == "y" * size and told["pid"] != pid
    assert scene.once_each()


def unread(pid: int, address: str) -> int:
    """Bytes that wait in the kernel on connections to this address."""
    wanted, found = f":{int(address.rsplit(':', 1)[1]):04X}", 0
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1].endswith(wanted) and words[3] == "01":
                found += int(words[4].partition(":")[2], 16)
    return found


@pytest.mark.parametrize("how", ["/exit", "/raise", "kill"])
def test_only_what_runs_is_lost(play: Play, how: str) -> None:
    """The only worker is in a call. What came meanwhile waits for its successor."""
    scene = play("--workers", "1")
    clients = [scene.dial() for _ in range(CLIENTS)]
    for at, client in enumerate(clients):
        pid = int(client.ask(f"first-{at}")["pid"])
    runs, others = clients[0], clients[1:]
    runs.send("runs", "/wait" if how == "kill" else how)
    scene.wait_for("runs")
    for at, client in enumerate(others):
        client.send(f"second-{at}")
    runs.send("behind")
    if how == "kill":
        scene.kill(pid)
    open(scene.gate, "w").close()
    answers = [client.answer() for client in others]
    assert [told["id"] for told in answers] == [f"second-{at}" for at in range(len(others))]
    assert runs.ended
    ran = scene.ran()
    assert ran.pop("behind", 0) == 0 and set(ran.values()) == {1}
    assert "killed" in scene.server.log or "exited" in scene.server.log


def test_with_threads_those_that_none_has_taken(play: Play) -> None:
    """Two run, the others wait in the worker's queue."""
    scene = play("--workers", "1", "--threads", "2")
    clients = [scene.dial() for _ in range(CLIENTS)]
    for at, client in enumerate(clients):
        pid = int(client.ask(f"first-{at}")["pid"])
    for at, client in enumerate(clients[:2]):
        client.send(f"runs-{at}", "/wait")
        scene.wait_for(f"runs-{at}")
    for at, client in enumerate(clients[2:]):
        client.send(f"second-{at}")
    eventually(lambda: unread(pid, scene.server.address) == 0, what="all is read")
    scene.kill(pid)
    assert [client.answer()["id"] for client in clients[2:]] == [f"second-{at}" for at in range(CLIENTS - 2)]
    assert all(client.ended for client in clients[:2])
    assert scene.once_each()


def test_who_the_client_is_stays_known(play: Play) -> None:
    scene = play("--workers", "1", "--proxy-protocol", "v1")
    client = scene.dial(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n")
    first = client.ask("first")
    assert (first["peer"], first["port"]) == ("192.0.2.7", "4711")
    scene.kill(int(first["pid"]))
    second = client.ask("second")
    assert (second["peer"], second["port"]) == ("192.0.2.7", "4711") and second["pid"] != first["pid"]


def test_again_and_again(play: Play) -> None:
    """Who was handed over is in the next one's ledger."""
    scene = play("--workers", "1")
    client, pids = scene.dial(), set()
    for number in range(4):
        told = client.ask(f"{number}")
        pids.add(told["pid"])
        scene.kill(int(told["pid"]))
    assert len(pids) == 4


@pytest.mark.parametrize("workers", ["1", "2"])
def test_more_than_the_inbox_holds(play: Play, workers: str) -> None:
    """They wait with the keeper, for a successor too."""
    scene = play("--workers", workers)
    pids = [int(scene.dial().ask(f"first-{number}")["pid"]) for number in range(MANY)]
    for pid in set(pids):  # who runs might be killed with what it takes from the other one in its hands
        os.kill(pid, signal.SIGSTOP)
    for pid in set(pids):
        scene.kill(pid)
    for number, client in enumerate(scene.clients):
        assert int(client.ask(f"second-{number}")["pid"]) not in pids
    assert scene.once_each()
    assert scene.server.log.count(" kept ") == int(workers)
    eventually(lambda: len(scene.server.keepers()) == int(workers), what="those of the dead are gone")


def test_a_keeper_that_is_killed(play: Play) -> None:
    """The worker does not notice; there is just nobody to hand its connections over."""
    scene = play("--workers", "1")
    client = scene.dial()
    pid = int(client.ask("first")["pid"])
    (keeper,) = scene.server.keepers()
    scene.kill(keeper.pid)
    assert int(client.ask("second")["pid"]) == pid
    scene.kill(pid)
    assert client.ended
    scene.server.wait_whole(without=[pid])
    assert len(scene.server.keepers()) == 1


def test_signals_to_all(play: Play) -> None:
    """To the keeper they mean nothing, and it goes when its worker has."""
    scene = play()
    keepers = [keeper.pid for keeper in scene.server.keepers()]
    assert len(keepers) == 2
    for pid in keepers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(pid, number)
    scene.server.reload_ok()
    eventually(lambda: not any(map(alive, keepers)), what="the keepers of the old generation are gone")
    left = [keeper.pid for keeper in scene.server.keepers()]
    assert len(left) == 2
    scene.server.stop()
    eventually(lambda: not any(map(alive, left)), what="no keeper is left")


@pytest.mark.parametrize("clients", [CLIENTS, MANY])
def test_all_are_killed(play: Play, clients: int) -> None:
    """Nobody will come for what is in the inbox: the keepers do not wait, and the port is free."""
    scene = play()
    for number in range(clients):
        scene.dial().ask(f"{number}")
    keepers = [keeper.pid for keeper in scene.server.keepers()]
    workers = scene.server.worker_pids()
    scene.server.send(signal.SIGKILL)
    for worker in workers:
        kill(worker)
    eventually(lambda: not any(map(alive, keepers)), what="no keeper is left")
    assert all(client.ended for client in scene.clients)
    assert refused(scene.server.address)


def test_the_app_does_not_see_it(play: Play) -> None:
    """An app that waits for its own children finds none."""
    assert play().dial().ask("first", "/children")["told"] == "no child"
