"""CPU a request and requests a second on one core, beside seven other WSGI servers.

    python -m benchmarks.throughput [--peers-venv DIR] [--apps hello,flask,django] [--seconds 5] [--rounds 3]
        [--connections 32] [--only graceserve,granian] [--json FILE]

The server, all of its processes and threads, is pinned to one core, wrk to another one; keep-alive, one worker
process. `hello` is asked with nothing but Host, and with the 8 headers of a request that comes through a proxy. All
servers run in each round, freshly started; what is shown is the median of the rounds, with the smallest and the
largest, and ratios are medians of the rounds' ratios.

CPU is the scheduler's count in nanoseconds for all processes of the server, the master too. A core that is not busy
all the time goes to sleep and is woken for each request, which costs CPU itself (much in a virtual machine); `busy`
says how much of it the server used. A server that is far from 100 % waited for wrk or for its own locks. uWSGI's
keep-alive ties a thread to a connection, so it gets only as many connections as it has threads.
"""

import argparse
import http.client
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks import peers
from benchmarks.peers import APPS, Arena, Failed, Meter, Plan, Running, Used
from benchmarks.stage import Claims
from tests.process.web import Connection

INLINE, THREADED = "graceserve-inline", "graceserve-4"
PLANS = (
    Plan(INLINE, "graceserve", ("--workers", "1", "--threads", "1")),
    Plan(THREADED, "graceserve", ("--workers", "1", "--threads", "4")),
    Plan("granian", "granian", ("--workers", "1", "--blocking-threads", "1")),
    Plan("bjoern", "bjoern"),
    Plan("fastwsgi", "fastwsgi"),
    Plan("uwsgi-1", "uwsgi", ("--master", "--processes", "1")),
    Plan("uwsgi-4", "uwsgi", ("--master", "--processes", "1", "--threads", "4")),
    Plan("waitress-4", "waitress", ("threads=4",)),
    Plan("gunicorn-sync", "gunicorn", ("--workers", "1", "--worker-class", "sync")),
    Plan("gunicorn-gthread", "gunicorn", ("--workers", "1", "--worker-class", "gthread", "--threads", "4")),
)
BOUNDS = ((INLINE, 0.9, "granian"), (INLINE, 1.3, "bjoern"), (THREADED, 0.3, "waitress-4"), (THREADED, 1.0, "uwsgi-4"))
CONNECTIONS_MAX = {"uwsgi-1": 1, "uwsgi-4": 4}
WARM_UP_S = 1
KEEP_ALIVE_REQUESTS = 20
BODY = b"Hello, world"
PROXIED = {
    "Host": "shop.example", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Real-IP": "203.0.113.7",
    "User-Agent": "Mozilla/5.0", "Accept": "*/*", "Accept-Encoding": "gzip", "Cookie": "theme=dark; sessionid=1",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of which app."""

    name: str
    app: str
    proxied: bool = False


HELLO, HELLO_PROXIED = "hello", "hello, 8 headers"
CASES = {
    "hello": (Case(HELLO, "hello:app"), Case(HELLO_PROXIED, "hello:app", proxied=True)),
    "flask": (Case("Flask, 8 headers", "flask_hello:app", proxied=True),),
    "django": (Case("Django, 8 headers", "django_hello:app", proxied=True),),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One server in one round of one case."""

    case: str
    server: str
    requests: int
    used: Used
    keep_alive: bool = True
    trouble: str = ""

    @property
    def cpu_us(self) -> float:
        """A request; NaN if there were none."""
        return self.used.cpu_s / self.requests * 1e6 if self.requests else math.nan

    @property
    def requests_s(self) -> float:
        """A second."""
        return self.requests / self.used.wall_s

    @property
    def busy(self) -> float:
        """The server's share of its core."""
        return self.used.cpu_s / self.used.wall_s


def main() -> int:
    """The exit status."""
    parser = peers.command_line(__doc__)
    parser.add_argument("--apps", default="hello,flask,django")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    with peers.arena(options) as scene:
        plans = scene.chosen(PLANS, options)
        rows = list(_rounds(scene, plans, options))
    peers.write_json(options.json, [asdict(row) for row in rows])
    peers.tell_quiet(row.used.others for row in rows)
    for case in dict.fromkeys(row.case for row in rows):
        _table(case, [row for row in rows if row.case == case])
    return _claims(rows).verdict()


def _rounds(scene: Arena, plans: Sequence[Plan], options: argparse.Namespace) -> Iterator[Row]:
    for number in range(options.rounds):
        for cases in (CASES[name] for name in options.apps.split(",")):
            for plan in plans:
                peers.progress(f"round {number + 1} of {options.rounds}: {cases[0].app} {plan.name}")
                yield from _run(scene, plan, cases, options)
    peers.progress("")


def _run(scene: Arena, plan: Plan, cases: Sequence[Case], options: argparse.Namespace) -> Iterator[Row]:
    """All cases of an app. A server that fails is a row that says so; the others run on."""
    left = list(cases)
    try:
        with scene.serve(plan, cases[0].app) as server:
            while left:
                yield _measure(scene, server, plan, left[0], options)
                left.pop(0)
    except (Failed, OSError, http.client.HTTPException) as error:
        scene.broke(plan, error)
        yield from (Row(case.name, plan.name, 0, Used(1, 0, 0), trouble=str(error)) for case in left)


def _measure(scene: Arena, server: Running, plan: Plan, case: Case, options: argparse.Namespace) -> Row:
    """Check the answers, warm up, and look at the CPU clock before and after wrk."""
    keep_alive = _answers(server, case)
    connections = min(options.connections, CONNECTIONS_MAX.get(plan.name, options.connections))
    script = ["-s", f"{APPS}/proxied.lua"] if case.proxied else []
    argv = ["taskset", "-c", str(scene.load_core), "wrk", "-t1", f"-c{connections}", *script]
    subprocess.run([*argv, f"-d{WARM_UP_S}s", f"http://{server.address}/"], check=True, stdout=subprocess.DEVNULL)
    pids, meter = server.pids(), Meter(server)
    argv += [f"-d{options.seconds}s", f"http://{server.address}/"]
    told = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout
    used = meter.read()
    requests = _number(r"(\d+) requests in", told)
    failed = {name: _number(rf"{name}:? (\d+)", told) for name in ("connect", "read", "write", "timeout", "responses")}
    trouble = [f"{count} {name} errors" for name, count in failed.items() if count]
    trouble += ["processes came or went"] * (server.pids() != pids) + ["no requests"] * (not requests)
    _answers(server, case)
    return Row(case.name, plan.name, requests, used, keep_alive, ", ".join(trouble))


def _answers(server: Running, case: Case) -> bool:
    """`Failed` if an answer is wrong. Whether a connection is kept over requests."""
    connection = Connection(server.address)
    kept = 0
    try:
        for number in range(KEEP_ALIVE_REQUESTS):
            answer = connection.ask(f"/?page={number}", headers=PROXIED if case.proxied else None)
            if (answer.status, answer.body) != (200, BODY):
                raise Failed(f"wrong answer: {answer}", server.log)
            kept += 1
            if connection.sock is None:  # the answer said `Connection: close`
                break
    except OSError:  # closed without a word
        if not kept:
            raise
    finally:
        connection.close()
    return kept == KEEP_ALIVE_REQUESTS


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def _table(case: str, rows: Sequence[Row]) -> None:
    print(f"\n{case}")
    heads = ["server", "CPU us/request", "min-max", "x inline", "requests/s", "busy", ""]
    peers.print_table(heads, [_line(case, server, rows) for server in dict.fromkeys(row.server for row in rows)])


def _line(case: str, server: str, rows: Sequence[Row]) -> list[str]:
    own = [row for row in rows if row.server == server]
    cpu = [row.cpu_us for row in own]
    ratio = _ratio(rows, case, server, INLINE)
    notes = ["no keep-alive"] * (not all(row.keep_alive for row in own))
    notes += dict.fromkeys(row.trouble for row in own if row.trouble)
    return [
        server,
        f"{statistics.median(cpu):.1f}",
        f"{min(cpu):.1f}-{max(cpu):.1f}",
        f"{ratio:.2f}" if ratio else "-",
        f"{statistics.median(row.requests_s for row in own):,.0f}",
        f"{statistics.median(row.busy for row in own):.0%}",
        "; ".join(notes),
    ]


def _ratio(rows: Iterable[Row], case: str, server: str, other: str) -> float | None:
    """Median over the rounds of `server`'s CPU by `other`'s; None where one of them did not run."""
    one, two = ([row.cpu_us for row in rows if (row.case, row.server) == (case, name)] for name in (server, other))
    ratios = [a / b for a, b in zip(one, two, strict=False)]
    return statistics.median(ratios) if ratios and not any(map(math.isnan, ratios)) else None


def _claims(rows: Sequence[Row]) -> Claims:
    claims = Claims()
    wrong = [f"{row.server} ({row.case}): {row.trouble}" for row in rows if row.keep_alive and row.trouble]
    print()
    claims.check("every request was answered", not wrong, "; ".join(wrong))
    for case in (HELLO, HELLO_PROXIED):
        for server, most, other in BOUNDS:
            ratio = _ratio(rows, case, server, other)
            claim = f"{case}: {server} takes at most {most} of {other}'s CPU"
            if ratio is None:
                print(f"skip {claim}: not measured")
            else:
                claims.check(claim, ratio <= most, f"{ratio:.2f}")
    return claims


if __name__ == "__main__":
    sys.exit(main())
