"""Connections that move between two workers under load: none is lost, and no byte of one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from graceserve.wire.channel import Channel
from graceserve.wire.messages import Accept, Drain, HandOver, WorkerReady
from tests.http.harness import REPOSITORY, Stage, Worker, eventually, stage


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
    old.drain(at.inbox(side))
    old.left()
    assert old.ended() == 0, old.log()
    assert "ERROR" not in old.log(), old.log()
    old.__exit__(None, None, None)
    return new


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_nothing_is_lost_when_generations_take_turns(threads: int, kind: str, tmp_path: Path) -> None:
    clients, turns = 100, 8

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
            old.drain(at.inbox(1))
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
            old.drain(at.inbox(1))
            assert old.ended() == 0
            client.send(b"GET /version HTTP/1.1\r\nHost: test\r\n\r\n")  # nobody reads: it lies in the inbox
            new.tell(Accept())
            assert client.response().body.startswith(b"8 ")


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
            old.drain(at.inbox(1))
            old.left()
            half.send(b"def")
            (tmp_path / "go").touch()
            assert client.response().body == b"went"
            assert half.response().body == b"abcdef"
            assert old.ended() == 0
            assert client.get("/version").body.startswith(b"8 ")
            assert half.get("/version").body.startswith(b"8 ")


def test_pipelined_requests_are_answered_before_the_connection_moves(tmp_path: Path) -> None:
    with stage() as at, at.worker(side=0) as old:
        old.accept()
        with at.connect() as client:
            first = f"GET /gate?{tmp_path} HTTP/1.1\r\nHost: test\r\n\r\n"
            client.send(first.encode() + b"GET /version HTTP/1.1\r\nHost: t\r\n\r\n" * 3)
            eventually((tmp_path / "entered").exists)
            old.drain(at.inbox(1))
            old.left()
            (tmp_path / "go").touch()
            assert client.response().body == b"went"
            assert [client.response().body[:2] for _ in range(3)] == [b"7 "] * 3
            assert old.ended() == 0
            with at.worker(side=1) as new:
                new.accept()
                assert client.get("/version").body.startswith(b"8 ")


def test_without_a_working_inbox_the_connection_is_closed_with_an_announcement() -> None:
    with stage() as at, at.worker(side=0) as old:
        old.accept()
        with at.connect() as client:
            client.get("/")
            for end in at.inboxes[1]:
                end.close()
            sender, receiver = Channel.pair()
            receiver.close()  # the successor died
            old.drain(sender)
            old.left()
            old.ping()  # it has read the terms, and tried
            answer = client.get("/")
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert client.closed()
            assert old.ended() == 0
            sender.close()


def test_a_full_inbox_is_tried_again() -> None:
    """More connections than the kernel queues in one inbox, and a successor that comes late."""
    clients = 400
    with stage() as at, at.worker(side=0) as old, at.worker(side=1) as new:
        old.accept()
        new.expect(WorkerReady)
        held = [at.connect() for _ in range(clients)]
        try:
            eventually(lambda: old.ping().connections == clients)
            old.drain(at.inbox(1))
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
        assert at.inbox(1).send(HandOver("x", "y"), [other.fileno()])
        assert at.inbox(1).send(HandOver("x", "y"))
        assert at.inbox(1).send(Drain())
        eventually(lambda: new.log().count("inbox-ignored") == 3)
        assert at.get("/").status == 200


def test_a_connection_from_a_listener_that_this_generation_does_not_have() -> None:
    with stage() as at, stage() as elsewhere, at.worker(side=1) as new:
        new.accept()
        elsewhere.listener.setblocking(True)
        with elsewhere.connect() as client:
            sock, _ = elsewhere.listener.accept()
            with sock:
                assert at.inbox(1).send(HandOver(elsewhere.name, "127.0.0.1", 1), [sock.fileno()])
            assert f"'SERVER_PORT': '{elsewhere.name.split(':')[1]}'".encode() in client.get("/dump").body
