"""A gigabyte up and a gigabyte down, in constant memory: time, CPU and peak memory beside waitress and gunicorn.

    python -m benchmarks.transfer [--peers-venv DIR] [--megabytes 1000] [--rounds 3] [--only graceserve] [--json FILE]

Upload: a body with Content-Length in blocks of 256 kB; the app reads `wsgi.input` and sums it up (adler32), and the sum
must be right. Download: the app returns a file in `wsgi.file_wrapper`; every megabyte of it begins with its number, and
the client checks that. One worker, server and client on a core each. The peak is the kernel's own (VmHWM), not sampled;
files that a server spools to are on disk and in the page cache, which is not counted. What is shown is the median of
the rounds, for memory the most.
"""

import argparse
import os
import socket
import statistics
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks import peers
from benchmarks.peers import HOST, Arena, Failed, Meter, Plan, Running, Used
from benchmarks.stage import Claims

OURS = "graceserve"
PLANS = (
    Plan("graceserve-inline", OURS, ("--workers", "1", "--threads", "1")),
    Plan("graceserve-4", OURS, ("--workers", "1", "--threads", "4")),
    Plan("waitress", "waitress", ()),
    Plan("gunicorn-sync", "gunicorn", ("--workers", "1", "--timeout", "120")),
)
MEGABYTE = 1_000_000
TIMEOUT_S = 60.0
GROWTH_MB_MOST = 30


@dataclass(frozen=True, slots=True)
class Row:
    """One transfer. `growth_bytes` is the peak above what the server had before."""

    direction: str
    server: str
    used: Used
    growth_bytes: int
    trouble: str  # empty: all bytes arrived


