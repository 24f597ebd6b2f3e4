"""The pid file: whose it is, and that nobody takes it from a living master."""

import os
import signal
import subprocess

from tests.process.conftest import Boot, Serve
from tests.process.releases import Site
from tests.process.server import finish, script_launch
from tests.process.web import free_address


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def test_its_life(site: Site, boot: Boot) -> None:
    """Written when serving, kept over a reload and a re-exec, removed at the end; commands take its path."""
    path = site.path("app.pid")
    server = boot("--pid", path)
    assert _read(path) == f"{server.pid}\n"
    site.flip(site.release("42"))
    server.reload_ok()
    server.send(signal.SIGUSR2)
    server.reload_ok()
    assert _read(path) == f"{server.pid}\n"
    argv = [f"{site.current}/venv/bin/graceserve", "reload", "--pid", path]
    assert finish(server.nursery.start(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)).code == 0
    server.stop()
    assert not os.path.exists(path)


def test_a_second_instance_is_refused(site: Site, boot: Boot, serve: Serve) -> None:
    """It leaves the file, and the first one, as they are."""
    path = site.path("app.pid")
    first = boot("--pid", path)
    before = os.stat(path)
    second = serve(script_launch(site.current, free_address(), "--pid", path))
    assert second.wait_exit() == 2
    assert len(second.log.splitlines()) == 1 and path in second.log and str(first.pid) in second.log, second.log
    assert _read(path) == f"{first.pid}\n"
    assert (os.stat(path).st_ino, os.stat(path).st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert first.version()["release"] == "41"


def test_refused_also_after_a_reexec(site: Site, boot: Boot, serve: Serve) -> None:
    path = site.path("app.pid")
    first = boot("--pid", path)
    first.send(signal.SIGUSR2)
    first.wait_log("reexec")
    first.reload_ok()
    second = serve(script_launch(site.current, free_address(), "--pid", path))
    assert second.wait_exit() == 2
    assert _read(path) == f"{first.pid}\n"


def test_a_stale_one_is_taken(site: Site, boot: Boot, serve: Serve) -> None:
    """Of a master that was killed, and of a pid that somebody else has now."""
    path = site.path("app.pid")
    first = boot("--pid", path)
    first.send(signal.SIGKILL)
    first.wait_exit()
    second = serve(script_launch(site.current, free_address(), "--pid", path)).wait_ready()
    assert _read(path) == f"{second.pid}\n"
    second.stop()
    with open(path, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    third = serve(script_launch(site.current, free_address(), "--pid", path)).wait_ready()
    assert _read(path) == f"{third.pid}\n"


def test_removed_when_the_app_fails_to_boot(site: Site, serve: Serve) -> None:
    path = site.path("app.pid")
    site.flip(site.release("41", "raise RuntimeError('boom')"))
    server = serve(script_launch(site.current, free_address(), "--pid", path))
    assert server.wait_exit() == 1
    assert not os.path.exists(path)


def test_a_foreign_file_is_not_removed(site: Site, boot: Boot) -> None:
    """Somebody replaced the file: at its end the master leaves theirs alone."""
    path = site.path("app.pid")
    server = boot("--pid", path)
    os.unlink(path)
    with open(path, "w", encoding="ascii") as file:
        file.write("mine\n")
    server.stop()
    assert _read(path) == "mine\n"
