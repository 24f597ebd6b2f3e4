"""Connections that move between two workers under load: none is lost, and no byte of one."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graceserve.wire.messages import Accept, Drain, HandOver, Outdated, WorkerReady
from graceserve.worker.lifecycle import INBOX_FULL_S
from tests.http.harness import REPOSITORY, Stage, Worker, eventually, passed, stage


class Load:
    """The load program."""

    def __init__(self, address: str, clients: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.http.load_program", address, str(clients)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def counts(self) -> dict[str, int]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"?")
        self.process.stdin.flush()
        return dict(json.loads(self.process.stdout.readline()))

    def end(self) -> dict[str, int]:
        out, _ = self.process.communicate(timeout=60)
        return dict(json.loads(out.splitlines()[-1]))


@contextmanager
def load(address: str, clients: int) -> Iterator[Load]:
    running = Load(address, clients)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        for pipe in (running.process.stdin, running.process.stdout):
            if pipe is not None:
                pipe.close()


def switch(at: Stage, old: Worker, side: int, **settings: object) -> Worker:
    """What a promotion is to two workers; the new one."""
    new = at.worker(side=side, **settings)
    new.expect(WorkerReady)
    new.tell(Accept())
    old.drain()
    old.left()
    assert old.ended() == 0, old.log()
    assert "ERROR" not in old.log(), old.log()
    old.__exit__(None, None, None)
    return new


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_nothing_is_lost_when_generations_take_turns(threads: int, kind: str, tmp_path: Path) -> None:
    clients, turns = 100, 5

    def all_moved_and_served(worker: Worker) -> None:
        before = running.counts()["good"]
        eventually(lambda: worker.ping().connections == clients)
        eventually(lambda: running.counts()["good"] > before + 2 * clients)

    with stage(f"{tmp_path}/s" if kind == "unix" else "") as at, load(at.name, clients) as running:
        serving = at.worker(threads=threads).accept()
        try:
            eventually(lambda: running.counts().get("good", 0) > clients)
            for turn in range(turns):
                serving = switch(at, serving, 1 - turn % 2, threads=threads)
                all_moved_and_served(serving)
            counts = running.end()
        finally:
            serving.__exit__(None, None, None)
    assert counts.get("lost", 0) == counts.get("wrong", 0) == 0, counts
    assert counts["connections"] == clients, f"closed instead of handed over: {counts}"


def test_an_idle_connection_does_not_notice() -> None:
    with stage() as at, at.worker(side=0) as old, at.worker(side=1) as new:
        old.accept()
        with at.connect() as client, at.connect() as fresh:
            assert client.get("/version").body.startswith(b"7 ")
            eventually(lambda: old.ping().connections == 2)
            new.expect(WorkerReady)
            new.tell(Accept())
            old.drain()
            old.left()
            assert old.ended() == 0
            for other in (client, fresh):  # also the one that has never sent a request
                answer = other.get("/version")
                assert answer.body.startswith(b"8 "), answer
                assert "connection" not in answer.headers
            assert b"'REMOTE_ADDR': '127.0.0.1'" in client.get("/dump").body
            assert f"'REMOTE_PORT': '{client.sock.getsockname()[1]}'".encode() in client.get("/dump").body


def test_bytes_that_arrive_between_two_owners_wait_in_the_kernel() -> None:
    with stage() as at, at.worker(side=0) as old, at.worker(side=1) as new:
        old.accept()
        new.expect(WorkerReady)
        with at.connect() as client:
            client.get("/")
            old.drain()
            assert old.ended() == 0
            client.send(b"GET /version HTTP/1.1\r\nHost: test\r\n\r\n")  # nobody reads: it lies in the inbox
            new.tell(Accept())
            assert client.response().body.startswith(b"8 ")


def test_who_is_outdated_leaves_the_inbox_to_the_newer() -> None:
    """But accepts, until it is drained: a roll goes from one worker to the next."""
    with stage() as at, at.worker(side=0) as other, at.worker(side=0) as old, at.worker(side=1) as new:
        old.accept()
        old.tell(Outdated())
        old.ping()
        other.expect(WorkerReady)
        other.tell(Accept())
        old.process.send_signal(signal.SIGSTOP)
        with at.connect() as client:
            assert client.get("/version").body == f"7 {other.pid}".encode()
            old.process.send_signal(signal.SIGCONT)
            other.drain()
            assert other.ended() == 0
            client.send(b"GET /version HTTP/1.1\r\nHost: test\r\n\r\n")
            assert at.get("/version").body == f"7 {old.pid}".encode()
            new.accept()
            assert client.response().body == f"8 {new.pid}".encode()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_busy_connection_moves_behind_its_response(threads: int, tmp_path: Path) -> None:
    """The order also comes while the loop thread is in the app (`threads=1`)."""
    with stage() as at, at.worker(side=0, threads=threads) as old, at.worker(side=1) as new:
        old.accept()
        with at.connect() as client, at.connect() as half:
            half.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabc")
            eventually(lambda: old.ping().connections == 2)
            client.send(f"GET /gate?{tmp_path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            eventually((tmp_path / "entered").exists)
            new.accept()
            old.drain()
            old.left()
            half.send(b"def")
            (tmp_path / "go").touch()
            assert client.response().body == b"went"
            assert half.response().body == b"abcdef"
            assert old.ended() == 0
            assert client.get("/version").body.startswith(b"8 ")
            assert half.get("/version").body.startswith(b"8 ")


def test_pipelined_requests_move_with_the_connection(tmp_path: Path) -> None:
    with stage() as at, at.worker(side=0) as old:
        old.accept()
        with at.connect() as client:
            first = f"GET /gate?{tmp_path} HTTP/1.1\r\nHost: test\r\n\r\n"
            client.send(first.encode() + b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n" * 3)
            eventually((tmp_path / "entered").exists)
            old.drain()
            old.left()
            (tmp_path / "go").touch()
            assert client.response().body == b"went"
            assert old.ended() == 0
            with at.worker(side=1) as new:
                new.accept()
                assert [client.response().body[:2] for _ in range(3)] == [b"8 "] * 3
                assert new.ping().requests == 3


@pytest.mark.parametrize(
    ("framing", "cut", "threads"),
    [("length", 1, 1), ("length", 40, 1), ("length", -26, 1), ("length", -1, 1), ("length", -13, 2), ("chunked", -1, 1),
     ("chunked", -4, 1), ("chunked", -13, 1), ("chunked", -26, 1), ("chunked", -42, 1), ("chunked", -47, 2),
     ("chunked", -54, 1)],
)  # fmt: skip
def test_a_request_moves_while_it_is_read(threads: int, cut: int, framing: str) -> None:
    """At each of its stages: in the head, behind it, in the body; in a trailer, a chunk's end, data, and size."""
    body = (b"Content-Length: 26\r\n\r\nabcdefghijklmnopqrstuvwxyz" if framing == "length" else
            b"Transfer-Encoding: chunked\r\n\r\n"
            b"a;x=1\r\nabcdefghij\r\n10\r\nklmnopqrstuvwxyz\r\n0\r\nX: y\r\n\r\n")  # fmt: skip
    raw = b"POST /echo HTTP/1.1\r\nHost: test\r\nX-Pad: 1234567890\r\n" + body
    with stage() as at, at.worker(side=0, threads=threads) as old, at.worker(side=1, threads=threads) as new:
        old.accept()
        with at.connect() as client:
            client.send(raw[:cut])
            eventually(lambda: old.ping().connections == 1)
            new.accept()
            old.drain()
            old.left()
            assert old.ended() == 0
            assert new.ping().requests == 0
            client.send(raw[cut:])
            assert client.response().body == b"abcdefghijklmnopqrstuvwxyz"
            assert client.get("/version").body.startswith(b"8 ")
            assert new.ping().requests == 2


