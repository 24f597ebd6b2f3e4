"""Signals: to the master, to its whole process group, and to single workers by hand."""

import os
import signal

import pytest

from tests.process.conftest import Boot
from tests.process.load import Load, lost_nothing
from tests.process.procs import Nursery, alive, fds, look_up
from tests.process.releases import Site
from tests.process.server import Server
from tests.process.waiting import eventually


def test_hup_to_the_whole_group(site: Site, boot: Boot) -> None:
    """`pkill -HUP`, dumb-init: the master reloads, and nobody dies of it."""
    server = boot()
    before = server.worker_pids()
    site.flip(site.release("42"))
    gate = site.gate("request")
    connection = server.dial()
    connection.begin(f"/hold?{gate.path}")
    gate.wait_for()
    server.send_group(signal.SIGHUP)
    eventually(lambda: server.version()["release"] == "42", what="the new release answers")
    gate.open()
    assert connection.finish().json["release"] == "41"
    server.wait_whole()
    assert not any(alive(pid) for pid in before)
    assert "SIGHUP" not in "".join(line for line in server.log.splitlines() if "died" in line)


def test_int_to_the_whole_group(boot: Boot) -> None:
    """A terminal's ctrl-c: a quick and clean end, exit 0."""
    server = boot()
    server.send_group(signal.SIGINT)
    assert server.wait_exit(5) == 0
    assert "KeyboardInterrupt" not in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH])
def test_workers_and_templates_ignore(boot: Boot, number: signal.Signals) -> None:
    server = boot()
    pids = {server.template_pid(), *server.worker_pids()}
    for pid in pids:
        os.kill(pid, number)
    assert {server.version()["release"] for _ in range(20)} == {"41"}
    assert {server.template_pid(), *server.worker_pids()} == pids
    os.kill(server.worker_pids()[0], signal.SIGKILL)  # the template can still fork
    eventually(lambda: set(server.worker_pids()) - pids, what="a replacement")
    server.wait_whole()


def test_more_and_fewer_workers(site: Site, boot: Boot) -> None:
    """TTIN and TTOU count, down to one worker, and are kept over a reload."""
    server = boot()
    for number, wanted in ((signal.SIGTTIN, 3), (signal.SIGTTIN, 4), (signal.SIGTTOU, 3)):
        _count_to(server, number, wanted)
    site.flip(site.release("42"))
    server.reload_ok()
    assert len(server.worker_pids()) == 3
    for wanted in (2, 1, 1):
        _count_to(server, signal.SIGTTOU, wanted)
    assert server.version()["release"] == "42"


def test_fewer_workers_lose_nothing(nursery: Nursery, boot: Boot) -> None:
    """A worker that TTOU takes away finishes its requests and hands over its connections."""
    server = boot("--workers", "3")
    with Load(nursery, server.address, keepalive=16, oneshot=4) as load:
        for number, wanted in ((signal.SIGTTOU, 2), (signal.SIGTTOU, 1), (signal.SIGTTIN, 2)):
            _count_to(server, number, wanted)
        lost_nothing(load.stop())


def test_term_to_a_worker_by_hand(nursery: Nursery, boot: Boot) -> None:
    """It leaves without losing a request, and is replaced."""
    server = boot()
    with Load(nursery, server.address, keepalive=16, oneshot=4) as load:
        for _ in range(3):
            victim = server.worker_pids()[0]
            os.kill(victim, signal.SIGTERM)
            server.wait_whole(without=[victim])
            assert not alive(victim)
        lost_nothing(load.stop())


def test_usr1_reopens_the_log(site: Site, boot: Boot) -> None:
    """logrotate: the master, the template and the workers all write to the new file."""
    path = site.path("app.log")
    server = boot("--log-file", path)
    os.rename(path, path + ".1")
    server.send(signal.SIGUSR1)
    eventually(lambda: os.path.exists(path), what="a new log file")
    everybody = {server.pid, server.template_pid(), *server.worker_pids()}

    def nobody_holds_the_old_one() -> bool:
        holders = [look_up(pid) for pid in everybody if path + ".1" in fds(pid).values()]
        assert not holders, holders
        return True

    eventually(nobody_holds_the_old_one, what="all of them let go of the old file")
    site.flip(site.release("42"))
    server.reload_ok()
    with open(path, encoding="utf-8") as file:
        assert "promoted" in file.read()


def test_reopen_command(site: Site, boot: Boot) -> None:
    """`graceserve reopen` is USR1 with an answer."""
    path = site.path("app.log")
    server = boot("--log-file", path)
    os.rename(path, path + ".1")
    assert server.command("reopen").code == 0
    eventually(lambda: os.path.exists(path), what="a new log file")


def test_a_stopped_worker_is_replaced(boot: Boot) -> None:
    """SIGSTOP: it does not answer any more, so it is stuck; it is killed and replaced."""
    server = boot("--timeout", "1", "--graceful-timeout", "1")
    victim = server.worker_pids()[0]
    os.kill(victim, signal.SIGSTOP)
    eventually(lambda: not alive(victim), 20, "the stuck worker is gone")
    server.wait_whole(without=[victim])
    assert server.version()["release"] == "41"


def _count_to(server: Server, number: signal.Signals, wanted: int) -> None:
    """One signal (equal ones that are pending would be merged), and its effect."""
    server.send(number)
    eventually(lambda: server.status()["workers_wanted"] == wanted, what=f"{wanted} workers wanted")
    assert len(server.wait_whole()["workers"]) == wanted
