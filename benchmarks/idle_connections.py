"""What an idle keep-alive connection costs in memory: 10,000 of them, each after one request.

    python -m benchmarks.idle_connections [--peers-venv DIR] [--connections 10000] [--only graceserve] [--json FILE]

Growth of PSS and RSS of all processes of the server, by the number of connections. Memory of the kernel for sockets is
the same for all servers and not counted. At the end each connection is used again: all of them must answer. waitress
gets 2,000: it looks at each connection for each request, and with 10,000 it is busy with that for many minutes.
"""

import argparse
import contextlib
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from benchmarks import peers
from benchmarks.peers import HOST, Arena, Failed, Meter, Plan, Running
from benchmarks.stage import Claims
from tests.process.waiting import eventually

OURS = "graceserve"
ROOM = 20_000
PLANS = (
    Plan(OURS, "graceserve", ("--workers", "1", "--worker-connections", str(ROOM), "--keep-alive", "600")),
    Plan("waitress", "waitress", (f"connection_limit={ROOM}", "channel_timeout=600", "asyncore_use_poll=true")),
    Plan("granian", "granian", ("--workers", "1", "--blocking-threads", "1", "--backpressure", str(ROOM),
                                "--http1-header-read-timeout", "60000")),
)  # fmt: skip
CONNECTIONS_MAX = {"waitress": 2000}
ADDRESSES = 20  # of the clients: 127.0.0.2 and on, so that no address runs out of ports
WARM_REQUESTS = 200
TIMEOUT_S = 10.0
READINGS, STILL_BYTES = 25, 64 * 1024  # half a second
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)\r\nAccept: */*\r\nCookie: sessionid=b5d6b1a4c0ffee\r\n\r\n"
)
BODY = b"Hello, world"


@dataclass(frozen=True, slots=True)
class Row:
    """One server. `again` connections answered at the end."""

    server: str
    connections: int
    again: int
    idle_bytes: int  # PSS before
    pss_bytes: int  # growth
    rss_bytes: int  # growth
    coming_us: float  # CPU of the server for a connection and its first request
    again_us: float  # and for a request when so many connections are there


def main() -> int:
    """The exit status."""
    parser = peers.command_line(__doc__)
    parser.add_argument("--connections", type=int, default=10_000)
    options = parser.parse_args()
    peers.raise_fd_limit(options.connections + 1000)
    with peers.arena(options) as scene:
        plans = scene.installed(PLANS, peers.names(options))
        rows = [row for plan in plans for row in _measure(scene, plan, _count(plan, options))]
    peers.write_json(options.json, [asdict(row) for row in rows])
    heads = [
        "server",
        "kB PSS each",
        "kB RSS each",
        "MB before",
        "MB with them",
        "us to come",
        "us again",
        "answered again",
    ]
    peers.print_table(heads, map(_line, rows))
    print()
    return _claims(rows, scene).verdict()


def _count(plan: Plan, options: argparse.Namespace) -> int:
    return min(int(options.connections), CONNECTIONS_MAX.get(plan.name, ROOM))


def _measure(scene: Arena, plan: Plan, count: int) -> Iterator[Row]:
    """A row, or none if the server failed."""
    scene.announce(plan)
    try:
        with scene.serve(plan, "hello:app") as server, contextlib.ExitStack() as stack:
            for number in range(WARM_REQUESTS):
                with _connect(server, number) as sock:
                    _ask(sock)
            before, meter = _at_rest(server), Meter(server)
            socks = [stack.enter_context(_connect(server, number)) for number in range(count)]
            coming_us = meter.read().cpu_s / count * 1e6
            full, meter = _at_rest(server), Meter(server)
            again = sum(map(_ask, socks))
            again_us = meter.read().cpu_s / count * 1e6
            growth = (full[0] - before[0], full[1] - before[1])
            yield Row(plan.name, count, again, before[0], *growth, coming_us, again_us)
    except (Failed, OSError) as error:
        scene.broke(plan, error)


def _connect(server: Running, number: int) -> socket.socket:
    """Connected from one of many addresses, and asked once. Raises OSError if there is no answer."""
    sock = socket.socket()
    try:
        sock.settimeout(TIMEOUT_S)
        sock.bind((f"127.0.0.{2 + number % ADDRESSES}", 0))
        sock.connect((HOST, server.port))
        if not _ask(sock):
            raise OSError(f"no answer on connection {number + 1}")
    except OSError:
        sock.close()
        raise
    return sock


def _ask(sock: socket.socket) -> bool:
    """Whether it answers."""
    answer = b""
    try:
        sock.sendall(REQUEST)
        while not answer.endswith(BODY):
            data = sock.recv(65536)
            if not data:
                return False
            answer += data
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200 ")


def _at_rest(server: Running) -> tuple[int, int]:
    """PSS and RSS, once they have been the same for a while."""
    seen: list[int] = []

    def still() -> bool:
        seen.append(server.pss_bytes())
        last = seen[-READINGS:]
        return len(last) == READINGS and max(last) - min(last) < STILL_BYTES

    eventually(still, 30, "a server whose memory stands still")
    return seen[-1], server.rss_bytes()


def _line(row: Row) -> list[str]:
    return [
        row.server,
        f"{row.pss_bytes / row.connections / 1000:.2f}",
        f"{row.rss_bytes / row.connections / 1000:.2f}",
        f"{row.idle_bytes / 1e6:.1f}",
        f"{(row.idle_bytes + row.pss_bytes) / 1e6:.1f}",
        f"{row.coming_us:.0f}",
        f"{row.again_us:.0f}",
        f"{row.again} of {row.connections}",
    ]


def _claims(rows: list[Row], scene: Arena) -> Claims:
    claims = Claims()
    own = [row for row in rows if row.server == OURS]
    claims.check(f"{OURS} ran", OURS not in scene.broken, scene.broken.get(OURS, ""))
    for row in own:
        claims.check(
            f"{OURS}: all {row.connections} connections answered again", row.again == row.connections, row.again
        )
    return claims


if __name__ == "__main__":
    sys.exit(main())
