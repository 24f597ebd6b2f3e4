"""Who starts, and who ends, lets those that serve go first on a busy core."""

import os
import platform
import re
import signal

import pytest

from tests.process.conftest import Boot
from tests.process.releases import Site
from tests.process.server import finish

OWN_NICE = 3


def _slices(pid: int) -> set[int]:
    """Nanoseconds, of all its threads; sched(7)."""
    found = set()
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/sched", encoding="ascii") as file:
            match = re.search(r"se\.slice +: +(\d+)", file.read())
        assert match, "no slice"
        found.add(int(match[1]))
    return found


def _nice(pid: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, pid)


@pytest.fixture
def default_ns() -> int:
    """What a process has that asked for nothing. Before Linux 6.12 slices can't be asked for."""
    release = tuple(map(int, re.findall(r"\d+", platform.release())[:2]))
    if release < (6, 12) or not os.path.exists("/proc/self/sched"):
        pytest.skip(f"this kernel ({platform.release()}) has no slices, or does not show them")
    [slice_ns] = _slices(os.getpid())
    return slice_ns


@pytest.mark.parametrize("threads", ["1", "4"])
def test_long_slices_until_it_serves(site: Site, boot: Boot, default_ns: int, threads: str) -> None:
    server = boot("--workers", "1", "--threads", threads)
    [old] = server.worker_pids()
    assert _slices(old) == {default_ns}
    assert min(_slices(server.pid)) > default_ns
    before = {proc.pid for proc in server.processes()}
    gate = site.gate("import")
    site.flip(site.release("42", f"hold({gate.path!r})"))
    waiting = server.begin("reload")
    gate.wait_for(1)
    starting = {proc.pid for proc in server.processes()} - before
    assert len(starting) == 2, "a template and its worker"
    assert all(min(_slices(pid)) > default_ns for pid in starting)
    assert _slices(old) == {default_ns}
    gate.open()
    assert finish(waiting).code == 0
    [new] = server.worker_pids()
    assert new in starting
    assert _slices(new) == {default_ns}, "its threads, too"


def test_at_its_end_it_is_nicer(site: Site, boot: Boot) -> None:
    """As long as that takes; what the operator gave it counts."""
    gate = site.gate("end")
    ends = f"import atexit; atexit.register(hold, {gate.path!r})"
    server = boot("--workers", "1", at_import=f"os.nice({OWN_NICE}); {ends}")
    [old] = server.worker_pids()
    assert _nice(old) == OWN_NICE
    site.flip(site.release("42"))
    assert server.reload().code == 0
    gate.wait_for(1)
    assert _nice(old) > OWN_NICE
    [new] = server.worker_pids()
    assert _nice(new) == 0
    gate.open()
    server.wait_whole()


def test_where_nobody_serves_on_it_is_not(site: Site, boot: Boot) -> None:
    gate = site.gate("end")
    server = boot("--workers", "1", at_import=f"import atexit; atexit.register(hold, {gate.path!r})")
    [worker] = server.worker_pids()
    server.send(signal.SIGTERM)
    gate.wait_for(1)
    assert _nice(worker) == 0
    gate.open()
    assert server.wait_exit() == 0
