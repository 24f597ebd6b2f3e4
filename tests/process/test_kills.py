"""`kill -9` of anything, at any time: the fleet is whole again by itself, a reload on its way gets a true verdict."""

import os
import signal
from collections.abc import Callable

import pytest

from tests.process.conftest import Boot, Serve
from tests.process.procs import alive, kill
from tests.process.releases import Site
from tests.process.server import finish, script_launch
from tests.process.waiting import eventually
from tests.process.web import refused

Victims = Callable[[dict[str, object]], list[int]]


def _workers(generation: dict[str, object]) -> list[int]:
    rows = generation["workers"]
    assert isinstance(rows, (list, tuple))
    return [int(row["pid"]) for row in rows if row["pid"]]


def _template(generation: dict[str, object]) -> list[int]:
    assert generation["template_pid"]
    return [int(str(generation["template_pid"]))]


VICTIMS: dict[str, Victims] = {
    "a worker": lambda generation: _workers(generation)[:1],
    "all workers": _workers,
    "the template": _template,
    "template and workers": lambda generation: _template(generation) + _workers(generation),
    "workers, then the template": lambda generation: _workers(generation) + _template(generation),
}

both_ways = pytest.mark.parametrize("preload", [False, True], ids=["workers", "preload"])
each_victim = pytest.mark.parametrize("who", VICTIMS)


def _strike(victims: list[int]) -> None:
    assert victims
    for pid in victims:
        kill(pid)


def _gone(victims: list[int]) -> None:
    eventually(lambda: not any(alive(pid) for pid in victims), what=f"{victims} are gone")


@both_ways
@each_victim
def test_while_serving(site: Site, boot: Boot, who: str, preload: bool) -> None:
    server = boot(*(("--preload",) if preload else ()))
    victims = VICTIMS[who](server.serving())
    _strike(victims)
    _gone(victims)
    whole = server.wait_whole(without=victims)
    assert not set(victims) & {proc.pid for proc in server.processes()}
    assert len(whole["workers"]) == 2
    assert server.version()["release"] == "41"


@both_ways
@each_victim
def test_serving_ones_while_a_candidate_imports(site: Site, boot: Boot, who: str, preload: bool) -> None:
    server = boot(*(("--preload",) if preload else ()))
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    waiting = server.begin("reload")
    gate.wait_for(1 if preload else 2)
    victims = VICTIMS[who](server.serving())
    _strike(victims)
    _gone(victims)
    if "template" not in who:
        eventually(lambda: server.version()["release"] == "41", what="the old release answers again")
    gate.open()
    done = finish(waiting)
    assert done.code == 0, f"{done} {server.log[-3000:]}"
    server.wait_whole(without=victims)
    assert server.version()["release"] == "42"


@each_victim
def test_candidates_while_they_import(site: Site, boot: Boot, who: str) -> None:
    """The old generation never notices; the reload fails with the cause, or succeeds after another try."""
    server = boot()
    before = server.serving()
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    waiting = server.begin("reload")
    gate.wait_for(2)
    victims = VICTIMS[who](server.candidate())
    _strike(victims)
    _gone(victims)
    done = finish(waiting)
    gate.open()
    assert done.code == 1 and "SIGKILL" in done.text, done
    server.wait_whole(without=victims)
    assert server.serving()["generation"] == before["generation"]
    assert server.worker_pids() == _workers(before)
    assert server.version()["release"] == "41"
    server.reload_ok()
    assert server.version()["release"] == "42"


@pytest.mark.parametrize("side", ["old", "new"])
@each_victim
def test_while_draining(site: Site, boot: Boot, who: str, side: str) -> None:
    """A request holds the old generation; then the old or the new one is struck."""
    server = boot()
    gate = site.gate("request")
    connection = server.dial()
    connection.begin(f"/hold?{gate.path}")
    gate.wait_for()
    site.flip(site.release("42"))
    assert server.reload().code == 0
    rows = {row["phase"]: row for row in server.generations()}
    assert set(rows) == {"serving", "retiring"}, rows
    victims = VICTIMS[who](rows["serving" if side == "new" else "retiring"])
    _strike(victims)
    _gone(victims)
    gate.open()
    if side == "new" or who == "the template":
        assert connection.finish().json["release"] == "41"
    server.wait_whole(without=victims)
    assert server.version()["release"] == "42"


