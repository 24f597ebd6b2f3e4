"""A thousand slow clients do not slow the others down: p50 and p99 of normal requests with and without them.

    python -m benchmarks.slow_clients [--peers-venv DIR] [--clients 1000] [--rounds 3] [--seconds 10] [--rate 200]
        [--kinds head,body,reader] [--only graceserve] [--json FILE]

Three kinds of slow clients: `head` sends a byte of a request's head every 5 s; `body` says Content-Length: 10000 and
sends 4 bytes every 5 s; `reader` asks for a megabyte and reads a kilobyte a second, with the small segments and buffer
of a client far away. They are one process with one loop. Who is cut off comes again.

The normal requests come at a fixed rate over 8 keep-alive connections, and a request's time begins when it was due, so
that a stall counts for all the requests it delays. Phases without and with slow clients take turns; a ratio is of a
phase with them to the phase just before. Server and load have a core each.
"""

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import selectors
import signal
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import peers
from benchmarks.peers import HOST, Arena, Failed, Meter, Plan, Running
from benchmarks.stage import Claims

OURS = "graceserve"
PLANS = (
    Plan(OURS, "graceserve", ("--workers", "2", "--threads", "4", "--worker-connections", "2000")),
    Plan("waitress", "waitress", ("threads=16", "connection_limit=5000", "asyncore_use_poll=true")),
    Plan("gunicorn", "gunicorn",
         ("--workers", "2", "--worker-class", "gthread", "--threads", "4", "--worker-connections", "2000")),
)  # fmt: skip
CONNECTIONS = 8
REQUEST = b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n"
BODY = b"Hello, world"
ANSWER_TIMEOUT_S = 5.0
COME_OR_GO_S = 10.0
SETTLE_S = 2.0
RATIO_MOST = 1.2
SEGMENT_BYTES = (
    1460  # Ethernet's; loopback's 64 kB would let the kernel take the whole response from the server at once
)
BUFFER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to be slow: what is sent first, and then every `every_s` seconds; what is read then."""

    first: bytes
    every_s: float
    then: bytes = b""
    read_bytes: int = 0


KINDS = {
    "head": Kind(b"GET / HTTP/1.1\r\nHost: slow.example\r\nX-Slow: ", 5.0, b"a"),
    "body": Kind(b"POST /upload HTTP/1.1\r\nHost: slow.example\r\nContent-Length: 10000\r\n\r\n", 5.0, b"abcd"),
    "reader": Kind(b"GET /big HTTP/1.1\r\nHost: slow.example\r\n\r\n", 1.0, read_bytes=1024),
}


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Of the normal requests of a phase. `failed` were not answered, or not in time."""

    p50_ms: float
    p99_ms: float
    failed: int


@dataclass(frozen=True, slots=True)
class Row:
    """A phase with slow clients and the one before it. `held` of them have a connection in the server."""

    server: str
    kind: str
    without: Quantiles
    slowed: Quantiles
    held: int
    came_again: int
    growth_bytes: int  # RSS of the server with the slow clients, above that without
    others: float


def main() -> int:
    """The exit status."""
    parser = peers.command_line(__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=200.0, help="normal requests a second")
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    peers.raise_fd_limit(4 * options.clients)
    with peers.arena(options) as scene:
        plans = scene.installed(PLANS, peers.names(options))
        rows = [row for plan in plans for row in _phases(scene, plan, options)]
    peers.write_json(options.json, [asdict(row) for row in rows])
    print("p50, p99 in ms")
    heads = ["server", "slow", "held", "came again", "MB more", "p50 without", "p50 with", "p99 without", "p99 with"]
    heads += ["ratio", "of rounds", "failed"]
    pairs = dict.fromkeys((row.server, row.kind) for row in rows)
    peers.print_table(heads, [_line([row for row in rows if (row.server, row.kind) == pair]) for pair in pairs])
    peers.tell_quiet(row.others for row in rows)
    print()
    return _claims(rows, scene, options.clients).verdict()


def _phases(scene: Arena, plan: Plan, options: argparse.Namespace) -> Iterator[Row]:
    scene.announce(plan)
    try:
        with scene.serve(plan, "data:app") as server:
            _probe(server, options.rate, 1.0)  # warm up
            idle_fds = server.wait_fds(server.fd_count() - CONNECTIONS, 1.0, fewer=True)
            for number in range(options.rounds):
                for kind in options.kinds.split(","):
                    peers.progress(f"{plan.name}: round {number + 1} of {options.rounds}, {kind}")
                    yield _phase(server, plan.name, kind, idle_fds, options)
    except (Failed, OSError) as error:
        scene.broke(plan, error)
    peers.progress("")


