"""What the operator got wrong: one line that names it, exit 2 (1 if the app fails to boot), nothing left running."""

import os
import socket
from dataclasses import dataclass, replace

import pytest

from tests.process.components import other_python
from tests.process.conftest import Boot, Serve
from tests.process.releases import Site
from tests.process.server import Launch, Server, script_launch
from tests.process.waiting import eventually
from tests.process.web import free_address, refused


@dataclass(frozen=True, slots=True)
class Bad:
    """A command line, what must be said, and the exit code."""

    options: tuple[str, ...]
    says: tuple[str, ...]
    toml: str = ""


BAD = {
    "unknown option": Bad(("--no-such-option",), ("--no-such-option",)),
    "bad workers": Bad(("--workers", "many"), ("--workers", "many")),
    "bad bind": Bad(("--bind", "127.0.0.1:http"), ("--bind", "http")),
    "no such host": Bad(("--bind", "256.1.1.1:80"), ("256.1.1.1",)),
    "gunicorn's worker class": Bad(("--worker-class", "gevent"), ("--worker-class", "--threads")),
    "bad TOML": Bad((), ("graceserve.toml", "line 2"), "threads = 2\nbind = = 1\n"),
    "unknown TOML key": Bad((), ("wrokers", "workers"), "wrokers = 2\n"),
    "TOML type": Bad((), ("threads",), "threads = [1]\n"),
    "missing config": Bad(("--config", "nowhere.toml"), ("nowhere.toml",)),
    "missing chdir": Bad(("--chdir", "/no/such/directory"), ("/no/such/directory",)),
    "missing python": Bad(("--python", "no/such/python"), ("no/such/python",)),
    "missing env file": Bad(("--env-file", "no.env"), ("no.env",)),
    "unknown user": Bad(("--user", "no-such-user"), ("no-such-user",)),
    "unknown group": Bad(("--group", "no-such-group"), ("no-such-group",)),
    "pid file's directory": Bad(("--pid", "/no/such/dir/app.pid"), ("/no/such/dir",)),
    "log file's directory": Bad(("--log-file", "/no/such/dir/app.log"), ("/no/such/dir",)),
    "unix directory": Bad(("--bind", "unix:/no/such/dir/app.sock"), ("/no/such/dir",)),
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_exit_2(site: Site, serve: Serve, name: str) -> None:
    bad = BAD[name]
    release = site.release("41")
    if bad.toml:
        release.write("graceserve.toml", bad.toml)
    site.flip(release)
    server = serve(script_launch(site.current, free_address(), *bad.options))
    one_line(server, 2, bad.says)


@pytest.mark.parametrize("app", ["", "nodots/app.py"])
def test_bad_app_name(site: Site, serve: Serve, app: str) -> None:
    site.flip(site.release("41"))
    launch = script_launch(site.current, free_address())
    argv = tuple(word for word in launch.argv if word != "app:application")
    one_line(serve(replace(launch, argv=(argv[0], *([app] if app else []), *argv[1:]))), 2, (app or "MODULE:CALLABLE",))


def test_port_in_use(site: Site, serve: Serve) -> None:
    site.flip(site.release("41"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]  # noqa: UP031
        server = serve(script_launch(site.current, address))
        assert server.wait_exit() == 2
        assert len(server.log.splitlines()) == 1 and address in server.log and "in use" in server.log, server.log


@pytest.mark.parametrize("preload", [False, True], ids=["workers", "preload"])
@pytest.mark.parametrize(
    ("app", "says"),
    [("nosuchmodule:app", "nosuchmodule"), ("app:nosuchname", "nosuchname"), ("app:not_callable", "not callable")],
)
def test_app_that_fails_to_boot(site: Site, serve: Serve, app: str, says: str, preload: bool) -> None:
    site.flip(site.release("41"))
    options = ("--preload",) if preload else ()
    server = serve(script_launch(site.current, free_address(), *options, app=app))
    assert server.wait_exit() == 1, server.log
    assert says in server.log, server.log
    eventually(lambda: not server.nursery.left() and refused(server.address), what="nobody is left")


def test_first_start_that_hangs(site: Site, serve: Serve) -> None:
    site.flip(site.release("41", "time.sleep(3600)"))
    server = serve(script_launch(site.current, free_address(), "--startup-timeout", "1"))
    assert server.wait_exit() == 1, server.log
    assert "not ready" in server.log and "app.py" in server.log, server.log
    eventually(lambda: not server.nursery.left() and refused(server.address), what="nobody is left")


@pytest.mark.parametrize("command", ["reload", "status", "stop", "reopen", "rollback"])
@pytest.mark.parametrize("pid", ["1", "999999", "no/such/file.pid", "empty.pid"])
def test_commands_about_no_master(site: Site, serve: Serve, command: str, pid: str) -> None:
    """Exit 2, one line that says whom it was looking for."""
    site.flip(site.release("41"))
    with open(site.path("empty.pid"), "w", encoding="utf-8"):
        pass
    where = pid if pid.isdigit() else site.path(pid)
    argv = (f"{site.current}/venv/bin/graceserve", command, "--pid", where)
    one_line(serve(Launch(argv, site.current)), 2, (where,))


def test_other_python_without_graceserve(site: Site, boot: Boot) -> None:
    """`--python` of an interpreter that has no graceserve: the reload says so."""
    python = other_python()
    server = boot()
    release = site.release("42")
    os.unlink(release.python)
    os.symlink(python, release.python)
    site.flip(release)
    done = server.reload()
    assert done.code == 1 and "graceserve" in done.text, done
    assert server.version()["release"] == "41"


def one_line(server: Server, code: int, says: tuple[str, ...]) -> None:
    """The server must end at once with this exit code and one line that has these words."""
    assert server.wait_exit() == code, server.log
    assert len(server.log.splitlines()) == 1, server.log
    missing = [word for word in says if word not in server.log]
    assert not missing, f"{missing} not in: {server.log}"
    assert not server.nursery.left()
