"""1,000 reloads under load: each connection that was open at the start is still the same one at the end.

    python -m benchmarks.same_connections [--reloads 1000] [--connections 200] [--threads N] [--surge N] [--nginx]

Reloads come one after the other, each once the verdict on the one before is there, between two releases with a venv
each. Clients send GETs, POSTs, POSTs in two pieces and pipelined requests. With `--nginx` they ask nginx, and what is
looked at is nginx's connections to the server, which nginx itself has no reason to close (its limits are out of reach).
"""

import argparse
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass

from benchmarks.stage import Claims, Footprint, Stage, stage, trouble
from tests.process.holders import held, held_by_workers
from tests.process.kept import Kept, Record, Report, record_path, reload, two_releases
from tests.process.nginx import Nginx
from tests.process.procs import fd_count
from tests.process.releases import Release
from tests.process.server import Server, script_launch
from tests.process.waiting import eventually
from tests.process.web import free_address

WARM_RELOADS = 6  # before the first footprint is taken: allocators and caches settle
RSS_GROWTH_BYTES_MAX = 3_000_000


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reloads", type=int, default=1000)
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second of all clients together")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--surge", type=int, default=0, help="--reload-surge")
    parser.add_argument("--preload", action="store_true")
    parser.add_argument("--nginx", action="store_true")
    options = parser.parse_args()
    with stage() as scene:
        return measure(scene, options)


@dataclass(frozen=True, slots=True)
class Rest:
    """What there is while the clients pause.

    `held` counts for each connection the workers that have it; `own_fds` are the descriptors beside them, of the worker
    with the most (uvloop opens one more with a worker's first connection, and some worker may have had none yet).
    """

    report: Report
    footprint: Footprint
    held: Counter[int]
    own_fds: int

    @classmethod
    def of(cls, report: Report, server: Server) -> "Rest":
        """Once nothing is under way: connections that are handed over have arrived."""
        server.wait_whole()
        footprint = Footprint.of(server)
        held_now = eventually(lambda: _at_rest(server), 10, "each connection with one worker")
        own_fds = max(fd_count(pid) - len(held(pid, server.address)) for pid in server.worker_pids())
        return cls(report, footprint, held_now, own_fds)


def _at_rest(server: Server) -> Counter[int]:
    found = held_by_workers(server)
    return found if set(found.values()) == {1} else Counter()


def measure(scene: Stage, options: argparse.Namespace) -> int:
    """Warm, look, reload, look again."""
    releases = two_releases(scene.site)
    words = ["--workers", options.workers, "--threads", options.threads, "--keep-alive", 3600]
    words += ["--reload-surge", options.surge] if options.surge else []
    words += ["--preload"] if options.preload else []
    words += ["--forwarded-allow-ips", ""] if options.nginx else []  # so that the app sees nginx's own port
    server = scene.serve(script_launch(scene.site.current, free_address(), *map(str, words)))
    proxy = scene.nginx(server.address, max(64, options.connections)) if options.nginx else None
    address = proxy.address if proxy is not None else server.address
    with Kept(scene.nursery, address, connections=options.connections, rate=options.rate) as kept:
        _reloads(scene, server, releases, WARM_RELOADS, kept)
        before = Rest.of(kept.pause(), server)
        began = time.monotonic()
        took = _reloads(scene, server, releases, options.reloads, kept)
        wall_s = time.monotonic() - began
        after = Rest.of(kept.pause(), server)
        kept.stop()
    print(f"{options.reloads} reloads in {wall_s:.1f} s; one took {statistics.median(took):.2f} s (median),"
          f" {max(took):.2f} s (max)")  # fmt: skip
    print(f"{after.report}\nbefore: {before.footprint}\nafter:  {after.footprint}")
    claims = Claims()
    _claim_requests(claims, after.report, Record.read(record_path(scene.site)))
    _claim_clients(claims, kept.first, after.report)
    _claim_server(claims, before, after, proxy)
    _claim_footprint(claims, before, after)
    for line in (*after.report.lost[:5], *after.report.idle_closes[:5], *trouble(server)[:20]):
        print(str(line)[:300])
    server.stop()
    if proxy is not None:
        proxy.stop()
    return claims.verdict()


def _reloads(scene: Stage, server: Server, releases: list[Release], count: int, kept: Kept) -> list[float]:
    """Flip and reload so often; seconds to each verdict. The clients ask meanwhile."""
    kept.resume()
    took = []
    for number in range(count):
        scene.site.flip(releases[(number + 1) % 2])
        began = time.monotonic()
        reload(server)
        took.append(time.monotonic() - began)
    return took


def _claim_requests(claims: Claims, report: Report, record: Record) -> None:
    claims.check("no request was lost", not report.lost and report.asked == report.answered, len(report.lost))
    claims.check("each got its own answer", report.wrong == [], report.wrong[:3])
    ran = len(record.begun) == len(record.ended) == report.asked
    claims.check("each ran exactly once", ran and record.repeated() == [], len(record.repeated()))
    claims.check("both releases answered", set(report.releases) == {"41", "42"}, report.releases)


def _claim_clients(claims: Claims, first: Report, last: Report) -> None:
    same = sum(before == after for before, after in zip(first.sockets, last.sockets, strict=True))
    claims.check("each client has the connection that it opened first", same == len(first.sockets) == last.opened, same)
    claims.check("no close was announced, none came", not last.announced_closes and not last.idle_closes,
                 (last.announced_closes, len(last.idle_closes)))  # fmt: skip
    moves = [line.moves for line in last.lines]
    print(f"a connection was answered by another process than before {min(moves)} to {max(moves)} times")


def _claim_server(claims: Claims, before: Rest, after: Rest, proxy: Nginx | None) -> None:
    """The connections that the server has, and those that it has ever been asked on."""
    kept = len(before.held.keys() & after.held.keys())
    seen = set(after.report.ports)
    if proxy is None:
        same = before.held == after.held
        claims.check("the server has the same connections, each in one worker", same, kept)
    else:
        claims.check("nginx's connections to the server are still the same", kept == len(before.held), kept)
        more = f"{len(after.held) - kept} more, as more requests came at once"
        claims.check("nginx never opened one in place of another", after.held.keys() == seen, more)
        claims.check("nothing in nginx's error log", proxy.losses() == [], len(proxy.losses()))


def _claim_footprint(claims: Claims, before: Rest, after: Rest) -> None:
    fds = [(one.footprint.master_fds, one.own_fds) for one in (before, after)]
    claims.check("no descriptor more or less in the master, nor in a worker beside connections", fds[0] == fds[1], fds)
    processes = [one.footprint.processes for one in (before, after)]
    claims.check("no process more or less", processes[0] == processes[1], processes)
    growth_bytes = after.footprint.master_rss_bytes - before.footprint.master_rss_bytes
    claims.check("the master grew less than 3 MB", growth_bytes < RSS_GROWTH_BYTES_MAX, growth_bytes)
    print(f"all processes together: {(after.footprint.pss_bytes - before.footprint.pss_bytes) / 1e6:+.1f} MB PSS")


if __name__ == "__main__":
    sys.exit(main())