def _phase(server: Running, name: str, kind: str, idle_fds: int, options: argparse.Namespace) -> Row:
    meter = Meter(server)
    without = _probe(server, options.rate, options.seconds)
    others = meter.read().others
    before, rss_bytes = server.wait_fds(idle_fds, COME_OR_GO_S, fewer=True), server.rss_bytes()
    with contextlib.closing(_Crowd(server.port, kind, options.clients)) as crowd:
        held = server.wait_fds(before + options.clients, COME_OR_GO_S) - before
        _probe(server, options.rate, SETTLE_S)  # a thousand new requests are a load, but that is not the question
        slowed = _probe(server, options.rate, options.seconds)
        came_again, growth_bytes = crowd.stop(), server.rss_bytes() - rss_bytes
    return Row(name, kind, without, slowed, min(held, options.clients), came_again, growth_bytes, others)


# --- normal requests ----------------------------------------------------------------------------------------------


class _Prober:
    """Sends requests when they are due, over whichever connection is free."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._selector = selectors.DefaultSelector()
        self._free = [self._connect() for _ in range(CONNECTIONS)]
        self._asked: dict[socket.socket, float] = {}  # the busy ones; when their request was due
        self._answers: dict[socket.socket, bytes] = {}
        self.took_s: list[float] = []
        self.failed = 0

    def run(self, rate: float, seconds: float) -> None:
        """All requests of `seconds`, and their answers."""
        began = time.monotonic()
        due = [began + number / rate for number in range(int(rate * seconds))]
        end = due[-1] + ANSWER_TIMEOUT_S
        number = 0
        while number < len(due) or self._asked:
            now = time.monotonic()
            while number < len(due) and due[number] <= now and self._free:
                self._ask(due[number])
                number += 1
            if now > end:
                break
            wait_s = due[number] - now if number < len(due) and self._free else 0.1
            for key, _events in self._selector.select(max(wait_s, 0.0)):
                self._read(key.fileobj)  # type: ignore[arg-type]
            self._give_up(time.monotonic() - ANSWER_TIMEOUT_S)
        self.failed += len(due) - number + len(self._asked)
        self.took_s += [ANSWER_TIMEOUT_S] * (len(due) - number + len(self._asked))

    def close(self) -> None:
        """All connections."""
        for sock in (*self._free, *self._asked):
            sock.close()
        self._selector.close()

    def _connect(self) -> socket.socket:
        sock = socket.create_connection((HOST, self._server.port), ANSWER_TIMEOUT_S)
        sock.setblocking(False)
        return sock

    def _ask(self, due: float) -> None:
        sock = self._free.pop(0)  # the longest idle one: all are in use
        self._asked[sock], self._answers[sock] = due, b""
        self._selector.register(sock, selectors.EVENT_READ)
        try:
            sock.send(REQUEST)
        except OSError:
            self._done(sock, failed=True)

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        self._answers[sock] += data
        if not data or self._answers[sock].endswith(BODY):
            self._done(sock, failed=not self._answers[sock].startswith(b"HTTP/1.1 200 "))

    def _done(self, sock: socket.socket, failed: bool) -> None:
        due, answer = self._asked.pop(sock), self._answers.pop(sock)
        self._selector.unregister(sock)
        self.failed += failed
        self.took_s.append(ANSWER_TIMEOUT_S if failed else time.monotonic() - due)
        if failed or b"\r\nconnection: close" in answer.lower():
            sock.close()
            sock = self._connect()
        self._free.append(sock)

    def _give_up(self, before: float) -> None:
        for sock in [sock for sock, due in self._asked.items() if due < before]:
            self._done(sock, failed=True)


def _probe(server: Running, rate: float, seconds: float) -> Quantiles:
    prober = _Prober(server)
    try:
        prober.run(rate, seconds)
    finally:
        prober.close()
    took_ms = sorted(took_s * 1000 for took_s in prober.took_s)
    return Quantiles(took_ms[len(took_ms) // 2], took_ms[len(took_ms) * 99 // 100], prober.failed)


# --- slow clients -------------------------------------------------------------------------------------------------


class _Slow:
    """One slow client."""

    def __init__(self, port: int, kind: Kind) -> None:
        self.sock = socket.socket()
        if kind.read_bytes:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
        self.sock.settimeout(ANSWER_TIMEOUT_S)  # of connecting; the kernel accepts in the server's place
        self._kind = kind
        self.sock.connect((HOST, port))
        self.sock.sendall(kind.first)
        self.sock.setblocking(False)

    def step(self) -> bool:
        """Send or read a little. False when the server has given up on it."""
        try:
            if self._kind.then:
                self.sock.send(self._kind.then)
                return bool(self.sock.recv(4096))  # nothing to read is what is expected
            return bool(self.sock.recv(self._kind.read_bytes))
        except BlockingIOError:
            return True
        except OSError:
            return False


class _Crowd:
    """The process of the slow clients."""

    def __init__(self, port: int, kind: str, count: int) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("fork").Process(
            target=_be_slow, args=(theirs, port, KINDS[kind], count)
        )
        self._process.start()
        theirs.close()
        self._ours.recv()  # all are connected and have sent their first bytes, or were refused

    def stop(self) -> int:
        """How many had to come again because the server gave up on them."""
        self._ours.send("stop")
        return int(self._ours.recv())

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.join()


def _be_slow(pipe: "multiprocessing.connection.Connection[Any, Any]", port: int, kind: Kind, count: int) -> None:
    """Step one client after the other until a word comes."""
    clients = [_come(port, kind) for _ in range(count)]
    pipe.send("connected")
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # the prober on the same core goes first
    spread_s = kind.every_s / count  # evenly: a thousand at once would disturb the prober, on the same core
    began, steps, came_again = time.monotonic(), 0, 0
    while not pipe.poll(max(began + steps * spread_s - time.monotonic(), 0.0)):
        client = clients[steps % count]
        if client is None or not client.step():
            came_again += 1
            if client is not None:
                client.sock.close()
            clients[steps % count] = _come(port, kind)
        steps += 1
    pipe.send(came_again)
    signal.pause()  # until it is terminated, its connections with it


def _come(port: int, kind: Kind) -> _Slow | None:
    """Connected; None if the server would not have it."""
    try:
        return _Slow(port, kind)
    except OSError:
        return None


# --- the result ---------------------------------------------------------------------------------------------------


def _line(rows: Sequence[Row]) -> list[str]:
    ratios = [_ratio(row) for row in rows]
    return [
        rows[0].server,
        rows[0].kind,
        str(min(row.held for row in rows)),
        str(max(row.came_again for row in rows)),
        f"{max(row.growth_bytes for row in rows) / 1e6:.0f}",
        f"{statistics.median(row.without.p50_ms for row in rows):.2f}",
        f"{statistics.median(row.slowed.p50_ms for row in rows):.2f}",
        f"{statistics.median(row.without.p99_ms for row in rows):.2f}",
        f"{statistics.median(row.slowed.p99_ms for row in rows):.2f}",
        f"{statistics.median(ratios):.2f}",
        f"{min(ratios):.2f}-{max(ratios):.2f}",
        str(sum(row.without.failed + row.slowed.failed for row in rows)),
    ]


def _ratio(row: Row) -> float:
    return row.slowed.p99_ms / row.without.p99_ms


def _claims(rows: Sequence[Row], scene: Arena, clients: int) -> Claims:
    claims = Claims()
    claims.check(f"{OURS} ran", OURS not in scene.broken, scene.broken.get(OURS, ""))
    for kind in dict.fromkeys(row.kind for row in rows):
        own = [row for row in rows if (row.server, row.kind) == (OURS, kind)]
        if not own:
            print(f"skip {kind}: {OURS} not measured")
            continue
        held, failed = min(row.held for row in own), sum(row.without.failed + row.slowed.failed for row in own)
        claims.check(f"{kind}: all slow clients were connected", held == clients, held)
        claims.check(f"{kind}: every normal request was answered", failed == 0, failed)
        ratio = statistics.median(map(_ratio, own))
        claims.check(
            f"{kind}: p99 at most {RATIO_MOST} times that without slow clients", ratio <= RATIO_MOST, f"{ratio:.2f}"
        )
    return claims


if __name__ == "__main__":
    sys.exit(main())
