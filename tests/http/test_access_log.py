"""The access log of a real worker: what it holds, when it is written, and its rotation."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from graceserve.wire.messages import Reopen, WorkerFailed
from tests.http.harness import Stage, eventually, stage


@pytest.fixture
def at() -> Iterator[Stage]:
    with stage() as made:
        yield made


@pytest.fixture(params=[1, 4], ids=["inline", "threads"])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def lines(path: Path, count: int) -> list[str]:
    """Once there are so many: they are written about a second after the first one."""

    def enough() -> bool:
        return path.exists() and path.read_text().count("\n") >= count

    eventually(enough)
    found = path.read_text().splitlines()
    assert len(found) == count, found
    return found


def test_each_request_has_its_line(at: Stage, tmp_path: Path, threads: int) -> None:
    path = tmp_path / "access.log"
    form = "%(m)s %(U)s?%(q)s %(H)s %(s)s %(B)s %({x-mark}i)s %({content-type}o)s"
    with at.worker(access_logfile=str(path), access_logformat=form, threads=threads) as worker:
        worker.accept()
        with at.connect() as client:
            client.get("/", X_Mark="one")
            client.get("/stream?3", X_Mark="two")
            client.get("/gone")
            client.get("/file?70000", X_Mark="three")
            client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc")
            client.response()
            client.send(b"HEAD / HTTP/1.1\r\nHost: t\r\n\r\n")
            client.response(head=True)
        assert lines(path, 6) == [
            "GET /? HTTP/1.1 200 5 one text/plain",
            "GET /stream?3 HTTP/1.1 200 24 two text/plain",
            "GET /gone? HTTP/1.1 404 4 - text/plain",
            "GET /file?70000 HTTP/1.1 200 70000 three text/plain",
            "POST /echo? HTTP/1.1 200 3 - text/plain",
            "HEAD /? HTTP/1.1 200 0 - text/plain",
        ]


def test_a_refused_request_and_an_error_have_theirs(at: Stage, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with at.worker(access_logfile=str(path), access_logformat="json") as worker:
        worker.accept()
        with at.connect() as client:
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            client.response()
        assert at.get("/raises").status == 500
        told = [json.loads(line) for line in lines(path, 2)]
        assert [row["status"] for row in told] == [400, 500]
        assert [row["remote_addr"] for row in told] == ["127.0.0.1", "127.0.0.1"]


def test_what_is_buffered_is_written_at_the_end(at: Stage, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    with at.worker(access_logfile=str(path), access_logformat="%(U)s") as worker:
        worker.accept()
        at.get("/moved")
        worker.drain()
        worker.left()
        assert worker.ended() == 0
        assert path.read_text() == "/moved\n"


def test_rotation(at: Stage, tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with at.worker(access_logfile=str(path), access_logformat="%(U)s") as worker:
        worker.accept()
        at.get("/")
        path.rename(old)
        worker.tell(Reopen())
        worker.ping()
        at.get("/moved")
        assert (lines(old, 1), lines(path, 1)) == (["/"], ["/moved"])


def test_a_log_that_can_t_be_opened_fails_the_worker(at: Stage, tmp_path: Path) -> None:
    with at.worker(access_logfile=str(tmp_path / "missing" / "access.log")) as worker:
        failed = worker.expect(WorkerFailed)
        assert failed.reason.startswith("--access-log ") and "No such file" in failed.reason
