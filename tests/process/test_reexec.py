"""Re-exec in place: the master becomes the new release's Python and graceserve, with its PID, children and callers."""

import os
import re
import signal

import pytest

from tests.process.conftest import Boot
from tests.process.load import Load, lost_nothing
from tests.process.procs import Nursery, executable, fds
from tests.process.releases import Site, bump_version, replace_file
from tests.process.server import Server, counted, finish
from tests.process.stock import Stock
from tests.process.waiting import eventually


def test_to_another_python_and_back(site: Site, boot: Boot, other_stock: Stock, nursery: Nursery) -> None:
    """/proc/PID/exe follows; the old release is deleted each time; the next reload works; nothing is lost meanwhile."""
    old = site.release("41")
    site.flip(old)
    server = boot()
    with Load(nursery, server.address, keepalive=16, oneshot=4) as load:
        for name, stock in (("42", other_stock), ("43", site.stock), ("44", other_stock)):
            new = site.release(name, stock=stock)
            site.flip(new)
            server.reload_ok()
            assert server.version()["release"] == name
            assert executable(server.pid) == os.path.realpath(new.python)
            old.remove()
            old = new
        lost_nothing(load.stop())
    assert server.process.poll() is None
    os.kill(server.worker_pids()[0], signal.SIGKILL)
    eventually(lambda: len(server.worker_pids()) == 2, what="a worker is replaced")


def test_to_another_graceserve(site: Site, boot: Boot) -> None:
    """The version changes, the PID does not, and the waiting `graceserve reload` gets its verdict."""
    old = site.release("41")
    site.flip(old)
    server = boot()
    new = site.release("42")
    bump_version(new, "99.0")
    site.flip(new)
    done = server.reload()
    assert done.code == 0, done
    eventually(lambda: server.status()["version"] == "99.0", what="the master is the new version")
    old.remove()
    server.wait_whole()
    site.flip(site.release("43"))
    server.reload_ok()
    assert server.version()["release"] == "43"


def test_usr2(boot: Boot, nursery: Nursery) -> None:
    """By itself, five times: same PID, same children, same descriptors, nothing refused."""
    server = boot()
    before = ({server.template_pid(), *server.worker_pids()}, counted(server))
    with Load(nursery, server.address, keepalive=8, oneshot=8) as load:
        for number in range(1, 6):
            server.send(signal.SIGUSR2)
            eventually(lambda number=number: _reexecs(server) >= number, what=f"re-exec {number}")  # type: ignore[misc]
            server.wait_whole()
        lost_nothing(load.stop())
    assert {server.template_pid(), *server.worker_pids()} == before[0]
    assert counted(server) == before[1]
    assert server.status()["generation"] == 1


def test_usr2_with_a_draining_generation(site: Site, boot: Boot) -> None:
    """A request in an old worker, the history and the worker count all survive."""
    server = boot()
    server.send(signal.SIGTTIN)
    eventually(lambda: len(server.serving()["workers"]) == 3, what="three workers")
    server.wait_whole()
    gate = site.gate("request")
    connection = server.dial()
    connection.begin(f"/hold?{gate.path}")
    gate.wait_for()
    site.flip(site.release("42"))
    assert server.reload().code == 0
    server.send(signal.SIGUSR2)
    eventually(lambda: _reexecs(server) == 1, what="re-exec")
    status = server.status()
    assert {row["phase"] for row in status["generations"]} == {"serving", "retiring"}
    assert status["workers_wanted"] == 3
    assert status["last_reload"]["outcome"] == "switched"
    gate.open()
    assert connection.finish().json["release"] == "41"
    server.wait_whole()


def test_usr2_while_a_candidate_imports(site: Site, boot: Boot) -> None:
    """The reload goes on in the new image, and its caller gets the verdict."""
    server = boot()
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    waiting = server.begin("reload")
    gate.wait_for(2)
    server.send(signal.SIGUSR2)
    eventually(lambda: _reexecs(server) == 1, what="re-exec")
    gate.open()
    done = finish(waiting)
    assert done.code == 0, done
    server.wait_whole(2)
    assert server.version()["release"] == "42"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD])
