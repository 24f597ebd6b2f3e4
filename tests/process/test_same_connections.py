"""Reloads under load: each connection stays the same one; and with `kill -9` in the middle, only the dead take any.

Small versions of benchmarks/same_connections.py and benchmarks/kill_handover.py.
"""

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.process.components import require
from tests.process.conftest import Boot
from tests.process.holders import held_by_workers
from tests.process.kept import Kept, Lost, Record, Report, record_path, reload, two_releases
from tests.process.nginx import Nginx
from tests.process.procs import Nursery
from tests.process.releases import Site
from tests.process.server import Server
from tests.process.strikes import Fate, Side, Strike, Striker, judge, twice
from tests.process.waiting import eventually

RELOADS = 6
CONNECTIONS = 30
KILLS = 12

inline_and_threads = pytest.mark.parametrize("threads", ["1", "3"], ids=["inline", "threads"])


def each_in_one_worker(server: Server, ports: set[int]) -> bool:
    return held_by_workers(server) == dict.fromkeys(ports, 1)


def ran_once_each(report: Report, site: Site) -> None:
    record = Record.read(record_path(site))
    assert report.wrong == []
    assert twice(report, record) == []
    assert len(record.begun) == len(record.ended) == report.answered == report.asked


def reloaded(server: Server, site: Site, kept: Kept) -> Report:
    """The clients' report after so many reloads under load, each to the other release."""
    releases = [site.path("releases", name) for name in ("42", "41")]
    kept.resume()
    for number in range(RELOADS):
        site.flip(releases[number % 2])
        reload(server)
    report = kept.pause()
    server.wait_whole(1 + RELOADS)
    return report


def nothing_lost(first: Report, last: Report) -> None:
    assert (last.lost, last.idle_closes, last.announced_closes) == ([], [], 0)
    assert last.sockets == first.sockets
    assert last.opened == CONNECTIONS
    assert set(last.releases) == {"41", "42"}


@inline_and_threads
def test_each_connection_stays_the_same(site: Site, boot: Boot, nursery: Nursery, threads: str) -> None:
    two_releases(site)
    server = boot("--threads", threads)
    with Kept(nursery, server.address, connections=CONNECTIONS, rate=200) as kept:
        ports = {line.port for line in kept.first.lines}
        last = reloaded(server, site, kept)
        nothing_lost(kept.first, last)
        eventually(lambda: each_in_one_worker(server, ports), what="the server has the clients' first connections")
        kept.stop()
    ran_once_each(last, site)
    assert sum(line.moves for line in last.lines) > 0


def test_so_do_those_of_nginx(site: Site, boot: Boot, nursery: Nursery) -> None:
    """Each connection that nginx ever asked on is still there."""
    require("nginx", "nginx-light")
    two_releases(site)
    server = boot("--forwarded-allow-ips", "")
    proxy = Nginx(nursery, site.path("nginx"), server.address, kept=CONNECTIONS)
    try:
        with Kept(nursery, proxy.address, connections=CONNECTIONS, rate=200) as kept:
            last = reloaded(server, site, kept)
            nothing_lost(kept.first, last)
            assert set(kept.first.ports) <= set(last.ports)
            eventually(lambda: each_in_one_worker(server, set(last.ports)), what="all connections that nginx opened")
            kept.stop()
        ran_once_each(last, site)
        assert proxy.losses() == []
    finally:
        proxy.stop()


@inline_and_threads
def test_only_the_dead_take_connections_with_them(site: Site, boot: Boot, nursery: Nursery, threads: str) -> None:
    """A worker of the old or of the new generation is killed at a random moment of the hand-over."""
    two_releases(site)
    server = boot("--threads", threads)
    striker = Striker(server, random.Random(int(threads)))
    with Kept(nursery, server.address, connections=16, rate=200, slow_share=0.1, slow_s=0.05) as kept:
        kept.resume()
        while len(striker.strikes) < KILLS:
            striker.reload()
        last = kept.pause()
        ports = {line.port for line in last.lines if line.port}
        eventually(lambda: each_in_one_worker(server, ports), what="each connection in one worker")
        kept.stop()
    record = Record.read(record_path(site))
    assert judge(last, record, striker.strikes)[Fate.UNEXCUSED] == []
    assert twice(last, record) == []
    assert last.wrong == []
    assert last.announced_closes == 0
    assert len(server.processes()) == 1 + 2


