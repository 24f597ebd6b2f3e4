"""What systemd is told (sd_notify(3)), its socket activation by its own tool, and the example unit."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.process import web
from tests.process.components import require
from tests.process.conftest import Boot, Serve
from tests.process.releases import Site
from tests.process.server import OPTIONS, Launch
from tests.process.stock import REPOSITORY
from tests.process.waiting import eventually


class Manager:
    """The end of NOTIFY_SOCKET that systemd would hold."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(path)
        self._sock.setblocking(False)
        self.told: list[dict[str, str]] = []

    def saw(self, key: str, value: str) -> bool:
        """Whether a message said so (so far)."""
        self._take()
        return any(message.get(key) == value for message in self.told)

    def forget(self) -> None:
        """What was said until now does not count any more."""
        self._take()
        self.told.clear()

    def close(self) -> None:
        """Hang up."""
        self._sock.close()

    def _take(self) -> None:
        while True:
            try:
                text = self._sock.recv(4096).decode()
            except BlockingIOError:
                return
            self.told.append(dict(line.split("=", 1) for line in text.splitlines()))


@pytest.fixture
def manager(site: Site) -> Iterator[Manager]:
    """Listens as systemd does."""
    manager = Manager(site.path("notify"))
    yield manager
    manager.close()


def test_ready_reloading_stopping(site: Site, boot: Boot, manager: Manager) -> None:
    """READY=1 when the workers are, RELOADING=1 with MONOTONIC_USEC and READY=1 again, STOPPING=1."""
    server = boot(NOTIFY_SOCKET=manager.path)
    assert manager.saw("READY", "1")
    manager.forget()
    site.flip(site.release("42"))
    server.reload_ok()
    assert manager.saw("RELOADING", "1") and manager.saw("READY", "1"), manager.told
    assert int(next(one["MONOTONIC_USEC"] for one in manager.told if "RELOADING" in one)) > 0
    assert any("releases/42" in one.get("STATUS", "") for one in manager.told)
    manager.forget()
    site.flip(site.release("43", "raise RuntimeError('boom of 43')"))
    assert server.reload().code == 1
    assert manager.saw("READY", "1")
    assert any("boom of 43" in one.get("STATUS", "") for one in manager.told), manager.told
    server.stop()
    assert manager.saw("STOPPING", "1")


def test_not_ready_before_the_workers(site: Site, serve: Serve, manager: Manager) -> None:
    gate = site.gate("import")
    site.flip(site.release("41", f"hold({gate.path!r})"))
    address = web.free_address()
    argv = (f"{site.current}/venv/bin/graceserve", "app", "--bind", address, *OPTIONS)
    server = serve(Launch(argv, site.current, site.current, {"NOTIFY_SOCKET": manager.path}, address))
    gate.wait_for(2)
    assert not manager.saw("READY", "1")
    gate.open()
    eventually(lambda: manager.saw("READY", "1"), what="READY=1")
    assert server.version()["release"] == "41"


def test_watchdog(boot: Boot, manager: Manager) -> None:
    """WATCHDOG=1 goes on, also after a re-exec; the app does not see the variables."""
    server = boot(NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="200000")
    for _ in range(2):
        manager.forget()
        eventually(lambda: manager.saw("WATCHDOG", "1"), 5, "WATCHDOG=1")
        server.send(signal.SIGUSR2)
        server.wait_log("reexec ")
        server.wait_whole()
    assert [server.get(f"/env?{name}").json["value"] for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC")] == [None, None]


def test_socket_activation(site: Site, serve: Serve) -> None:
    """`systemd-socket-activate` binds; the first connection starts the server; it survives a reload."""
    program = require("systemd-socket-activate", "systemd")
    site.flip(site.release("41"))
    address = web.free_address()
    argv = (program, "--listen", address, f"{site.current}/venv/bin/graceserve", "app", *OPTIONS)
    server = serve(Launch(argv, site.current, site.current, address=address))
    server.wait_log("Listening on")
    assert server.version()["release"] == "41"
    site.flip(site.release("42"))
    server.wait_ready().reload_ok()
    assert server.version()["release"] == "42"
    server.stop()


def test_the_example_unit() -> None:
    """`systemd-analyze verify` has nothing against it, but that its program is not installed on this machine."""
    program = require("systemd-analyze", "systemd")
    unit = os.path.join(REPOSITORY, "examples/systemd/app.service")
    done = subprocess.run([program, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "app.service" in line and "not executable" not in line]
    assert complaints == []
