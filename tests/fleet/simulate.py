"""Many worlds: `python -m tests.fleet.simulate --runs 1000000 --seed 0 --jobs 2`.

Prints what was run and seen. A rule that breaks ends it with the seed and the whole story of that seed; replay it with
`--seed N --runs 1 --trace`.
"""

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field

from graceserve.fleet.actions import Action
from tests.fleet.world import World

DEEP_EVERY = 20  # runs in which every step is dumped, loaded and planned twice; others are at random steps
PROGRESS_EVERY = 10_000  # runs


@dataclass(slots=True)
class Tally:
    runs: int = 0
    steps: int = 0
    seen: Counter[type] = field(default_factory=Counter)
    endings: Counter[str] = field(default_factory=Counter)
    longest_s: dict[str, float] = field(default_factory=dict)  # virtual time from the last fault, or the stop
    closest: float = 0.0  # how much of rule 8's bound was ever needed

    def add(self, other: "Tally") -> None:
        self.runs += other.runs
        self.steps += other.steps
        self.seen += other.seen
        self.endings += other.endings
        self.closest = max(self.closest, other.closest)
        for ending, took_s in other.longest_s.items():
            self.longest_s[ending] = max(took_s, self.longest_s.get(ending, 0.0))


class Failed(Exception):
    """A seed whose run broke a rule; the argument is its story."""


def run(seed: int, trace: bool = False) -> tuple[World, str, float]:
    world = World(seed, deep=seed % DEEP_EVERY == 0, trace=trace)
    ending, took_s = world.tell()
    return world, ending, took_s


def story(seed: int) -> str:
    world = World(seed, deep=seed % DEEP_EVERY == 0, trace=True)
    try:
        ending, took_s = world.tell()
        last = f"{ending}, took {took_s:.3f} s"
    except Exception as error:
        last = f"BROKEN {type(error).__name__}: {error}"
    assert world.trace is not None
    return "\n".join([*world.trace, f"seed {seed}: {last}"])


def simulate(first: int, runs: int) -> Tally:
    tally = Tally()
    for seed in range(first, first + runs):
        try:
            world, ending, took_s = run(seed)
        except Exception:
            raise Failed(story(seed)) from None
        tally.runs += 1
        tally.steps += world.steps
        tally.seen.update(world.seen)
        tally.endings[ending] += 1
        tally.longest_s[ending] = max(took_s, tally.longest_s.get(ending, 0.0))
        if ending == "whole":
            tally.closest = max(tally.closest, took_s / world.whole_most_s)
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(prog="simulate")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print the story of one seed")
    options = parser.parse_args()
    if options.trace:
        print(story(options.seed))
        return 0
    began, total, chunk = time.monotonic(), Tally(), 1000
    starts = range(options.seed, options.seed + options.runs, chunk)
    sizes = [min(chunk, options.seed + options.runs - start) for start in starts]
    with ProcessPoolExecutor(options.jobs) as pool:
        try:
            for tally in pool.map(simulate, starts, sizes):
                total.add(tally)
                took_s = time.monotonic() - began
                if total.runs % PROGRESS_EVERY == 0:
                    print(f"{total.runs} runs, {took_s:.0f} s, {total.steps / took_s:.0f} steps/s", flush=True)
        except Failed as failure:
            pool.shutdown(wait=False, cancel_futures=True)
            print(failure)
            return 1
    print(f"{total.runs} runs, {total.steps} steps, {took_s:.1f} s, {total.steps / took_s:.0f} steps/s")
    print("endings:", dict(total.endings))
    print("longest, virtual seconds:", {name: round(s, 1) for name, s in total.longest_s.items()})
    print(f"rule 8: at most {total.closest:.0%} of the bound was needed")
    for action in Action.__args__:
        print(f"{total.seen[action]:>12}  {action.__name__}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
