"""What a worker asks of itself before it is ready."""

import gc
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from graceserve.config import Settings
from graceserve.logs import Log
from graceserve.wire.messages import WorkerFailed
from graceserve.worker.draining import Draining
from graceserve.worker.environ import constants
from graceserve.worker.filewrapper import FileWrapper
from graceserve.worker.http.heads import heads
from graceserve.worker.ledger import Ledger
from graceserve.worker.main import environs_of, limits_of, patience_of
from graceserve.worker.rehearsal import rehearse
from graceserve.worker.service import Service
from tests.http.harness import stage

STINGY = {
    "worker_connections": 1, "keep_alive": 0, "head_timeout": 0.001, "body_timeout": 0.001, "write_timeout": 0.001,
    "limit_request_line": 1, "limit_request_fields": 1, "limit_request_field_size": 1, "proxy_protocol": "v1",
}  # fmt: skip


@pytest.mark.parametrize("threads", [1, 4])
def test_nothing_of_it_is_seen(tmp_path: Path, threads: int) -> None:
    """Neither in the app's own counts nor in a log; options that would refuse it do not matter; nothing stays open."""
    access = tmp_path / "access"
    with stage() as at, at.worker(threads=threads, access_logfile=str(access), **STINGY) as worker:
        worker.accept()
        pong = worker.ping()
        assert (pong.requests, pong.connections, pong.busy) == (0, 0, 0)
        assert access.read_text() == ""
        assert "worker-bug" not in worker.log() and "refused" not in worker.log()
        pool = threads if threads > 1 else 0
        assert len(os.listdir(f"/proc/{worker.pid}/task")) == 1 + 1 + pool, "the loop's, the guard's, and the app's"


def test_it_closes_what_it_opens() -> None:
    """At once, and not when the collector comes by."""
    settings = Settings.load({"app": "tests.http.apps:app"})
    told = constants(1, 7, Draining(), sys.stderr, FileWrapper)
    service = Service(
        app=_never, environs=environs_of(settings, told), heads=heads(settings.http), limits=limits_of(settings),
        patience=patience_of(settings), settings=settings, connections_max=1, draining=Draining(), log=Log(),
        ledger=Ledger(0),
    )  # fmt: skip
    rehearse(service)  # what is opened once in the life of a process
    before = os.listdir("/proc/self/fd")
    gc.disable()
    try:
        rehearse(service)
        assert os.listdir("/proc/self/fd") == before
    finally:
        gc.enable()


def _never(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    raise AssertionError("the service's app is not asked")


def test_who_cannot_serve_is_not_ready() -> None:
    """A release that leaves no descriptors would take over a port that it can't serve."""
    with stage() as at, at.worker("tests.http.cramped:app") as worker:
        failed = worker.expect(WorkerFailed)
        assert "can't serve a request of its own" in failed.reason and "Too many open files" in failed.reason
        assert worker.ended() == 1
