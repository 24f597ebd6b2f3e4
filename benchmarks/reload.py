"""What clients see of reloads, beside other servers: lost requests, closed connections, latency.

    python -m benchmarks.reload [--peers-venv DIR] [--imports 0.3,3] [--reloads 20] [--steady 10] [--interval 1]
        [--burn] [--rate 20] [--only graceserve,granian] [--json FILE]

The clients are those of `graceserve torture`: 16 that keep their connection and 4 that make one for each request, each
with 20 requests a second, so 400 in all: nobody is saturated. A client asks again when it has its answer, so that a
stall is one slow request of each client, not of all those that would have come meanwhile. The app takes 0.3 s or 3 s to
import; it sleeps, or burns CPU with `--burn`, where the new workers compete with the old ones for the server's core.

graceserve is asked for a reload and waited for. gunicorn, uWSGI and granian get a HUP; the reload is over when all
their workers are new and a request is answered. waitress can't reload: it is terminated and started again. After each
reload there is a pause. The time of the reloads, their pauses included, is compared to the time before.

A connection is *closed* if the server ended it, `announced` by `Connection: close` or not, since the first reload
began. Those of one request do not count, nor do announced ones of servers that always close (gunicorn's sync workers,
and uWSGI, whose --http11-socket would tie each process to a connection and leave the others out).

What of a maximum is the machine's: `lag` is how late the client's process itself was woken at most, and `untouched` is
a graceserve that is left alone where the others are reloaded.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import uvloop

from benchmarks import peers
from benchmarks.arrivals import percentile
from benchmarks.peers import HOST, Arena, Failed, Plan, Running
from benchmarks.stage import Claims
from graceserve.errors import OperatorError
from graceserve.torture.clients import Lost, Requests, dial
from graceserve.torture.options import Plan as Load
from graceserve.torture.reloads import Gone, MasterReload, Reload
from graceserve.torture.run import Run
from graceserve.torture.tally import Kind, Phase, Tally, Verdict
from graceserve.torture.target import Target

OURS = "graceserve"
APP = "importing:app"
UNTOUCHED = Plan("untouched-4x1", OURS, ("--workers", "4", "--threads", "1"))
PLANS = (
    Plan("graceserve-4x1", OURS, ("--workers", "4", "--threads", "1")),
    Plan("graceserve-2x4", OURS, ("--workers", "2", "--threads", "4")),
    UNTOUCHED,
    Plan("granian-2x4", "granian", ("--workers", "2", "--blocking-threads", "4")),
    Plan("gunicorn-gthread-2x4", "gunicorn", ("--workers", "2", "--worker-class", "gthread", "--threads", "4")),
    Plan("gunicorn-sync-4", "gunicorn", ("--workers", "4", "--worker-class", "sync")),
    Plan("uwsgi-4", "uwsgi-closing", ("--master", "--processes", "4")),
    Plan("waitress-8", "waitress", ("threads=8",)),
)
UNTOUCHED_S = 0.5  # beside the import: as long as a reload takes
STEADY_TIMES_MOST = 1.5
RELOAD_S_MAX = 60.0
LOOK_S = 0.02
RELOADING = (Phase.DURING, Phase.AFTER)  # a server may close a connection some time after a reload


@dataclass(frozen=True, slots=True)
class Latency:
    """Of a phase, all kinds of clients together."""

    requests: int
    p50_ms: float
    p999_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Row:
    """One server with one import time."""

    server: str
    import_s: float
    reloads: int  # that went well
    reload_s: float  # the longest
    requests: int
    lost: int
    announced: int  # connections closed by reloads, of clients that keep them
    cut: int  # the same, without a word
    keeps_alive: bool
    steady: Latency
    during: Latency
    lag_ms: float
    examples: tuple[str, ...]
    trouble: str = ""


def main() -> int:
    """The exit status."""
    parser = peers.command_line(__doc__)
    parser.add_argument("--imports", default="0.3,3", metavar="SECONDS", help="comma-separated")
    parser.add_argument("--burn", action="store_true", help="the import takes CPU")
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--steady", type=float, default=10.0, help="seconds before the first and after the last reload")
    parser.add_argument("--interval", type=float, default=1.0, help="seconds after each reload")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second of each client")
    parser.add_argument("--keep-alive", type=int, default=16, metavar="CLIENTS")
    parser.add_argument("--one-shot", type=int, default=4, metavar="CLIENTS")
    options = parser.parse_args()
    imports = [float(text) for text in options.imports.split(",")]
    with peers.arena(options) as scene:
        plans = scene.chosen(PLANS, options)
        rows = [row for import_s in imports for plan in plans for row in _measure(scene, plan, import_s, options)]
    peers.write_json(options.json, [asdict(row) for row in rows])
    for import_s in imports:
        _table(f"import of {import_s:g} s", [row for row in rows if row.import_s == import_s])
    print()
    return _claims(rows, scene, options).verdict()


def _measure(scene: Arena, plan: Plan, import_s: float, options: argparse.Namespace) -> Iterator[Row]:
    """A row, or none if the server failed."""
    env = {"IMPORT_S": str(import_s), "IMPORT_BURNS": "1" if options.burn else ""}
    peers.progress(f"{plan.name}, import of {import_s:g} s")
    try:
        with scene.serve(plan, APP, env) as server:
            run = _torture(scene, server, plan, env, options)
    except (Failed, OperatorError, OSError) as error:
        scene.broke(plan, error)
        return
    finally:
        peers.progress("")
    yield _row(plan.name, import_s, run)


def _torture(scene: Arena, server: Running, plan: Plan, env: dict[str, str], options: argparse.Namespace) -> Run:
    """The run, over."""
    target = Target(host=HOST, port=server.port, authority=server.address)
    load = Load(
        url=f"http://{server.address}/", target=target, reloads=options.reloads, interval_s=options.interval,
        steady_s=options.steady, keep_alive=options.keep_alive, one_shot=options.one_shot, pipelined=0, slow=0,
        uploads=0, rate=options.rate,
    )  # fmt: skip
    run = Run(load, _reload(scene, server, plan, env, load), lambda text: peers.progress(f"{plan.name}: {text}"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run.whole())
    if run.facts(()).interrupted:
        raise KeyboardInterrupt
    return run


# --- reloads ------------------------------------------------------------------------------------------------------


def _reload(scene: Arena, server: Running, plan: Plan, env: dict[str, str], load: Load) -> Reload:
    """What a reload of this server is."""
    match plan.program:
        case "graceserve" if plan == UNTOUCHED:
            return _Nothing(server, float(env["IMPORT_S"]) + UNTOUCHED_S)
        case "graceserve":
            return MasterReload(str(server.process.pid), "")
        case "waitress":
            return _Restart(server, load, lambda: scene.start_again(server, plan, APP, env))
        case _:
            return _Hup(server, load)


class _Nothing:
    """As long as a reload, and nothing happens."""

    def __init__(self, server: Running, takes_s: float) -> None:
        self.name = f"pid {server.process.pid}, which is left alone"
        self._server, self._takes_s = server, takes_s

    async def once(self) -> Verdict:
        """See `Reload`."""
        await asyncio.sleep(self._takes_s)
        return Verdict(True, "left alone", self._takes_s)

    def gone(self) -> str:
        """See `Reload`."""
        return _gone(self._server.process)


class _Hup:
    """HUP, and all workers are new."""

    def __init__(self, server: Running, load: Load) -> None:
        self.name = f"pid {server.process.pid}, by HUP"
        self._server, self._load = server, load

    async def once(self) -> Verdict:
        """See `Reload`."""
        began = time.monotonic()
        before = self._workers()
        self._server.process.send_signal(signal.SIGHUP)
        if not await _come(lambda: _replaced(before, self._workers())):
            return Verdict(False, "it still has old workers, or too few", time.monotonic() - began)
        return await _answered(self._load, began)

    def gone(self) -> str:
        """See `Reload`."""
        return _gone(self._server.process)

    def _workers(self) -> set[int]:
        """Children of its main thread. One read, where a walk through /proc would delay the clients of this process."""
        if gone := self.gone():
            raise Gone(gone)
        pid = self._server.process.pid
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return set(map(int, file.read().split()))


class _Restart:
    """TERM, and start it again."""

    def __init__(self, server: Running, load: Load, start: Callable[[], None]) -> None:
        self.name = "by a restart"
        self._server, self._load, self._start = server, load, start

    async def once(self) -> Verdict:
        """See `Reload`."""
        began = time.monotonic()
        self._server.process.terminate()
        if not await _come(lambda: self._server.process.poll() is not None):
            raise Gone("it does not end")
        self._start()
        return await _answered(self._load, began)

    def gone(self) -> str:
        """See `Reload`."""
        return _gone(self._server.process)


def _replaced(before: set[int], now: set[int]) -> bool:
    return len(now) >= len(before) and not now & before


async def _come(true: Callable[[], bool]) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + RELOAD_S_MAX
    while not true():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(LOOK_S)
    return True


async def _answered(load: Load, began: float) -> Verdict:
    """Ask until there is an answer."""
    while time.monotonic() < began + RELOAD_S_MAX:
        if await _ask(load):
            took_s = time.monotonic() - began
            return Verdict(True, f"new and answering after {took_s:.2f} s", took_s)
        await asyncio.sleep(LOOK_S)
    return Verdict(False, f"no answer within {RELOAD_S_MAX:g} s", time.monotonic() - began)


async def _ask(load: Load) -> bool:
    """Whether a new connection's request is answered."""
    requests = Requests.of(Kind.ONE_SHOT, load)
    line = None
    try:
        async with asyncio.timeout(RELOAD_S_MAX):
            line = await dial(load.target)
            line.send(requests, requests.head)
            return (await line.answer())[0].status == 200
    except (Lost, TimeoutError):
        return False
    finally:
        if line is not None:
            line.close()


