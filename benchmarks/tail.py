"""No request waits while a worker is idle: p90, p95, p99 of fast requests among some that sleep, beside other servers.

    python -m benchmarks.tail [--peers-venv DIR] [--seconds 20] [--rounds 5] [--seed 1] [--only graceserve,waitress]
        [--rate 400] [--slow 2] [--connections 24] [--json FILE]

400 requests a second, at the same distance, over 24 connections; 2 % of them, drawn by a seed, sleep 0.3 s in the app:
2.4 of 4 workers are busy, 60 %. A round has a seed of its own, and its requests are the same for every server. Servers
run freshly started, in turn, forwards in one round and backwards in the next; what is shown is the median over the
rounds of each percentile. All processes of the server share a core (sleeping takes none), the load has another one.

A request's time begins when it was *due*: what finds all 24 connections busy waits in the client, and that counts
(`queued`). The time since it was *sent*, what a client with so many connections and no clock would tell, hides that:
24 connections can't ask while they wait. Both are shown.

"one queue" is computed, not measured: the same requests, begun in order of arrival by the first of 4 idle workers, no
time for anything but the sleep. No server that does not know which requests will sleep waits less in all, though it may
wait more evenly or less. Which requests sleep changes these percentiles by half, so numbers of different seeds, or of
a few seconds, can't be compared; those of one run can. A server with a queue for each worker may not keep up at all:
its backlog, and with it every percentile, grows as long as the run lasts.

gunicorn's sync workers and uWSGI close each connection; the client opens one for each request then, and they have one
queue, that of the listening socket. (uWSGI's --http11-socket would tie each of its 4 processes to one of 24
connections, and the other 20 would never be served.)
"""

import argparse
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks import peers
from benchmarks.apps.sleepy import BODY, SLEEP_S
from benchmarks.arrivals import Arrival, one_queue, percentile, schedule
from benchmarks.openloop import Client, Counts, Request
from benchmarks.peers import Arena, Failed, Meter, Plan, Running
from benchmarks.stage import Claims

WORKERS = 4
INLINE, THREADED = "graceserve-4x1", "graceserve-1x4"
IDEAL, QUEUE = "one queue, computed", "waitress-1x4"
PLANS = (
    Plan(INLINE, "graceserve", ("--workers", "4", "--threads", "1")),
    Plan(THREADED, "graceserve", ("--workers", "1", "--threads", "4")),
    Plan(QUEUE, "waitress", ("threads=4",)),
    Plan("granian-4x1", "granian", ("--workers", "4", "--blocking-threads", "1")),
    Plan("gunicorn-gthread-4x1", "gunicorn", ("--workers", "4", "--worker-class", "gthread", "--threads", "1")),
    Plan("gunicorn-sync-4", "gunicorn", ("--workers", "4", "--worker-class", "sync")),
    Plan("uwsgi-4", "uwsgi-closing", ("--master", "--processes", "4")),
)
PERCENTS = (50.0, 90.0, 95.0, 99.0)
CLAIMED = (90.0, 95.0, 99.0)
ABOVE_IDEAL_MS = 10.0
WARM_UP_S = 1.0
ANSWER_TIMEOUT_S = 5.0
HEAD = b"GET %s HTTP/1.1\r\nHost: shop.example\r\n\r\n"
FAST, SLOW = HEAD % b"/", HEAD % b"/sleep"


@dataclass(frozen=True, slots=True)
class Row:
    """One server in one round. Percentiles are those of the fast requests, in the order of `PERCENTS`."""

    server: str
    from_due_ms: tuple[float, ...]
    from_sent_ms: tuple[float, ...]
    requests: int
    queued: int = 0
    late_ms: float = 0.0  # p99 of what the client itself was late with requests for which it had a connection
    failed: int = 0
    counts: Counts | None = None  # of connections
    others: float = 0.0


def main() -> int:
    """The exit status."""
    parser = peers.command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second")
    parser.add_argument("--slow", type=float, default=2.0, metavar="PERCENT", help="of them sleep")
    parser.add_argument("--connections", type=int, default=24)
    options = parser.parse_args()
    with peers.arena(options) as scene:
        plans = scene.chosen(PLANS, options)
        rows = list(_rounds(scene, plans, options))
    peers.write_json(options.json, [asdict(row) for row in rows])
    peers.tell_quiet(row.others for row in rows if row.server != IDEAL)
    print(f"\nms of the fast requests, from due and from sent; medians of {options.rounds} rounds")
    percents = [f"p{percent:g}" for percent in PERCENTS]
    heads = ["server", *(f"{name} due" for name in percents), *(f"{name} sent" for name in percents)]
    heads += ["queued", "late p99", "failed", "opened", "announced", "cut"]
    servers = [IDEAL, *(plan.name for plan in plans)]
    groups = [[row for row in rows if row.server == server] for server in servers]
    peers.print_table(heads, [_line(group) for group in groups if group])
    print()
    return _claims(rows, scene).verdict()