STRIKE = Strike(pid=7, side=Side.OLD, after_s=0.0, held=frozenset({5000}), at=10.0)


def lost(how: str = "closed", name: str = "3-1", **more: Any) -> Lost:
    return Lost(how, id=name, **{"port": 5000, "opened": 1.0, "sent": 9.8, "at": 10.1, "pid": 7, **more})


@pytest.mark.parametrize(
    ("one", "begun", "ended", "fate"),
    [
        (lost(), [7], [], Fate.RUNNING),
        (lost(), [7], [7], Fate.UNSENT),
        (lost(), [], [], Fate.IN_HAND),
        (lost(name=""), [], [], Fate.IN_HAND),
        (lost(), [8], [], Fate.UNEXCUSED),  # it ran elsewhere
        (lost(), [7, 8], [8], Fate.UNEXCUSED),
        (lost(port=5001), [7], [], Fate.UNEXCUSED),  # the victim did not have its connection
        (lost(port=5001), [], [], Fate.UNEXCUSED),
        (lost(port=5001, name=""), [], [], Fate.UNEXCUSED),
        (lost(opened=10.05), [], [], Fate.UNEXCUSED),  # another connection from the same port, later
        (lost(at=9.9), [], [], Fate.UNEXCUSED),  # before the kill
        (lost(at=20.0), [], [], Fate.UNEXCUSED),  # the connection outlived it
        (lost("status 500"), [7], [], Fate.UNEXCUSED),
        (lost("no answer within 30 s"), [7], [], Fate.UNEXCUSED),
    ],
)
def test_what_a_kill_excuses(one: Lost, begun: list[int], ended: list[int], fate: Fate) -> None:
    report = Report(1, 0, 1, 0, {}, {}, [], [], {}, lost=[one])
    record = Record({one.id: begun} if begun else {}, {one.id: ended} if ended else {})
    assert judge(report, record, [STRIKE])[fate] == [one]


def test_a_kill_excuses_what_came_behind_a_request_that_ran_and_one_other_connection() -> None:
    running, behind, other = lost(), lost(name="3-2"), lost(name="4-1", port=5002)
    third = lost(name="", port=5003)
    strike = replace(STRIKE, held=frozenset({5000, 5002, 5003}))
    report = Report(4, 0, 3, 0, {}, {}, [], [], {}, lost=[behind, running, other])
    found = judge(report, Record({"3-1": [7]}, {}), [strike])
    assert (found[Fate.RUNNING], found[Fate.BEHIND], found[Fate.IN_HAND]) == ([running], [behind], [other])
    report = replace(report, idle_closes=[third])
    assert judge(report, Record({"3-1": [7]}, {}), [strike])[Fate.UNEXCUSED] == [other, third]


def test_a_connection_that_survived_one_kill_may_be_in_hand_at_the_next() -> None:
    strikes = [replace(STRIKE, held=frozenset({5000, 5002})), replace(STRIKE, pid=8, at=11.0)]
    first, second = lost(name="", port=5002), lost(name="", at=11.1)
    report = Report(2, 2, 2, 0, {}, {}, [], [], {}, idle_closes=[first, second])
    assert judge(report, Record({}, {}), strikes)[Fate.IN_HAND] == [first, second]
    late = lost(name="", port=5002, at=11.1)
    report = replace(report, idle_closes=[late, lost(name="", at=10.2)])
    assert judge(report, Record({}, {}), strikes)[Fate.UNEXCUSED] == report.idle_closes


@pytest.mark.parametrize(
    ("begun", "ended", "found"),
    [([7], [7], []), ([7, 8], [7], ["3-1"]), ([7], [], ["3-1"]), ([7], [7, 7], ["3-1"])],
)
def test_what_ran_twice(begun: list[int], ended: list[int], found: list[str]) -> None:
    report = Report(1, 1, 1, 0, {}, {}, [], [], {})
    assert sorted(set(twice(report, Record({"3-1": begun}, {"3-1": ended})))) == found
