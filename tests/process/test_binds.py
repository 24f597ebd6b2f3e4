"""Where it listens: TCP, IPv6, Unix sockets, inherited descriptors, systemd's, several at once, changed at a reload."""

import os
import socket
import stat
from dataclasses import replace

import pytest

from tests.process import web
from tests.process.components import missing
from tests.process.conftest import Boot, Serve
from tests.process.releases import Site
from tests.process.server import OPTIONS, Launch, script_launch
from tests.process.waiting import eventually
from tests.process.web import free_address, free_port, refused


@pytest.mark.parametrize(("mask", "mode"), [("0", 0o777), ("007", 0o770), ("0o77", 0o700), ("0x12", 0o755)])
def test_unix_socket_mode(site: Site, boot: Boot, mask: str, mode: int) -> None:
    path = site.path("app.sock")
    server = boot("--umask", mask, address=f"unix:{path}")
    assert stat.S_IMODE(os.stat(path).st_mode) == mode & 0o777
    assert server.version()["release"] == "41"
    server.stop()
    assert not os.path.exists(path)


def test_stale_unix_socket_is_replaced(site: Site, boot: Boot) -> None:
    path = site.path("app.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    server = boot(address=f"unix:{path}")
    assert server.version()["release"] == "41"


def test_live_unix_socket_is_refused(site: Site, serve: Serve, boot: Boot) -> None:
    """A second server does not take the first one's socket, nor removes it."""
    path = site.path("app.sock")
    first = boot(address=f"unix:{path}")
    second = serve(script_launch(site.current, f"unix:{path}"))
    assert second.wait_exit() == 2
    assert len(second.log.splitlines()) == 1 and path in second.log, second.log
    assert first.version()["release"] == "41"


def test_a_file_in_the_way_is_left_alone(site: Site, serve: Serve) -> None:
    path = site.path("app.sock")
    with open(path, "w", encoding="utf-8") as file:
        file.write("precious\n")
    site.flip(site.release("41"))
    server = serve(script_launch(site.current, f"unix:{path}"))
    assert server.wait_exit() == 2
    assert len(server.log.splitlines()) == 1 and path in server.log, server.log
    with open(path, encoding="utf-8") as file:
        assert file.read() == "precious\n"


def test_unix_socket_survives_reloads_and_reexec(site: Site, boot: Boot) -> None:
    path = site.path("app.sock")
    server = boot(address=f"unix:{path}")
    inode = os.stat(path).st_ino
    for name in ("42", "43"):
        site.flip(site.release(name))
        server.reload_ok()
    assert os.stat(path).st_ino == inode
    assert server.version()["release"] == "43"


def test_relative_unix_socket_is_the_sites(site: Site, serve: Serve) -> None:
    """Relative to the logical directory, in which the server was started."""
    site.flip(site.release("41"))
    launch = script_launch(site.current, "unix:app.sock")
    server = serve(replace(launch, address=f"unix:{site.current}/app.sock")).wait_ready()
    assert server.version()["release"] == "41"


def test_ipv6(boot: Boot) -> None:
    if not os.path.exists("/proc/net/if_inet6"):
        missing("this machine has no IPv6")
    server = boot(address=f"[::1]:{free_port()}")
    assert server.version()["release"] == "41"


def test_several(site: Site, boot: Boot) -> None:
    path, other = site.path("app.sock"), free_address()
    server = boot("--bind", other, "--bind", f"unix:{path}")
    for address in (server.address, other, f"unix:{path}"):
        assert web.get(address).json["release"] == "41"
    assert len(server.status()["listeners"]) == 3
    server.stop()
    for address in (server.address, other, f"unix:{path}"):
        eventually(lambda address=address: refused(address), what=f"{address} is free")


def test_inherited_descriptor(site: Site, serve: Serve) -> None:
    """`fd://N`, as Circus does it; kept over a reload."""
    site.flip(site.release("41"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, address = listener.fileno(), "127.0.0.1:%d" % listener.getsockname()[1]  # noqa: UP031
        launch = replace(script_launch(site.current, f"fd://{fd}"), address=address, pass_fds=(fd,))
        server = serve(launch).wait_ready()
    assert server.version()["release"] == "41"
    site.flip(site.release("42"))
    server.reload_ok()
    assert server.version()["release"] == "42"
    server.stop()
    assert refused(address)


def test_not_a_descriptor(site: Site, serve: Serve) -> None:
    site.flip(site.release("41"))
    server = serve(script_launch(site.current, "fd://77"))
    assert server.wait_exit() == 2
    assert len(server.log.splitlines()) == 1 and "fd://77" in server.log, server.log


def test_systemd_sockets(site: Site, serve: Serve) -> None:
    """LISTEN_FDS, as `sd_listen_fds(3)` has it: descriptor 3, and LISTEN_PID is the process itself."""
    site.flip(site.release("41"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd, address = listener.fileno(), "127.0.0.1:%d" % listener.getsockname()[1]  # noqa: UP031
        program = f"{site.current}/venv/bin/graceserve app {' '.join(OPTIONS)}"
        command = f"exec 3<&{fd} {fd}<&-; LISTEN_FDS=1 LISTEN_PID=$$ exec {program}"
        launch = Launch(("bash", "-c", command), site.current, site.current, address=address, pass_fds=(fd,))
        server = serve(launch).wait_ready()
    assert server.version()["release"] == "41"
    assert web.get(address, "/env?LISTEN_FDS").json["value"] is None
    site.flip(site.release("42"))
    server.reload_ok()
    assert server.version()["release"] == "42"


def test_binds_change_at_a_reload(site: Site, serve: Serve) -> None:
    """From the TOML file: one stays, one goes, one comes; a failing one changes nothing."""
    stays, goes, comes = free_address(), free_address(), free_address()
    releases = [site.release(name) for name in ("41", "42", "43")]
    for release, binds in zip(releases, ([stays, goes], [stays, comes], [stays, comes, "203.0.113.9:80"]), strict=True):
        release.write("graceserve.toml", f"bind = {binds!r}\nworkers = 2\n")
    site.flip(releases[0])
    argv = (f"{site.current}/venv/bin/graceserve", "app")
    server = serve(Launch(argv, site.current, site.current, address=stays)).wait_ready()
    assert [web.get(address).json["release"] for address in (stays, goes)] == ["41", "41"]
    site.flip(releases[1])
    server.reload_ok()
    assert [web.get(address).json["release"] for address in (stays, comes)] == ["42", "42"]
    eventually(lambda: refused(goes), what="the bind that went is closed")
    site.flip(releases[2])
    done = server.reload()
    assert done.code == 1 and "203.0.113.9:80" in done.text, done
    assert [web.get(address).json["release"] for address in (stays, comes)] == ["42", "42"]


def test_a_new_bind_of_a_broken_release_is_closed_again(site: Site, serve: Serve) -> None:
    stays, comes = free_address(), free_address()
    releases = [site.release("41"), site.release("42", "raise RuntimeError('boom')")]
    for release, binds in zip(releases, ([stays], [stays, comes]), strict=True):
        release.write("graceserve.toml", f"bind = {binds!r}\n")
    site.flip(releases[0])
    argv = (f"{site.current}/venv/bin/graceserve", "app")
    server = serve(Launch(argv, site.current, site.current, address=stays)).wait_ready()
    site.flip(releases[1])
    assert server.reload().code == 1
    eventually(lambda: refused(comes), what="the broken release's bind is closed")
    assert server.version()["release"] == "41"