def _rounds(scene: Arena, plans: Sequence[Plan], options: argparse.Namespace) -> Iterator[Row]:
    for number in range(options.rounds):
        chance = random.Random(options.seed + number)
        arrivals = schedule(options.rate, options.seconds, options.slow / 100, chance)
        yield _computed(arrivals, options.connections)
        for plan in plans[:: -1 if number % 2 else 1]:
            peers.progress(f"round {number + 1} of {options.rounds}: {plan.name}")
            try:
                with scene.serve(plan, "sleepy:app") as server:
                    yield _measure(server, plan.name, arrivals, options.connections)
            except Failed as error:
                scene.broke(plan, error)
    peers.progress("")


def _computed(arrivals: Sequence[Arrival], connections: int) -> Row:
    found = one_queue(arrivals, WORKERS, connections, SLEEP_S)
    fast = [waited for arrival, waited in zip(arrivals, found, strict=True) if not arrival.slow]
    from_due_s, from_sent_s = [one.from_due_s for one in fast], [one.from_sent_s for one in fast]
    return Row(IDEAL, _percentiles_ms(from_due_s), _percentiles_ms(from_sent_s), len(arrivals))


def _measure(server: Running, name: str, arrivals: Sequence[Arrival], connections: int) -> Row:
    client = Client(server.port, connections, BODY, ANSWER_TIMEOUT_S)
    try:
        _warm_up(client, arrivals, connections)
        client.counts = Counts()
        meter = Meter(server)
        answers = client.run([Request(arrival.due_s, SLOW if arrival.slow else FAST) for arrival in arrivals])
        others = meter.read().others
    finally:
        client.close()
    fast = [answer for arrival, answer in zip(arrivals, answers, strict=True) if not arrival.slow]
    late_s = [answer.sent_s - answer.due_s for answer in answers if not answer.queued]
    return Row(
        name,
        _percentiles_ms([answer.end_s - answer.due_s for answer in fast]),
        _percentiles_ms([answer.end_s - answer.sent_s for answer in fast]),
        len(answers),
        sum(answer.queued for answer in answers),
        percentile(late_s, 99) * 1000,
        sum(bool(answer.trouble) for answer in answers),
        client.counts,
        others,
    )


def _warm_up(client: Client, arrivals: Sequence[Arrival], connections: int) -> None:
    """All connections at once, then some time at the rate, nothing slow."""
    calm = [Request(arrival.due_s, FAST) for arrival in arrivals if arrival.due_s < WARM_UP_S]
    client.run([Request(0.0, FAST)] * connections)
    client.run(calm)


def _percentiles_ms(values_s: Sequence[float]) -> tuple[float, ...]:
    return tuple(percentile(values_s, percent) * 1000 for percent in PERCENTS)


def _line(rows: Sequence[Row]) -> list[str]:
    cells = [f"{statistics.median(rounds):.1f}" for rounds in zip(*(row.from_due_ms for row in rows), strict=True)]
    cells += [f"{statistics.median(rounds):.1f}" for rounds in zip(*(row.from_sent_ms for row in rows), strict=True)]
    counts = [row.counts for row in rows if row.counts]
    if not counts:
        return [rows[0].server, *cells, *["-"] * 6]
    return [
        rows[0].server,
        *cells,
        f"{sum(row.queued for row in rows) / sum(row.requests for row in rows):.1%}",
        f"{max(row.late_ms for row in rows):.1f}",
        str(sum(row.failed for row in rows)),
        *(str(sum(each)) for each in zip(*((one.opened, one.announced, one.cut) for one in counts), strict=True)),
    ]


def _claims(rows: Sequence[Row], scene: Arena) -> Claims:
    claims = Claims()
    own = [row for row in rows if row.server == INLINE]
    claims.check(f"{INLINE} ran", bool(own) and INLINE not in scene.broken, scene.broken.get(INLINE, ""))
    failed = sum(row.failed for row in rows if row.server in (INLINE, THREADED))
    claims.check("graceserve answered every request", failed == 0, failed)
    for percent in CLAIMED:
        _compare(claims, rows, percent, QUEUE, 0.0)
        _compare(claims, rows, percent, IDEAL, ABOVE_IDEAL_MS)
    return claims


def _compare(claims: Claims, rows: Sequence[Row], percent: float, other: str, more_ms: float) -> None:
    """Median over the rounds of what it is above the other one."""
    at = PERCENTS.index(percent)
    one, two = ([row.from_due_ms[at] for row in rows if row.server == name] for name in (INLINE, other))
    claim = f"{INLINE}: p{percent:g} at most that of {other}{f' + {more_ms:g} ms' if more_ms else ''}"
    if not one or len(one) != len(two):
        print(f"skip {claim}: not measured")
        return
    above_ms = statistics.median(a - b for a, b in zip(one, two, strict=True))
    claims.check(claim, above_ms <= more_ms, f"{above_ms:+.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