@both_ways
def test_the_master(site: Site, boot: Boot, serve: Serve, preload: bool) -> None:
    """Its workers finish what they have and leave; a new master binds the port at once."""
    options = ("--preload",) if preload else ()
    server = boot(*options)
    gate = site.gate("request")
    busy, idle = server.dial(), server.dial()
    assert idle.ask("/version").status == 200
    busy.begin(f"/hold?{gate.path}")
    gate.wait_for()
    orphans = [proc.pid for proc in server.processes()]
    server.send(signal.SIGKILL)
    server.wait_exit()
    second = serve(script_launch(site.current, server.address, *options)).wait_ready()
    assert second.version()["release"] == "41"
    gate.open()
    assert busy.finish().status == 200
    eventually(lambda: not any(alive(pid) for pid in orphans), 15, f"the orphans {orphans} leave")
    pids = {second.version()["pid"] for _ in range(20)}
    assert pids <= set(second.worker_pids())


def test_the_master_while_a_candidate_imports(site: Site, boot: Boot) -> None:
    server = boot()
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    waiting = server.begin("reload")
    gate.wait_for(2)
    orphans = [proc.pid for proc in server.processes()]
    server.send(signal.SIGKILL)
    done = finish(waiting)
    assert done.code == 1 and "went away" in done.text, done
    gate.open()
    eventually(lambda: not any(alive(pid) for pid in orphans), 15, f"the orphans {orphans} leave")
    eventually(lambda: refused(server.address), what="the port is free")  # a keeper goes when its worker has gone


def test_a_stuck_orphan_is_bounded(site: Site, boot: Boot) -> None:
    """A request that never ends does not keep an orphan alive beyond the graceful timeout."""
    server = boot("--graceful-timeout", "1")
    gate = site.gate("request")
    connection = server.dial()
    connection.begin(f"/hold?{gate.path}")
    gate.wait_for()
    orphans = [proc.pid for proc in server.processes()]
    server.send(signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in orphans), 8, f"the orphans {orphans} leave")


def test_a_crash_in_a_request(site: Site, boot: Boot) -> None:
    """The worker that dies in a request is replaced, by the same release, also after the flip."""
    server = boot()
    site.flip(site.release("42"))
    victim = server.version()["pid"]
    os.kill(victim, signal.SIGSEGV)
    eventually(lambda: victim not in server.worker_pids(), what="it is replaced")
    server.wait_whole()
    assert {server.version()["release"] for _ in range(10)} == {"41"}


def test_a_crash_loop_backs_off_and_a_reload_heals_it(site: Site, boot: Boot) -> None:
    """Workers that die soon after each start never end the service, nor burn the CPU."""
    server = boot()
    for _ in range(6):
        for pid in _workers(server.serving()):
            kill(pid)
        eventually(lambda: server.serving()["workers"], what="the master goes on")
    server.wait_whole(timeout_s=40)
    site.flip(site.release("42"))
    server.reload_ok()
    assert server.version()["release"] == "42"


def test_broken_code_on_disk_does_not_end_a_healthy_service(site: Site, boot: Boot) -> None:
    """In-place breakage: the replaced worker can't start, the other one serves on; mended, the fleet is whole again."""
    server = boot()
    path = os.path.join(os.path.realpath(site.current), "app.py")
    with open(path, encoding="utf-8") as file:
        good = file.read()
    with open(path, "w", encoding="utf-8") as file:
        file.write("raise RuntimeError('broken in place')\n")
    kill(server.worker_pids()[0])
    server.wait_log("broken in place")
    assert server.version()["release"] == "41"
    with open(path, "w", encoding="utf-8") as file:
        file.write(good)
    server.wait_whole(timeout_s=40)
