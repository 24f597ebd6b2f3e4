"""`kill -9` of workers in the middle of hand-overs: only what the killed process had is lost, and nothing runs twice.

    python -m benchmarks.kill_handover [--kills 500] [--seed N] [--connections 24] [--threads N] [--surge N]

Each reload has one random worker killed, of the old or the new generation, at a random moment from the promotion until
the drain is over. The app records when it begins and ends a request, and the victim's connections are looked up in the
moment of its death. A lost request is counted under what excuses it:

- it ran in the killed process, or had run there and its answer was not sent yet,
- it was pipelined behind such a one, so that nobody else could answer it in its turn,
- it was on the one connection that the killed process had in its hands: just taken from the inbox, being read, being
  answered or being handed over, and that not noted yet. One connection a kill, and few of them.

Everything else is a failure, also if an idle connection is closed: the killed process's keeper hands the others over.
"""

import argparse
import random
import sys
import time
from collections import Counter

from benchmarks.stage import Claims, Stage, stage, trouble
from tests.process.holders import held_by_workers
from tests.process.kept import Kept, Record, Report, record_path, two_releases
from tests.process.server import Server, script_launch
from tests.process.strikes import WINDOW_S, Fate, Strike, Striker, judge, twice
from tests.process.waiting import eventually
from tests.process.web import free_address

IN_HAND_SHARE = 0.1  # of the kills, which come while connections are moved: that takes 50 us each


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="0: a new one, which is printed")
    parser.add_argument("--connections", type=int, default=24)
    parser.add_argument("--rate", type=float, default=250.0, help="requests a second of all clients together")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--surge", type=int, default=0, help="--reload-surge")
    parser.add_argument("--window", type=float, default=WINDOW_S, help="seconds from the promotion to the last moment")
    parser.add_argument("--preload", action="store_true")
    options = parser.parse_args()
    options.seed = options.seed or random.randrange(1, 10**6)
    print(f"--seed {options.seed}")
    with stage() as scene:
        return measure(scene, options)


def measure(scene: Stage, options: argparse.Namespace) -> int:
    """Reload and kill, then account for everything that was lost."""
    releases = two_releases(scene.site)
    words = ["--workers", options.workers, "--threads", options.threads]
    words += ["--reload-surge", options.surge] if options.surge else []
    words += ["--preload"] if options.preload else []
    server = scene.serve(script_launch(scene.site.current, free_address(), *map(str, words)))
    striker = Striker(server, random.Random(options.seed), options.window)
    plan = {"connections": options.connections, "rate": options.rate, "slow_share": 0.1, "slow_s": 0.05}
    began, reloads = time.monotonic(), 0
    with Kept(scene.nursery, server.address, seed=options.seed, **plan) as kept:
        kept.resume()
        while len(striker.strikes) < options.kills:
            reloads += 1
            scene.site.flip(releases[reloads % 2])
            striker.reload()
        wall_s = time.monotonic() - began
        report = kept.pause()
        at_rest = eventually(lambda: _at_rest(server, report), 10, "each connection with one worker")
        kept.stop()
    print(f"{len(striker.strikes)} kills in {reloads} reloads, {wall_s:.0f} s")
    _print_strikes(striker.strikes)
    print(report)
    claims = Claims()
    _claim(claims, report, Record.read(record_path(scene.site)), striker.strikes)
    claims.check("each connection is in one worker, and no other is", at_rest)
    count = len(server.processes())
    claims.check("the fleet is whole: a template, all workers, nobody else", count == options.workers + 1, count)
    for line in trouble(server):
        if "killed by SIGKILL" not in line:
            print(line[:200])
    server.stop()
    return claims.verdict()


def _at_rest(server: Server, report: Report) -> bool:
    """Those clients whose connection the last kill has cut have none until they ask again."""
    return held_by_workers(server) == dict.fromkeys((line.port for line in report.lines if line.port), 1)


def _print_strikes(strikes: list[Strike]) -> None:
    sides = Counter(strike.side.value for strike in strikes)
    after = sorted(strike.after_s for strike in strikes)
    quantiles = [f"{after[int(len(after) * q)] * 1000:.1f}" for q in (0.1, 0.5, 0.9)]
    holding = [len(strike.held) for strike in strikes]
    print(f"victims {dict(sides)}, {' / '.join(quantiles)} ms behind the promotion (p10 / p50 / p90); they had"
          f" {sum(holding)} connections, {sum(count > 0 for count in holding)} of them at least one")  # fmt: skip


def _claim(claims: Claims, report: Report, record: Record, strikes: list[Strike]) -> None:
    fates = judge(report, record, strikes)
    for fate in Fate:
        print(f"{len(fates[fate]):6} {fate.value}")
    unexcused = fates[Fate.UNEXCUSED]
    claims.check("nothing lost but with a killed process that had it", not unexcused, len(unexcused))
    for lost in unexcused[:10]:
        print(f"  {lost}")
    in_hand = len({lost.port for lost in fates[Fate.IN_HAND]})
    claims.check("few kills hit a connection in the process's hands", in_hand <= IN_HAND_SHARE * len(strikes), in_hand)
    again = twice(report, record)
    claims.check("no request ran twice", not again, again[:10] or 0)
    claims.check("each answer is that of its request", report.wrong == [], report.wrong[:3])
    claims.check("no response announced a close", report.announced_closes == 0, report.announced_closes)


if __name__ == "__main__":
    sys.exit(main())
