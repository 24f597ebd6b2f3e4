"""Reloads under load, straight at the server: no request fails, no idle connection is closed without a word."""

import signal

import pytest

from tests.process.conftest import Boot
from tests.process.load import Load, lost_nothing
from tests.process.procs import Nursery, fds
from tests.process.releases import Site
from tests.process.server import counted
from tests.process.web import free_address

PATHS = ["/version", "/count", "/sleep?0.002"]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("options", [(), ("--preload",), ("--threads", "4")], ids=["inline", "preload", "threads"])
def test_hups_under_load(site: Site, boot: Boot, nursery: Nursery, kind: str, options: tuple[str, ...]) -> None:
    """Six HUPs between two releases with a venv each."""
    address = free_address() if kind == "tcp" else f"unix:{site.path('app.sock')}"
    releases = [site.release(name) for name in ("41", "42")]
    site.flip(releases[0])
    server = boot(*options, address=address)
    with Load(nursery, server.address, keepalive=24, oneshot=8, paths=PATHS) as load:
        for number in range(6):
            generation = int(server.serving()["generation"])
            site.flip(releases[(number + 1) % 2])
            server.send(signal.SIGHUP)
            server.wait_whole(generation + 1)
        outcome = load.stop()
    lost_nothing(outcome)
    assert set(outcome.releases) == {"41", "42"}


def test_idle_connections_move_to_the_new_release(site: Site, boot: Boot) -> None:
    """100 idle keep-alive connections are still open after two reloads, and answered by the new code."""
    server = boot()
    connections = [server.dial() for _ in range(100)]
    for connection in connections:
        assert connection.ask("/version").json["release"] == "41"
    for name in ("42", "43"):
        site.flip(site.release(name))
        server.reload_ok()
    for connection in connections:
        response = connection.ask("/version")
        assert response.json["release"] == "43"
        assert response.headers.get("connection") != "close"


def test_a_busy_connection_moves_after_its_response(site: Site, boot: Boot) -> None:
    server = boot()
    gate = site.gate("request")
    connection = server.dial()
    connection.begin(f"/hold?{gate.path}")
    gate.wait_for()
    site.flip(site.release("42"))
    assert server.reload().code == 0
    gate.open()
    response = connection.finish()
    assert response.json["release"] == "41"
    assert response.headers.get("connection") != "close"
    assert connection.ask("/version").json["release"] == "42"
    server.wait_whole()


def test_no_old_code_after_the_verdict(site: Site, boot: Boot) -> None:
    """When `graceserve reload` has exited 0, a new connection never reaches the old release."""
    releases = [site.release(name) for name in ("41", "42")]
    site.flip(releases[0])
    server = boot("--workers", "3")
    for number in range(6):
        expected = releases[(number + 1) % 2]
        site.flip(expected)
        assert server.reload().code == 0
        assert {server.version()["release"] for _ in range(10)} == {expected.name}


def test_nothing_piles_up(site: Site, boot: Boot) -> None:
    """Ten reloads: the master has as many descriptors and children as before."""
    server = boot()
    server.reload_ok()
    before = (counted(server), len(server.processes()))
    for _ in range(10):
        server.reload_ok()
    assert (counted(server), len(server.processes())) == before, fds(server.pid)
