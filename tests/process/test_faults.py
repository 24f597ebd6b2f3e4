"""What the world may do to a master that must never fail: no descriptors, FIFOs, noise, a closed stderr."""

import os
import resource
import signal
import socket
import subprocess
import sys

import pytest

from graceserve.wire.control_name import abstract_name
from tests.process.conftest import Boot, Serve
from tests.process.procs import fd_count
from tests.process.procs import fds as descriptors
from tests.process.releases import Site
from tests.process.server import Launch, Server, counted, finish, script_launch
from tests.process.waiting import eventually
from tests.process.web import free_address, refused


def limit_descriptors(server: Server, soft: int) -> int:
    """Set RLIMIT_NOFILE of the running master; what it was."""
    before, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
    return before


def serves_and_stops(server: Server) -> None:
    """It is well: another reload switches, and a TERM is obeyed."""
    server.reload_ok()
    assert server.version()["release"] == "41"
    server.stop()


@pytest.mark.parametrize("option", ["--env-file", "--config"])
def test_a_fifo_in_the_place_of_a_file(site: Site, boot: Boot, option: str) -> None:
    """Opening one waits for a writer: the master must not."""
    path = site.path("settings")
    with open(path, "w", encoding="utf-8"):
        pass
    server = boot(option, path)
    os.unlink(path)
    os.mkfifo(path)
    done = server.reload()
    assert done.code == 1 and "not a regular file" in done.text, done
    os.unlink(path)
    with open(path, "w", encoding="utf-8"):
        pass
    serves_and_stops(server)


def test_no_descriptors_left_at_a_reload(boot: Boot) -> None:
    """The reload fails with a verdict; afterwards everything works again."""
    server = boot()
    before = limit_descriptors(server, counted(server) + 2)
    waiting = server.begin("reload")
    done = finish(waiting)
    assert done.code == 1 and "Too many open files" in done.text, done
    limit_descriptors(server, before)
    serves_and_stops(server)


def test_more_workers_than_descriptors(site: Site, serve: Serve) -> None:
    """The first start fails, and leaves nothing behind."""
    site.flip(site.release("41"))
    launch = script_launch(site.current, free_address(), "--workers", "60")
    argv = ("prlimit", "--nofile=64", *launch.argv)
    server = serve(Launch(argv, site.current, site.current, {}, launch.address))
    assert server.wait_exit() == 1
    assert "Too many open files" in server.log


def test_usr2_without_descriptors_for_it(boot: Boot) -> None:
    """It stays what it is, says why, and is not deaf afterwards."""
    server = boot()
    before = limit_descriptors(server, counted(server) + 8)
    server.send(signal.SIGUSR2)
    server.wait_log("reexec-failed")
    limit_descriptors(server, before)
    serves_and_stops(server)


def test_control_clients_without_descriptors(boot: Boot) -> None:
    """Who can't be let in is sent away; the master does not spin on him."""
    server = boot()
    counted(server)
    taken = descriptors(server.pid)
    before = limit_descriptors(server, next(number for number in range(len(taken) + 1) if number not in taken))
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sock:
        sock.connect(abstract_name(server.pid))
        sock.settimeout(5.0)
        assert sock.recv(100) == b""
    limit_descriptors(server, before)
    serves_and_stops(server)


def test_noise_on_the_control_socket(boot: Boot) -> None:
    server = boot()
    fds = counted(server)
    lines = [b"", b"{}", b"\xff" * 100_000, b'[1,"Boot",{"settings":7}]', b'[1,"Forked",{}]']
    for noise in [b"[" * 60_000] * 120 + lines:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(abstract_name(server.pid))
            sock.send(noise)
    # not `counted`: a master that waits for a processor looks steady while it has not read the last of them yet
    eventually(lambda: fd_count(server.pid) == fds, what=f"{fds} descriptors again, as before")
    serves_and_stops(server)


