"""200 HUPs in a row behind a real nginx, under load: nothing lost, nothing grows.

    python -m benchmarks.soak [--hups 200] [--app django|flask] [--upstream tcp|unix] [--clients 32] [--preload]

Two releases with a venv each; every HUP follows a flip of `current`. Clients ask nginx, which keeps connections to the
upstream and may not retry (`proxy_next_upstream off`).
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time

from benchmarks.stage import Claims, Footprint, Stage, stage, trouble
from tests.process.load import Load, Outcome
from tests.process.releases import Release
from tests.process.server import Server, script_launch
from tests.process.stock import environ
from tests.process.web import free_address

APPS = {"django": ("django_app", "project.wsgi"), "flask": ("flask_app", "guestbook:app")}
WARM_HUPS = 5  # before the first footprint is taken: allocators and caches settle
RSS_GROWTH_BYTES_MAX = 3_000_000


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hups", type=int, default=200)
    parser.add_argument("--app", choices=APPS, default="django")
    parser.add_argument("--upstream", choices=("tcp", "unix"), default="unix")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--pause", type=float, default=0.02, help="mean seconds between a client's requests")
    parser.add_argument("--preload", action="store_true")
    options = parser.parse_args()
    with stage(frameworks=True) as scene:
        return soak(scene, options)


def soak(scene: Stage, options: argparse.Namespace) -> int:
    """Set up, warm, measure, reload, measure."""
    releases, server = _served(scene, options)
    proxy = scene.nginx(server.address)
    oneshot = options.clients // 4
    plan = {"keepalive": options.clients - oneshot, "oneshot": oneshot, "pause_s": options.pause}
    with Load(scene.nursery, proxy.address, paths=["/", "/visit", "/version"], **plan) as load:
        _hup(scene, server, releases, WARM_HUPS + WARM_HUPS % 2)
        before, pid = Footprint.of(server), server.status()["pid"]
        began = time.monotonic()
        took = _hup(scene, server, releases, options.hups)
        ended = time.monotonic()
        after = Footprint.of(server)
        outcome = load.stop()
    claims = Claims()
    _report(outcome, took, ended - began)
    print(f"before: {before}\nafter:  {after}")
    claims.check("no request failed at nginx's clients", outcome.failed == 0, f"{outcome.failed} of {outcome.requests}")
    claims.check("both releases answered", set(outcome.releases) == {"41", "42"}, outcome.releases)
    claims.check("nothing lost in nginx's error log", proxy.losses() == [], len(proxy.losses()))
    claims.check("the master's PID is unchanged", server.status()["pid"] == pid == server.pid, pid)
    claims.check("no descriptor more", after.master_fds == before.master_fds, (before.master_fds, after.master_fds))
    claims.check("no process more", after.processes == before.processes, (before.processes, after.processes))
    growth_bytes = after.master_rss_bytes - before.master_rss_bytes
    claims.check("master grew less than 3 MB", growth_bytes < RSS_GROWTH_BYTES_MAX, growth_bytes)
    for line in (*outcome.failures[:5], *proxy.losses()[:5], *trouble(server)[:40]):
        print(line[:300])
    server.stop()
    proxy.stop()
    return claims.verdict()


def _served(scene: Stage, options: argparse.Namespace) -> tuple[list[Release], Server]:
    folder, app = APPS[options.app]
    releases = [scene.site.example(name, folder) for name in ("41", "42")]
    env = {"GUESTBOOK_DB": scene.site.path("guestbook.sqlite3")}
    if options.app == "django":
        argv = [releases[0].python, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(argv, cwd=releases[0].directory, check=True, env={**environ(), **env})
    scene.site.flip(releases[0])
    address = free_address() if options.upstream == "tcp" else f"unix:{scene.site.path('app.sock')}"
    words = ("--preload",) if options.preload else ()
    return releases, scene.serve(script_launch(scene.site.current, address, *words, app=app, **env))


def _hup(scene: Stage, server: Server, releases: list[Release], count: int) -> list[float]:
    """Flip and HUP so often; seconds from each HUP to when only the new generation is left."""
    took = []
    for number in range(count):
        generation = int(server.serving()["generation"])
        scene.site.flip(releases[(number + 1) % 2])
        began = time.monotonic()
        server.send(signal.SIGHUP)
        server.wait_whole(generation + 1, 60)
        took.append(time.monotonic() - began)
    return took


def _report(outcome: Outcome, took: list[float], wall_s: float) -> None:
    middle = statistics.median(took)
    print(f"{len(took)} HUPs in {wall_s:.1f} s; one took {middle:.2f} s (median), {max(took):.2f} s (max)")
    print(f"{outcome.requests} requests over {outcome.connects} connections, by release {outcome.releases}")
    shown = {f"p{quantile * 100:g}": outcome.latency_s(quantile) for quantile in (0.5, 0.99, 0.999, 1.0)}
    print("latency " + ", ".join(f"{name} {value * 1000:.1f} ms" for name, value in shown.items()))


if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.exit(main())
