"""Reloads on top of reloads: one generation serves in the end, and everybody who waits gets a verdict of his own."""

import signal

import pytest

from tests.process.conftest import Boot
from tests.process.releases import Site
from tests.process.server import finish


def test_100_hups_and_waiting_reloads(site: Site, boot: Boot) -> None:
    server = boot()
    site.flip(site.release("42"))
    waiting = []
    for number in range(100):
        server.send(signal.SIGHUP)
        if number % 20 == 0:
            waiting.append(server.begin("reload"))
    verdicts = [finish(process) for process in waiting]
    assert {done.code for done in verdicts} <= {0, 3}, verdicts
    assert all("superseded by generation" in done.text for done in verdicts if done.code == 3), verdicts
    server.wait_whole(timeout_s=30)
    assert server.version()["release"] == "42"
    server.reload_ok()


def test_the_latest_wins(site: Site, boot: Boot) -> None:
    """A hanging candidate is replaced by what the link says now; its caller is told by which generation."""
    server = boot()
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    first = server.begin("reload")
    gate.wait_for(2)
    site.flip(site.release("43"))
    second = server.reload()
    assert second.code == 0, second
    done = finish(first)
    serving = server.wait_whole()["generation"]
    assert done.code == 3 and f"superseded by generation {serving}" in done.text, done
    assert server.version()["release"] == "43"
    gate.open()


def test_a_broken_newer_one_leaves_the_old(site: Site, boot: Boot) -> None:
    """42 hangs, 43 is broken: 42's caller is told superseded, 43's failed, and 41 serves."""
    server = boot()
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    first = server.begin("reload")
    gate.wait_for(2)
    site.flip(site.release("43", "raise RuntimeError('boom of 43')"))
    second = server.reload()
    assert second.code == 1 and "boom of 43" in second.text, second
    assert finish(first).code == 3
    server.wait_whole()
    assert server.version()["release"] == "41"
    gate.open()


@pytest.mark.parametrize("surge", ["1", "2"])
def test_surge(site: Site, boot: Boot, surge: str) -> None:
    """A roll with few extra workers ends with all new ones."""
    server = boot("--workers", "3", "--reload-surge", surge)
    site.flip(site.release("42"))
    server.reload_ok()
    assert server.version()["release"] == "42"
    assert len(server.worker_pids()) == 3


def test_rollback(site: Site, boot: Boot) -> None:
    server = boot()
    assert server.command("rollback").code == 1
    site.flip(site.release("42"))
    server.reload_ok()
    done = server.command("rollback")
    assert done.code == 0, done
    server.wait_whole()
    assert server.version()["release"] == "41"
    site.flip(site.release("43"))
    server.reload_ok()
    assert server.version()["release"] == "43"


def test_rollback_to_a_removed_release(site: Site, boot: Boot) -> None:
    old = site.release("41")
    site.flip(old)
    server = boot()
    site.flip(site.release("42"))
    server.reload_ok()
    old.remove()
    done = server.command("rollback")
    assert done.code == 1 and "releases/41" in done.text, done
    assert server.version()["release"] == "42"