def test_a_descriptor_named_at_a_reload(site: Site, serve: Serve) -> None:
    """fd://5 is the master's own by then: it is refused, and nothing of the master's is closed."""
    path, address = site.path("settings.toml"), free_address()
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'bind = ["{address}"]\n')
    site.flip(site.release("41"))
    argv = (os.path.join(site.current, "venv/bin/graceserve"), "app:application", "--config", path)
    server = serve(Launch(argv, site.current, site.current, {}, address)).wait_ready()
    fds = counted(server)
    for number in range(3, fds + 3):
        with open(path, "w", encoding="utf-8") as file:
            file.write(f'bind = ["fd://{number}"]\n')
        done = server.reload()
        assert done.code == 1 and f"fd://{number}" in done.text, done
    assert counted(server) == fds
    os.unlink(path)


def test_hup_during_a_stop_binds_nothing(site: Site, boot: Boot) -> None:
    """systemd's SendSIGHUP= does this. The port stays free for the next master."""
    server = boot()
    gate = site.gate("request")
    busy = server.dial()
    busy.begin(f"/hold?{gate.path}")
    gate.wait_for()
    server.send(signal.SIGTERM)
    server.wait_log("stopping")
    server.send(signal.SIGHUP)
    server.wait_log("by=SIGHUP")
    done = server.reload()
    assert done.code == 1 and "stop" in done.text, done
    gate.open()
    assert busy.finish().status == 200
    assert server.wait_exit() == 0
    eventually(lambda: refused(server.address), what="the port is free")
    assert "bug" not in server.log


def test_a_stale_control_socket_is_replaced_and_a_live_one_refused(site: Site, serve: Serve) -> None:
    path = site.path("control.sock")
    site.flip(site.release("41"))
    server = serve(script_launch(site.current, free_address(), "--control-socket", path))
    server.wait_log("promoted")
    rival = serve(script_launch(site.current, free_address(), "--control-socket", path))
    assert rival.wait_exit() == 2
    assert "--control-socket" in rival.log and "another server listens there" in rival.log
    server.send(signal.SIGKILL)
    server.wait_exit()
    second = serve(script_launch(site.current, free_address(), "--control-socket", path))
    second.wait_log("promoted")
    argv = [sys.executable, "-m", "graceserve", "status", "--control-socket", path]
    done = subprocess.run(argv, capture_output=True, timeout=20, check=False)
    assert done.returncode == 0, done
    second.stop()
    assert not os.path.exists(path)


def test_what_prepare_prints_does_not_hide_the_cause(site: Site, boot: Boot) -> None:
    server = boot("--prepare", "echo migrated nothing")
    site.flip(site.release("42", "raise RuntimeError('the true cause')"))
    done = server.reload()
    assert done.code == 1
    assert "raise RuntimeError('the true cause')" in done.text, done
    assert "migrated nothing" not in done.text.partition("reload failed")[2]


def test_a_longer_verdict_than_a_message(site: Site, boot: Boot) -> None:
    """Whatever the release raises, its verdict arrives."""
    server = boot()
    site.flip(site.release("42", "raise RuntimeError('\\N{SNOWMAN}' * 200_000)"))
    done = server.reload()
    assert done.code == 1 and "RuntimeError" in done.text, done.text[:300]
    assert server.command("status").code == 0


def test_one_worker_is_ready_long_before_the_other(site: Site, boot: Boot) -> None:
    """Progress is each process's own: one that is ready takes no progress away from one that still burns CPU."""
    server = boot("--startup-timeout", "2")
    site.flip(site.release("42", BUSY_ONCE.format(flag=site.path("first"))))
    done = server.reload()
    assert done.code == 0, done
    assert server.version()["release"] == "42"


BUSY_ONCE = """
import time
try:
    os.close(os.open({flag!r}, os.O_CREAT | os.O_EXCL))
except FileExistsError:
    _end = time.process_time() + 4
    while time.process_time() < _end:
        pass
"""


def test_a_closed_stderr(site: Site, serve: Serve) -> None:
    """Descriptor 2 must not become a socket of ours, into which the log would then go."""
    site.flip(site.release("41"))
    launch = script_launch(site.current, free_address())
    argv = ("/bin/sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", *launch.argv)
    server = serve(Launch(argv, site.current, site.current, {}, launch.address))
    eventually(lambda: server.get().status == 200, what="an answer")
    for number in (0, 1, 2):
        assert os.readlink(f"/proc/{server.pid}/fd/{number}") == "/dev/null"
    assert fd_count(server.pid) > 3
    server.reload_ok()
    server.stop()