def test_signals_during_usr2_are_not_lost(site: Site, boot: Boot, number: signal.Signals) -> None:
    """A signal that comes while the new interpreter starts is kept for it."""
    server = boot()
    site.flip(site.release("42"))
    server.send(signal.SIGUSR2)
    server.send(number)
    if number is signal.SIGTERM:
        assert server.wait_exit(5) == 0
        return
    eventually(lambda: _reexecs(server) == 1, what="re-exec")
    if number is signal.SIGHUP:
        eventually(lambda: server.version()["release"] == "42", what="the reload that was asked for")
    server.wait_whole()


CRASHES = {  # what goes wrong in `Master.begin`, or when its module is imported; the check does neither
    "raises": ("begin", "raise RuntimeError('this image can not resume')"),
    "exits": ("begin", "sys.exit(7)"),
    "raises at the end": ("begin_end", "raise RuntimeError('this image can not resume')"),
    "raises on import": ("import", "import sys\nif '--resume-fd' in sys.argv: raise RuntimeError('no resume')"),
}


@pytest.mark.parametrize("crash", CRASHES)
def test_back_to_the_old_image(site: Site, boot: Boot, crash: str, nursery: Nursery) -> None:
    """The new release's graceserve passes the check but can't resume: the old image goes on, the new code serves."""
    server = boot()
    new = site.release("42")
    bump_version(new, "99.0")
    _spoil_resume(new.package, *CRASHES[crash])
    site.flip(new)
    with Load(nursery, server.address, keepalive=8, oneshot=4) as load:
        done = server.reload()
        assert done.code == 0, f"{done}\n{server.log[-3000:]}"
        server.wait_whole()
        lost_nothing(load.stop())
    assert server.status()["version"] != "99.0"
    assert server.version()["release"] == "42"
    site.flip(site.release("43"))
    server.reload_ok()
    assert server.version()["release"] == "43"


def test_a_check_that_fails(site: Site, boot: Boot) -> None:
    """A graceserve that can't even load the dump is never exec'd."""
    server = boot()
    new = site.release("42")
    bump_version(new, "99.0")
    path = os.path.join(new.package, "master", "reexec.py")
    replace_file(path, "raise RuntimeError('this file is broken')\n")
    site.flip(new)
    done = server.reload()
    assert done.code == 0, done
    server.wait_whole()
    assert server.status()["version"] != "99.0"
    assert server.version()["release"] == "42"


def test_descriptors_do_not_pile_up(site: Site, boot: Boot) -> None:
    """Four re-execs over reloads to another graceserve: the master's descriptors are as many as before."""
    releases = [site.release(name) for name in ("41", "42")]
    bump_version(releases[1], "99.0")
    site.flip(releases[0])
    server = boot()
    server.reload_ok()
    before = counted(server)
    for number in range(4):
        site.flip(releases[(number + 1) % 2])
        server.reload_ok()
    assert counted(server) == before, fds(server.pid)


def _reexecs(server: Server) -> int:
    """Each image of the master says so when it takes over."""
    return len(re.findall(r"^\S+ INFO +master pid=", server.log, re.M)) - 1


def _spoil_resume(package: str, where: str, crash: str) -> None:
    path = os.path.join(package, "master", "main.py")
    assert os.stat(path).st_nlink == 1, "bump_version gives the release its own copy"
    with open(path, encoding="utf-8") as file:
        text = file.read()
    begin = r'(def begin\(self[^\n]*\n        """.*?"""\n)'
    match where:
        case "begin":
            spoiled, count = re.subn(begin, rf"\g<1>        {crash}\n", text, count=1, flags=re.S)
        case "begin_end":
            body = r"(def begin\(.*?\n)(\n    def run)"
            spoiled, count = re.subn(body, rf"\g<1>        {crash}\n\g<2>", text, count=1, flags=re.S)
        case _:
            spoiled, count = re.subn(r"\A", crash + "\n", text, count=1)
    assert count == 1, "main.py has no begin() to spoil"
    replace_file(path, spoiled)
