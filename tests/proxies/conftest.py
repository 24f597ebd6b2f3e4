"""Fixtures: the lab, which the whole package shares, and the front that a test asks through."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.process.nginx import Nginx
from tests.process.procs import Nursery, become_subreaper
from tests.proxies.fronts import Front, Lab
from tests.proxies.proxies import Proxy


@pytest.fixture(scope="package")
def lab() -> Iterator[Lab]:
    """Servers and proxies, started when they are needed. One that is left behind, or ends badly, is an error."""
    become_subreaper()
    nursery = Nursery()
    root = os.path.realpath(tempfile.mkdtemp(prefix="gs-proxies-"))
    os.chmod(root, 0o755)  # Apache's children are another user
    lab = Lab(nursery, root)
    try:
        yield lab
        lab.close()
    finally:
        left = nursery.close()
        shutil.rmtree(root)
    assert not left, f"processes were left behind: {left}"


@pytest.fixture
def front(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Front]:
    """By its name, see `through`; what it and its server logged in the test is shown if the test fails."""
    front = lab.front(request.param)
    before = len(front.server.log)
    yield front
    print(f"--- log of the server\n{front.server.log[before:][-5000:]}")
    match front.proxy:
        case Nginx():
            print(f"--- nginx\n{front.proxy.error_log[-3000:]}")
        case Proxy():
            print(f"--- proxy\n{front.proxy.log[-3000:]}")