def _gone(process: "subprocess.Popen[bytes]") -> str:
    return "" if process.poll() is None else f"it exited with {process.returncode}"


# --- the result ---------------------------------------------------------------------------------------------------


def _row(name: str, import_s: float, run: Run) -> Row:
    tally, facts = run.tally, run.facts(())
    kept = tally.counts.get(Kind.KEEP_ALIVE)
    keeps_alive = kept is not None and kept.keeps_alive
    bad = [verdict.text for verdict in facts.verdicts if not verdict.ok]
    counts = tally.counts.values()
    return Row(
        name, import_s, len(facts.verdicts) - len(bad),
        max((verdict.took_s for verdict in facts.verdicts), default=0.0),
        sum(one.requests for one in counts),
        sum(sum(one.lost.values()) for one in counts),
        sum(kept.announced[phase] for phase in RELOADING) if kept is not None and keeps_alive else 0,
        sum(kept.unannounced[phase] for phase in RELOADING) if kept is not None else 0,
        keeps_alive, _latency(tally, Phase.BEFORE), _latency(tally, Phase.DURING),
        max(tally.lag_s[Phase.DURING], default=0.0) * 1000,
        tuple(dict.fromkeys(example.why for one in counts for example in (*one.examples_lost, *one.examples_closed))),
        "; ".join([*bad[:1], *[facts.gone] * bool(facts.gone)]),
    )  # fmt: skip


