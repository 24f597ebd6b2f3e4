"""Idle cost: the master stays below 20 MB resident and wakes up 0 times a second.

    python -m benchmarks.idle [--seconds 30] [--workers 2] [--reloads 3] [--preload]

Wake-ups are voluntary context switches of the main thread (from /proc/PID/status): each is one return from a wait.
Pings to the workers belong to `--timeout`, the master's watchdog over them; `--no-timeout` measures without them.
"""

import argparse
import sys
import time

from benchmarks.stage import Claims, Stage, stage, wake_ups
from tests.process.procs import look_up
from tests.process.server import Server, script_launch
from tests.process.waiting import eventually
from tests.process.web import free_address

MASTER_RSS_BYTES_MAX = 20_000_000


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--reloads", type=int, default=3, help="done before measuring")
    parser.add_argument("--preload", action="store_true")
    parser.add_argument("--no-timeout", action="store_true")
    options = parser.parse_args()
    with stage() as scene:
        return measure(scene, options)


def measure(scene: Stage, options: argparse.Namespace) -> int:
    """Reload some, then do nothing and count."""
    scene.site.flip(scene.release("41"))
    words = ["--workers", str(options.workers)]
    words += ["--preload"] * options.preload + ["--timeout", "0"] * options.no_timeout
    server = scene.serve(script_launch(scene.site.current, free_address(), *words))
    for _ in range(options.reloads):
        server.reload_ok()
    rates = _rates(server, options.seconds)
    claims = Claims()
    master = look_up(server.pid)
    assert master is not None
    for title, rate, rss_bytes in rates:
        print(f"{title}: {rate:.2f} wake-ups/s, {rss_bytes / 1e6:.1f} MB RSS")
    megabytes = f"{master.rss_bytes / 1e6:.1f} MB"
    claims.check("master < 20 MB resident", master.rss_bytes < MASTER_RSS_BYTES_MAX, megabytes)
    limit = 0.0 if options.no_timeout else 1.0
    claims.check(f"master wakes up at most {limit:g} times a second", rates[0][1] <= limit, f"{rates[0][1]:.2f}")
    server.stop()
    return claims.verdict()


def _still(pid: int) -> bool:
    """Whether it slept through a quarter of a second."""
    before = wake_ups(pid)
    time.sleep(0.25)
    return wake_ups(pid) == before


def _rates(server: Server, seconds: float) -> list[tuple[str, float, int]]:
    """Title, wake-ups a second and resident bytes; the master first."""
    pids = [server.pid, server.template_pid(), *server.worker_pids()]
    eventually(lambda: _still(server.pid), 10, "the master is at rest")
    before = {pid: wake_ups(pid) for pid in pids}
    time.sleep(seconds)  # idleness is what is measured
    after = {pid: wake_ups(pid) for pid in pids}
    procs = [proc for pid in pids if (proc := look_up(pid)) is not None]
    return [(proc.title, (after[proc.pid] - before[proc.pid]) / seconds, proc.rss_bytes) for proc in procs]


if __name__ == "__main__":
    sys.exit(main())
