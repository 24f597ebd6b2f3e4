"""Fixtures of the process tests: the stock (once a session), a site for each test, servers that are cleaned up."""

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from tests.process.components import open_python, other_python
from tests.process.nginx import Nginx
from tests.process.procs import Nursery, become_subreaper
from tests.process.releases import Site
from tests.process.server import Launch, Server, script_launch
from tests.process.stock import REPOSITORY, Stock, build_wheel, make_stock
from tests.process.web import free_address

Serve = Callable[[Launch], Server]
Boot = Callable[..., Server]


@pytest.fixture(scope="session")
def room() -> Iterator[str]:
    """A directory for the session's stock, on the file system of the sites (for hard links)."""
    path = _directory("gs-stock-")
    become_subreaper()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def wheel(room: str) -> str:
    """A wheel of this repository, built as a user's pip would."""
    return build_wheel(REPOSITORY, room)


@pytest.fixture(scope="session")
def stock(room: str, wheel: str) -> Stock:
    """What the server needs, and nothing else."""
    return make_stock(os.path.join(room, "plain"), wheel)


@pytest.fixture(scope="session")
def framework_stock(room: str, wheel: str) -> Stock:
    """With Django and Flask."""
    return make_stock(os.path.join(room, "frameworks"), wheel, frameworks=True)


@pytest.fixture(scope="session")
def other_stock(room: str, wheel: str) -> Stock:
    """Of another Python version."""
    return make_stock(os.path.join(room, "other"), wheel, other_python())


@pytest.fixture(scope="session")
def open_stock(room: str, wheel: str, stock: Stock) -> Stock:
    """Of a Python that every user may run."""
    python = open_python()
    own = python == os.path.realpath(sys.executable)
    return stock if own else make_stock(os.path.join(room, "open"), wheel, python)


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    """All processes of the test. A test that leaves one behind fails."""
    nursery = Nursery()
    yield nursery
    left = nursery.close()
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def site(stock: Stock) -> Iterator[Site]:
    """An empty site."""
    root = _directory("gs-")
    site = Site(root, stock)
    yield site
    for gate in site.gates:
        gate.open()
    shutil.rmtree(root)


@pytest.fixture
def serve(nursery: Nursery, site: Site) -> Iterator[Serve]:
    """Starts servers (without waiting for them); stops those that the test has not stopped."""
    servers: list[Server] = []

    def start(launch: Launch) -> Server:
        servers.append(Server(nursery, launch, site.path(f"log-{len(servers)}")))
        return servers[-1]

    yield start
    for server in servers:
        server.hang_up()
        _end(server)
        print(f"--- log of {server.pid}\n{server.log}")


@pytest.fixture
def boot(serve: Serve, site: Site) -> Boot:
    """`boot("--threads", "4")`: release 41 behind `current`, served by its console script, and ready."""

    def booted(*options: str, address: str = "", at_import: str = "", **env: str) -> Server:
        if not os.path.lexists(site.current):
            site.flip(site.release("41", at_import))
        return serve(script_launch(site.current, address or free_address(), *options, **env)).wait_ready()

    return booted


@pytest.fixture
def nginx(nursery: Nursery, site: Site) -> Iterator[Callable[[str], Nginx]]:
    """`nginx("unix:/path")`: a real nginx before that address."""
    started: list[Nginx] = []

    def start(upstream: str) -> Nginx:
        started.append(Nginx(nursery, site.path(f"nginx-{len(started)}"), upstream))
        return started[-1]

    yield start
    for one in started:
        one.stop()
        print(f"--- nginx error log\n{one.error_log[-5000:]}")


def _directory(prefix: str) -> str:
    path = os.path.realpath(tempfile.mkdtemp(prefix=prefix))
    os.chmod(path, 0o755)  # some tests run the server as another user
    return path


def _end(server: Server) -> None:
    """Quickly, and without mercy if it does not obey."""
    if server.process.poll() is not None:
        return
    server.process.terminate()
    server.send(signal.SIGINT)
    try:
        server.wait_exit(10)
    except AssertionError:
        server.process.kill()
        server.process.wait()
        raise
