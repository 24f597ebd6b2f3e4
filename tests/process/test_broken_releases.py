"""A broken release changes nothing: the old one answers, `graceserve reload` exits 1 and names the true cause."""

import glob
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.process.conftest import Boot
from tests.process.releases import Release, Site
from tests.process.server import Server


@dataclass(frozen=True, slots=True)
class Broken:
    """How a release is broken, and what the operator must read."""

    says: tuple[str, ...]
    at_import: str = ""
    at_end: str = ""
    startup_timeout_s: float = 20.0


BROKEN_CODE = {
    "raises": Broken(("RuntimeError", "boom at import", "Traceback", "app.py"), "raise RuntimeError('boom at import')"),
    "syntax error": Broken(("SyntaxError", "app.py"), "def broken(:"),
    "missing module": Broken(("ModuleNotFoundError", "no_such_library"), "import no_such_library"),
    "exits": Broken(("sys.exit(0)",), "sys.exit(0)"),
    "exits hard": Broken(("exit",), "os._exit(0)"),
    "segfaults": Broken(("SIGSEGV",), "import ctypes; ctypes.string_at(0)"),
    "missing attribute": Broken(("application", "attribute"), at_end="del application"),
    "not callable": Broken(("not callable",), at_end="application = not_callable"),
    "sleeps": Broken(("not ready", "app.py"), "time.sleep(3600)", startup_timeout_s=1.0),
    "spins": Broken(("not ready", "busy"), "while True: pass", startup_timeout_s=0.4),
}


@pytest.mark.parametrize("preload", [False, True], ids=["workers", "preload"])
@pytest.mark.parametrize("name", BROKEN_CODE)
def test_broken_code(site: Site, boot: Boot, name: str, preload: bool) -> None:
    broken = BROKEN_CODE[name]
    server = boot(*(("--preload",) if preload else ()))
    release = site.release("42", broken.at_import, broken.at_end)
    release.write("graceserve.toml", f"startup_timeout = {broken.startup_timeout_s}\n")
    site.flip(release)
    must_fail(server, broken.says)


BREAKAGES: dict[str, tuple[Callable[[Site, Release], object], tuple[str, ...]]] = {
    "missing venv": (lambda site, release: shutil.rmtree(release.venv), ("venv",)),
    "missing interpreter": (lambda site, release: _interpreters(release, ""), ("releases/42", "python")),
    "venv of a removed python": (lambda site, release: _interpreters(release, "/gone/python"), ("releases/42",)),
    "missing directory": (lambda site, release: release.remove(), ("releases/42",)),
    "dangling link": (lambda site, release: site.flip("releases/99"), ("releases/99",)),
    "no link": (lambda site, release: os.unlink(site.current), ("current",)),
    "file as release": (lambda site, release: _file_in_place_of(release), ("releases/42",)),
    "no graceserve": (lambda site, release: shutil.rmtree(release.package), ("graceserve",)),
    "bad TOML": (lambda site, release: release.write("graceserve.toml", "workers = = 3\n"), ("toml", "line 1")),
    "unknown key": (lambda site, release: release.write("graceserve.toml", "wrokers = 3\n"), ("wrokers", "workers")),
    "bad value": (lambda site, release: release.write("graceserve.toml", 'threads = "many"\n'), ("threads", "many")),
    "needs restart": (lambda site, release: release.write("graceserve.toml", 'name = "x"\n'), ("--name", "start")),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_layout(site: Site, boot: Boot, name: str) -> None:
    breakage, says = BREAKAGES[name]
    server = boot()
    release = site.release("42")
    site.flip(release)
    breakage(site, release)
    must_fail(server, says)


def test_one_worker_broken(site: Site, boot: Boot) -> None:
    """One of two workers can't start: nothing is switched."""
    server = boot()
    site.flip(site.release("42", f"os.mkdir({site.path('once')!r})"))
    must_fail(server, ("FileExistsError",))


def test_then_a_good_one(site: Site, boot: Boot) -> None:
    """Ten broken reloads in a row leave a server that takes the next good release."""
    server = boot()
    site.flip(site.release("42", "raise RuntimeError('boom')"))
    for _ in range(10):
        assert server.reload().code == 1
    must_fail(server, ("boom",))
    site.flip(site.release("43"))
    server.reload_ok()
    assert server.version()["release"] == "43"
    assert [row["outcome"] for row in server.status()["reloads"]][-3:] == ["failed", "failed", "switched"]


def test_hup_on_a_broken_release(site: Site, boot: Boot) -> None:
    """Nobody waits for the verdict of a HUP; it is in the log and in the status."""
    server = boot()
    site.flip(site.release("42", "raise RuntimeError('boom of 42')"))
    server.send(signal.SIGHUP)
    server.wait_log("boom of 42")
    server.wait_whole()
    assert server.status()["last_reload"]["outcome"] == "failed"
    assert "boom of 42" in server.status()["last_reload"]["reason"]
    assert server.version()["release"] == "41"


def must_fail(server: Server, says: tuple[str, ...]) -> None:
    """Reload; it must fail for this reason and leave all as it was."""
    before = {proc.pid for proc in server.processes()}
    generation = int(server.serving()["generation"])
    done = server.reload()
    assert done.code == 1, done
    missing = [word for word in says if word not in done.text]
    assert not missing, f"{missing} not in: {done.text}"
    assert server.version()["release"] == "41"
    whole = server.wait_whole()
    assert int(whole["generation"]) == generation
    assert {proc.pid for proc in server.processes()} == before
    assert server.status()["last_reload"]["outcome"] == "failed"


def _interpreters(release: Release, target: str) -> None:
    """Remove them all, or point them all to `target`."""
    for path in glob.glob(os.path.join(release.venv, "bin", "python*")):
        os.unlink(path)
        if target:
            os.symlink(target, path)


def _file_in_place_of(release: Release) -> None:
    release.remove()
    with open(release.directory, "w", encoding="utf-8") as file:
        file.write("not a directory\n")