def _latency(tally: Tally, phase: Phase) -> Latency:
    took_s = [took_s for counts in tally.counts.values() for took_s in counts.latency_s[phase]]
    return Latency(len(took_s), *(percentile(took_s, percent) * 1000 for percent in (50, 99.9, 100)))


def _table(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}; latencies in ms")
    heads = ["server", "reloads", "s at most", "requests", "lost", "announced", "cut", "steady p50", "p99.9", "max"]
    peers.print_table([*heads, "reloads p50", "p99.9", "max", "lag", ""], map(_line, rows))
    for row in rows:
        for note in filter(None, (row.trouble, *row.examples)):
            print(f"  {row.server}: {note}")


def _line(row: Row) -> list[str]:
    latencies = [f"{ms:.1f}" for one in (row.steady, row.during) for ms in (one.p50_ms, one.p999_ms, one.max_ms)]
    return [
        row.server, str(row.reloads), f"{row.reload_s:.2f}", str(row.requests), str(row.lost), str(row.announced),
        str(row.cut), *latencies, f"{row.lag_ms:.1f}",
        "" if row.keeps_alive else "no keep-alive",
    ]  # fmt: skip


def _claims(rows: Sequence[Row], scene: Arena, options: argparse.Namespace) -> Claims:
    claims = Claims()
    own = [row for row in rows if row.server.startswith(OURS)]
    broken = {name: why for name, why in scene.broken.items() if name.startswith(OURS)}
    claims.check(f"{OURS} ran", bool(own) and not broken, broken or "")
    for row in own:
        name = f"{row.server}, import of {row.import_s:g} s"
        claims.check(f"{name}: every reload went well", row.reloads == options.reloads, row.trouble or row.reloads)
        claims.check(f"{name}: no request was lost", row.lost == 0, row.lost)
        claims.check(f"{name}: no connection was closed", row.announced + row.cut == 0, row.announced + row.cut)
        most_ms = STEADY_TIMES_MOST * row.steady.p999_ms
        claim = f"{name}: max in the reloads at most {STEADY_TIMES_MOST} times the steady p99.9"
        seen = f"{row.during.max_ms:.1f} of {most_ms:.1f} ms, client's lag {row.lag_ms:.1f} ms"
        claims.check(claim, row.during.max_ms <= most_ms, seen)
    return claims


if __name__ == "__main__":
    sys.exit(main())
