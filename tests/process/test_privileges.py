"""Who the server runs as, and whom its control socket answers."""

import os
import pwd
import subprocess
import sys

import pytest

from tests.process.conftest import Boot, Serve
from tests.process.procs import look_up
from tests.process.releases import Site
from tests.process.server import script_launch
from tests.process.stock import REPOSITORY, Stock, environ
from tests.process.web import free_address

NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


@pytest.fixture
def open_site(site: Site, open_stock: Stock) -> Site:
    """A site whose releases any user may run; release 41 is current."""
    open_site = Site(site.root, open_stock)
    open_site.flip(open_site.release("41"))
    return open_site


def _ids(pid: int) -> dict[str, list[int]]:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        rows = dict(line.split(":", 1) for line in file if ":" in line)
    return {name: [int(word) for word in rows[name].split()] for name in ("Uid", "Gid", "Groups")}


@as_root
def test_user_and_group(open_site: Site, boot: Boot) -> None:
    """Bound as root, then all of it drops for good, also after a reload and a re-exec."""
    options = ("--user", "nobody", "--group", str(NOBODY.pw_gid), "--umask", "077")
    server = boot(*options, address=f"unix:{open_site.path('app.sock')}")
    for name in ("41", "42"):
        if name == "42":
            open_site.flip(open_site.release("42"))
            server.reload_ok()
        for pid in (server.pid, *(proc.pid for proc in server.processes())):
            ids = _ids(pid)
            assert ids["Uid"] == [NOBODY.pw_uid] * 4 and ids["Gid"] == [NOBODY.pw_gid] * 4, (look_up(pid), ids)
            assert 0 not in ids["Groups"], ids
    assert server.version()["release"] == "42"


@as_root
def test_release_code_never_runs_as_root(site: Site, open_stock: Stock, serve: Serve) -> None:
    """Not even at import, with --preload and --prepare."""
    site.flip(site.release("41", "assert os.getuid() != 0 and 0 not in os.getgroups(), 'root'", stock=open_stock))
    options = ("--user", "nobody", "--preload", "--prepare", "test $(id -u) != 0")
    server = serve(script_launch(site.current, free_address(), *options)).wait_ready()
    assert server.version()["uid"] == NOBODY.pw_uid


@as_root
@pytest.mark.parametrize("command", ["status", "reload", "stop"])
def test_the_control_socket_refuses_other_users(open_site: Site, boot: Boot, command: str) -> None:
    server = boot()
    done = _as_nobody(open_site, command, server.pid)
    assert done.returncode == 2, done
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr, done
    assert server.version()["release"] == "41"


@as_root
def test_the_user_it_runs_as_may_ask(open_site: Site, boot: Boot) -> None:
    server = boot("--user", "nobody")
    done = _as_nobody(open_site, "status", server.pid)
    assert done.returncode == 0 and "releases/41" in done.stdout, done
    assert server.command("status").code == 0  # and root may


@as_root
def test_a_squatter_of_the_name_is_not_believed() -> None:
    """Somebody else's socket under the control name of a pid: the client does not talk to it."""
    code = (
        "import os, socket, subprocess, sys\n"
        f"sys.path.insert(0, {REPOSITORY!r})\n"
        "from graceserve.wire.control_name import abstract_name\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "sock.bind(abstract_name(999999))\n"
        "sock.listen(8)\n"
        f"sys.exit(subprocess.run([{sys.executable!r}, '-m', 'graceserve', 'status', '--pid', '999999'],"
        f" cwd={REPOSITORY!r}, timeout=20).returncode)\n"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=environ(), capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done


def _as_nobody(site: Site, command: str, pid: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [f"{site.current}/venv/bin/graceserve", command, "--pid", str(pid)], cwd="/", env=environ(), check=False,
        user=NOBODY.pw_uid, group=NOBODY.pw_gid, extra_groups=[], capture_output=True, text=True, timeout=30,
    )  # fmt: skip