def test_the_client_is_not_told_twice_to_go_on() -> None:
    with stage() as at, at.worker(side=0) as old, at.worker(side=1) as new:
        old.accept()
        with at.connect() as client:
            client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
            assert client.response().status == 100
            new.accept()
            old.drain()
            assert old.ended() == 0
            client.send(b"abc")
            answer = client.response()
            assert (answer.status, answer.body) == (200, b"abc")


def test_a_body_in_a_file_is_finished_where_it_is() -> None:
    size = 2 << 20
    with stage() as at, at.worker(side=0) as old, at.worker(side=1) as new:
        old.accept()
        with at.connect() as client:
            client.send(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size + b"x" * (1 << 20))
            eventually(lambda: old.ping().connections == 1)
            eventually(lambda: spooled(old.pid))
            new.accept()
            old.drain()
            old.left()
            client.send(b"y" * (1 << 20))
            assert client.response().body == b"x" * (1 << 20) + b"y" * (1 << 20)
            assert old.ended() == 0
            assert client.get("/version").body.startswith(b"8 ")


def links(pid: int) -> list[str]:
    """What its descriptors are."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(fd.readlink()))
        except FileNotFoundError:
            pass
    return found


def spooled(pid: int) -> bool:
    """Whether it holds a temporary file."""
    return any(link.startswith(tempfile.gettempdir()) for link in links(pid))


def sockets(pid: int) -> int:
    """How many it has open."""
    return sum(link.startswith("socket:") for link in links(pid))


@pytest.mark.parametrize("kind", ["idle", "queued"])
def test_requests_that_no_thread_has_begun_move(kind: str, tmp_path: Path) -> None:
    """Two threads are busy; what waits for one of them is served by the new generation, before they are through."""
    with stage() as at, at.worker(side=0, threads=2) as old, at.worker(side=1, threads=2) as new:
        old.accept()
        with at.connect() as one, at.connect() as two, at.connect() as third:
            for number, client in enumerate((one, two)):
                (room := tmp_path / str(number)).mkdir()
                client.send(f"GET /gate?{room} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                eventually((room / "entered").exists)
            eventually(lambda: old.ping().connections == 3)
            if kind == "queued":
                third.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\n\r\nabc")
                third.send(b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n")
                eventually(lambda: old.ping().busy == 3)
            new.accept()
            old.drain()
            old.left()
            if kind == "queued":
                assert third.response().body == b"abc"
                assert third.response().body.startswith(b"8 ")
            assert third.get("/version").body.startswith(b"8 ")
            for number, client in enumerate((one, two)):
                (tmp_path / str(number) / "go").touch()
                assert client.response().body == b"went"
                assert client.get("/version").body.startswith(b"8 ")
            assert old.ended() == 0


def test_where_nobody_empties_the_inbox_the_connection_is_closed_with_an_announcement(tmp_path: Path) -> None:
    with stage() as at, at.worker(side=0) as old:
        old.accept()
        with at.connect() as client:
            client.send(f"GET /gate?{tmp_path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            eventually((tmp_path / "entered").exists)
            old.drain()
            old.left()
            while at.inbox.put.send(HandOver()):
                pass
            (tmp_path / "go").touch()
            assert "connection" not in client.response().headers  # there may be room in a moment
            passed(INBOX_FULL_S + 0.2)
            answer = client.get("/")
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert client.closed()
            assert old.ended() == 0


def test_a_full_inbox_is_tried_again() -> None:
    """More connections than the kernel queues in one inbox, and a successor that comes late."""
    clients = 400
    with stage() as at, at.worker(side=0) as old, at.worker(side=1) as new:
        old.accept()
        new.expect(WorkerReady)
        held = [at.connect() for _ in range(clients)]
        try:
            eventually(lambda: old.ping().connections == clients)
            old.drain()
            old.left()
            eventually(lambda: 0 < old.ping().connections < clients)  # full
            new.tell(Accept())
            assert old.ended() == 0
            eventually(lambda: new.ping().connections == clients)
            assert all(client.get("/version").body.startswith(b"8 ") for client in held)
        finally:
            for client in held:
                client.sock.close()


def test_what_is_no_connection_is_refused_by_the_inbox() -> None:
    with stage() as at, at.worker(side=1) as new, open("/dev/null") as other:
        new.accept()
        assert at.inbox.put.send(HandOver("x", "y"), [other.fileno()])
        assert at.inbox.put.send(HandOver("x", "y"))
        assert at.inbox.put.send(Drain())
        eventually(lambda: new.log().count("inbox-ignored") == 3)
        assert at.get("/").status == 200


def test_a_connection_from_a_listener_that_this_generation_does_not_have() -> None:
    with stage() as at, stage() as elsewhere, at.worker(side=1) as new:
        new.accept()
        elsewhere.listener.setblocking(True)
        with elsewhere.connect() as client:
            sock, _ = elsewhere.listener.accept()
            with sock:
                assert at.inbox.put.send(HandOver(elsewhere.name, "127.0.0.1", 1), [sock.fileno()])
            assert f"'SERVER_PORT': '{elsewhere.name.split(':')[1]}'".encode() in client.get("/dump").body


@pytest.mark.parametrize("cut", [0, 12])
def test_a_connection_moves_before_and_in_its_proxy_header(cut: int) -> None:
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n"
    settings = {"proxy_protocol": "v1", "proxy_allow_ips": "*"}
    with stage() as at, at.worker(side=0, **settings) as old, at.worker(side=1, **settings) as new:
        old.accept()
        before = sockets(old.pid)
        with at.connect() as client:
            client.send(header[:cut])
            eventually(lambda: sockets(old.pid) > before)
            new.accept()
            old.drain()
            old.left()
            assert old.ended() == 0
            client.send(header[cut:])
            assert b"'REMOTE_ADDR': '192.0.2.7'" in client.get("/dump").body
            assert client.get("/version").body.startswith(b"8 ")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_stop_while_an_old_worker_drains(threads: int, tmp_path: Path) -> None:
    """What it has put into the inbox when nobody else takes anything any more, it takes out itself."""
    with stage() as at, at.worker(side=0, threads=threads) as old:
        old.accept()
        with at.connect() as busy, at.connect() as other:
            eventually(lambda: old.ping().connections == 2)
            busy.send(f"GET /gate?{tmp_path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            eventually((tmp_path / "entered").exists)
            old.drain()
            old.left()
            other.send(b"GET /version HTTP/1.1\r\nHost: test\r\n\r\n")
            old.drain(stop=True)
            (tmp_path / "go").touch()
            assert busy.response().body == b"went"
            assert other.response().body.startswith(b"7 ")
            assert old.ended() == 0


def test_noise_in_the_inbox_does_not_hold_up_a_stop() -> None:
    with stage() as at, at.worker(side=0) as worker:
        worker.expect(WorkerReady)
        assert at.inbox.put.send(HandOver("x", "y"))
        os.kill(worker.pid, signal.SIGSTOP)
        worker.tell(Accept())
        worker.drain(stop=True)
        os.kill(worker.pid, signal.SIGCONT)
        assert worker.ended() == 0