def main() -> int:
    """The exit status."""
    parser = peers.command_line(__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with peers.arena(options) as scene:
        plans = scene.chosen(PLANS, options)
        path = os.path.join(scene.room, "gigabyte")
        _make_file(path, options.megabytes)
        rows = list(_rounds(scene, plans, path, options))
    peers.write_json(options.json, [asdict(row) for row in rows])
    peers.tell_quiet(row.used.others for row in rows)
    for direction in dict.fromkeys(row.direction for row in rows):
        print(f"\n{direction}, {options.megabytes} MB")
        heads = ["server", "seconds", "MB/s", "CPU s", "MB peak growth", ""]
        own = [row for row in rows if row.direction == direction]
        servers = dict.fromkeys(row.server for row in own)
        lines = [_line([row for row in own if row.server == server], options.megabytes) for server in servers]
        peers.print_table(heads, lines)
    print()
    return _claims(rows, scene).verdict()


def _rounds(scene: Arena, plans: Sequence[Plan], path: str, options: argparse.Namespace) -> Iterator[Row]:
    transfers: dict[str, Callable[[Running], str]] = {
        "upload": _Upload(options.megabytes),
        "download": _Download(options.megabytes),
    }
    for number in range(options.rounds):
        for plan in plans:
            peers.progress(f"round {number + 1} of {options.rounds}: {plan.name}")
            try:
                with scene.serve(plan, "data:app", {"DATA_FILE": path}) as server:
                    for direction, transfer in transfers.items():
                        yield _measure(server, plan.name, direction, transfer)
            except Failed as error:
                scene.broke(plan, error)
    peers.progress("")


def _measure(server: Running, name: str, direction: str, transfer: Callable[[Running], str]) -> Row:
    before = server.rss_bytes()
    server.forget_peak()
    meter = Meter(server)
    try:
        trouble = transfer(server)
    except OSError as error:
        trouble = f"{type(error).__name__}: {error}"
    return Row(direction, name, meter.read(), server.peak_rss_bytes() - before, trouble)


class _Upload:
    """Sends a body of so many megabytes."""

    def __init__(self, megabytes: int) -> None:
        self._block = os.urandom(MEGABYTE)
        self._count = megabytes
        checksum = 1
        for _ in range(megabytes):
            checksum = zlib.adler32(self._block, checksum)
        self._expected = f"{megabytes * MEGABYTE} {checksum}".encode()

    def __call__(self, server: Running) -> str:
        """What is wrong with the answer; nothing, if it is right."""
        with socket.create_connection((HOST, server.port), TIMEOUT_S) as sock:
            length = self._count * MEGABYTE
            sock.sendall(b"POST /upload HTTP/1.1\r\nHost: up.example\r\nContent-Length: %d\r\n\r\n" % length)
            for _ in range(self._count):
                sock.sendall(self._block)
            head, body = _head(sock)
            while len(body) < _length(head) and (data := sock.recv(4096)):
                body += data
        return "" if body == self._expected else f"{head[:40]!r} {body!r}"


class _Download:
    """Receives a file of so many megabytes, as `_make_file` makes it."""

    def __init__(self, megabytes: int) -> None:
        self._count = megabytes

    def __call__(self, server: Running) -> str:
        """What is wrong with it; nothing, if it is right."""
        with socket.create_connection((HOST, server.port), TIMEOUT_S) as sock:
            sock.sendall(b"GET /file HTTP/1.1\r\nHost: down.example\r\n\r\n")
            head, begin = _head(sock)
            if _length(head) != self._count * MEGABYTE:
                return repr(head)
            buffer = memoryview(bytearray(MEGABYTE))
            buffer[: len(begin)] = begin
            for number in range(self._count):
                filled = _fill(sock, buffer, len(begin) if number == 0 else 0)
                if filled < MEGABYTE or buffer[:8] != _mark(number):
                    return f"megabyte {number} is wrong, {filled} bytes of it came"
        return ""


def _head(sock: socket.socket) -> tuple[bytes, bytes]:
    """A response's head, and what came of its body with it."""
    data = b""
    while b"\r\n\r\n" not in data and (more := sock.recv(4096)):
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _length(head: bytes) -> int:
    """Content-Length, 0 without it."""
    lines = (line.lower().partition(b":") for line in head.split(b"\r\n"))
    return next((int(value) for name, _, value in lines if name == b"content-length"), 0)


def _fill(sock: socket.socket, buffer: memoryview, filled: int) -> int:
    """How full it is: less than full if the connection ended."""
    while filled < len(buffer) and (count := sock.recv_into(buffer[filled:])):
        filled += count
    return filled


def _make_file(path: str, megabytes: int) -> None:
    """Mostly a hole, read once so that all servers find it in the page cache."""
    with open(path, "w+b") as file:
        file.truncate(megabytes * MEGABYTE)
        for number in range(megabytes):
            file.seek(number * MEGABYTE)
            file.write(_mark(number))
        file.seek(0)
        while file.read(MEGABYTE):
            pass


def _mark(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _line(rows: Sequence[Row], megabytes: int) -> list[str]:
    seconds = statistics.median(row.used.wall_s for row in rows)
    return [
        rows[0].server,
        f"{seconds:.2f}",
        f"{megabytes / seconds:,.0f}",
        f"{statistics.median(row.used.cpu_s for row in rows):.2f}",
        f"{max(row.growth_bytes for row in rows) / MEGABYTE:.1f}",
        "; ".join({row.trouble for row in rows if row.trouble}),
    ]


def _claims(rows: Sequence[Row], scene: Arena) -> Claims:
    claims = Claims()
    own = [row for row in rows if row.server.startswith(OURS)]
    broken = {name: why for name, why in scene.broken.items() if name.startswith(OURS)}
    claims.check(f"{OURS} ran", not broken, broken or "")
    for server, direction in dict.fromkeys((row.server, row.direction) for row in own):
        group = [row for row in own if (row.server, row.direction) == (server, direction)]
        trouble = {row.trouble for row in group if row.trouble}
        claims.check(f"{server}: {direction} arrived whole", not trouble, trouble or "")
        growth = max(row.growth_bytes for row in group) / MEGABYTE
        claims.check(
            f"{server}: {direction} takes less than {GROWTH_MB_MOST} MB", growth < GROWTH_MB_MOST, f"{growth:.1f}"
        )
    return claims


if __name__ == "__main__":
    sys.exit(main())
