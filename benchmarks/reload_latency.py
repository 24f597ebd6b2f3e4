"""The app takes 3 s to import: no request during a reload takes longer than 100 ms above the steady state.

    python -m benchmarks.reload_latency [--import-s 3] [--burn] [--reloads 3] [--upstream tcp|unix] [--clients 32]

`--burn`: the import burns CPU (as a real one does, and on a small machine competes with the serving workers) instead of
sleeping. Steady state is the same load for as long, without a reload.
"""

import argparse
import sys
import time

from benchmarks.stage import Claims, Stage, stage
from tests.process.load import Load, Outcome
from tests.process.server import script_launch
from tests.process.web import free_address

ABOVE_STEADY_S = 0.100


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--import-s", type=float, default=3.0)
    parser.add_argument("--burn", action="store_true")
    parser.add_argument("--reloads", type=int, default=3)
    parser.add_argument("--upstream", choices=("tcp", "unix"), default="tcp")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--pause", type=float, default=0.02, help="mean seconds between a client's requests")
    options = parser.parse_args()
    with stage() as scene:
        return measure(scene, options)


def measure(scene: Stage, options: argparse.Namespace) -> int:
    """A steady time first, then reloads."""
    loop = f"_end = time.process_time() + {options.import_s}\nwhile time.process_time() < _end: pass"
    code = loop if options.burn else f"time.sleep({options.import_s})"
    releases = [scene.release(name, code) for name in ("41", "42")]
    scene.site.flip(releases[0])
    address = free_address() if options.upstream == "tcp" else f"unix:{scene.site.path('app.sock')}"
    server = scene.serve(script_launch(scene.site.current, address))
    oneshot = options.clients // 4
    plan = {"keepalive": options.clients - oneshot, "oneshot": oneshot, "pause_s": options.pause}
    with Load(scene.nursery, address, paths=["/version"], **plan) as load:
        marks = [time.monotonic()]
        time.sleep((options.import_s + 1) * options.reloads)  # the steady state has no event to wait for
        marks.append(time.monotonic())
        for number in range(options.reloads):
            scene.site.flip(releases[(number + 1) % 2])
            began = time.monotonic()
            server.reload_ok()
            print(f"reload {number + 1}: {began - marks[1]:+.3f} s to {time.monotonic() - marks[1]:+.3f} s")
        marks.append(time.monotonic())
        outcome = load.stop()
    claims = Claims()
    steady, during = _line("steady", outcome, marks[0], marks[1]), _line("reload", outcome, marks[1], marks[2])
    print(f"{options.reloads} reloads in {marks[2] - marks[1]:.1f} s, {outcome.requests} requests")
    claims.check("no request failed", outcome.failed == 0, outcome.failures or 0)
    claims.check("no idle connection was cut", outcome.idle_closes == 0, outcome.idle_closes)
    for start, took in sorted(outcome.samples, key=lambda sample: -sample[1])[:8]:
        print(f"  slow: {took * 1000:.1f} ms, begun {start - marks[1]:+.3f} s from the first reload")
    above = f"{(during - steady) * 1000:+.1f} ms"
    claims.check("max during reloads < max steady + 100 ms", during < steady + ABOVE_STEADY_S, above)
    server.stop()
    return claims.verdict()


def _line(name: str, outcome: Outcome, begin: float, end: float) -> float:
    """Print the quantiles of a span; its maximum."""
    shown = [f"p{q * 100:g} {outcome.latency_s(q, begin, end) * 1000:.1f} ms" for q in (0.5, 0.99, 0.999)]
    most = outcome.latency_s(1.0, begin, end)
    print(f"{name}: {', '.join(shown)}, max {most * 1000:.1f} ms")
    return most


if __name__ == "__main__":
    sys.exit(main())
