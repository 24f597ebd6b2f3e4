"""TERM in every phase ends everything within the graceful timeout, exit 0; a second one is quick."""

import signal
import time

import pytest

from graceserve.master.main import STOP_ECHO_S
from tests.process.apps import Gate
from tests.process.conftest import Boot, Serve
from tests.process.releases import Site
from tests.process.server import Server, finish, script_launch
from tests.process.waiting import eventually, steadily
from tests.process.web import Connection, free_address, refused

STOPS = [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT]
each_stop = pytest.mark.parametrize("stop", STOPS, ids=lambda number: number.name)


def _ends(server: Server, within_s: float) -> None:
    began = time.monotonic()
    assert server.wait_exit(within_s + 5) == 0, server.log[-2000:]
    took_s = time.monotonic() - began
    assert took_s < within_s, f"took {took_s:.1f} s: {server.log[-2000:]}"
    eventually(lambda: not server.nursery.left(), what="nobody is left")  # a keeper goes when its worker has gone
    assert refused(server.address)


@each_stop
@pytest.mark.parametrize("preload", [False, True], ids=["workers", "preload"])
def test_booting(site: Site, serve: Serve, stop: signal.Signals, preload: bool) -> None:
    """Before the first generation serves; the import hangs."""
    gate = site.gate("import")
    site.flip(site.release("41", f"hold({gate.path!r})"))
    options = ("--preload",) if preload else ()
    server = serve(script_launch(site.current, free_address(), *options))
    gate.wait_for()
    server.send(stop)
    _ends(server, 3)


def test_at_once(site: Site, serve: Serve) -> None:
    """As soon as the master can be told anything at all (its first log line)."""
    site.flip(site.release("41"))
    server = serve(script_launch(site.current, free_address()))
    server.wait_log("listening")
    server.send(signal.SIGTERM)
    _ends(server, 3)


@each_stop
def test_serving(boot: Boot, stop: signal.Signals) -> None:
    server = boot()
    server.send(stop)
    _ends(server, 3)


@each_stop
def test_a_candidate_imports(site: Site, boot: Boot, stop: signal.Signals) -> None:
    """Who waits for the reload is told."""
    server = boot()
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    waiting = server.begin("reload")
    gate.wait_for(2)
    server.send(stop)
    _ends(server, 3)
    done = finish(waiting)
    assert done.code == 1 and "stop" in done.text, done


@pytest.mark.parametrize("where", ["serving", "retiring"])
def test_a_request_in_flight_is_answered(site: Site, boot: Boot, where: str) -> None:
    server = boot()
    gate, connection = _busy(site, server, where)
    server.send(signal.SIGTERM)
    server.wait_log("stopping")
    gate.open()
    response = connection.finish()
    assert response.json["release"] == "41"
    _ends(server, 4)


@pytest.mark.parametrize("where", ["serving", "retiring"])
def test_a_request_that_never_ends(site: Site, boot: Boot, where: str) -> None:
    """It is cut at the graceful timeout, after its stack was logged."""
    server = boot("--graceful-timeout", "1")
    gate, _ = _busy(site, server, where)
    server.send(signal.SIGTERM)
    _ends(server, 4)
    assert "fcntl.flock" in server.log or "in hold" in server.log, server.log
    gate.open()


@pytest.mark.parametrize("second", STOPS, ids=lambda number: number.name)
@pytest.mark.parametrize("where", ["serving", "retiring"])
def test_a_second_stop_is_quick(site: Site, boot: Boot, where: str, second: signal.Signals) -> None:
    server = boot("--graceful-timeout", "60")
    gate, _ = _busy(site, server, where)
    server.send(signal.SIGTERM)
    server.wait_log("stopping")
    steadily(lambda: server.process.poll() is None, 3 * STOP_ECHO_S, "it waits for the request")
    server.send(second)
    _ends(server, 4)
    gate.open()


def test_an_echo_is_not_a_second_stop(site: Site, boot: Boot) -> None:
    """timeout(1) signals the process and then its group: the request in flight is still answered."""
    server = boot("--graceful-timeout", "60")
    gate, connection = _busy(site, server, "serving")
    server.send(signal.SIGTERM)
    server.send_group(signal.SIGTERM)
    steadily(lambda: server.process.poll() is None, 3 * STOP_ECHO_S, "it waits for the request")
    gate.open()
    assert connection.finish().json["release"] == "41"
    _ends(server, 4)


@pytest.mark.parametrize("argv", [("stop",), ("stop", "--quick")], ids=" ".join)
def test_the_command(boot: Boot, argv: tuple[str, ...]) -> None:
    """It returns when the master is gone."""
    server = boot()
    done = server.command(*argv)
    assert done.code == 0, done
    _ends(server, 0.5)


def test_connections_in_the_backlog_are_answered(site: Site, boot: Boot) -> None:
    """One worker, busy: connections that the kernel accepted before TERM are answered, not reset."""
    server = boot("--workers", "1")
    gate, connection = _busy(site, server, "serving")
    waiting = [server.dial() for _ in range(5)]
    for one in waiting:
        one.begin("/version")
    server.send(signal.SIGTERM)
    server.wait_log("stopping")
    gate.open()
    assert connection.finish().status == 200
    assert [one.finish().status for one in waiting] == [200] * 5
    _ends(server, 5)


def test_term_after_a_storm_of_hups(boot: Boot) -> None:
    """TERM is obeyed at once, not after the reloads that were asked for before."""
    server = boot()
    for _ in range(50):
        server.send(signal.SIGHUP)
    server.send(signal.SIGTERM)
    _ends(server, 4)


def _busy(site: Site, server: Server, where: str) -> tuple[Gate, Connection]:
    """A request that waits at a gate, in the serving generation or in one that a reload has retired."""
    gate = site.gate("request")
    connection = server.dial()
    connection.begin(f"/hold?{gate.path}")
    gate.wait_for()
    if where == "retiring":
        site.flip(site.release("42"))
        assert server.reload().code == 0
        assert {row["phase"] for row in server.generations()} == {"serving", "retiring"}
    return gate, connection
