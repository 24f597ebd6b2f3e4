"""A worker's life: boot, signals, drains, the master's death."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from graceserve.stacks import DUMP_SIGNAL
from graceserve.wire.channel import close_all
from graceserve.wire.messages import Accept, Drain, HandOver, Leaving, Reopen, Unknown, WorkerFailed, WorkerReady
from graceserve.worker.lifecycle import ANSWER_S
from tests.http.harness import Client, Stage, Worker, eventually, passed, stage

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
DEAF_TO = [signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU,
           signal.SIGWINCH]  # fmt: skip


def enter_gate(client: Client, directory: Path) -> None:
    """A request that holds an app thread, with `threads=1` the worker's only one, until `directory/go` exists."""
    client.send(f"GET /gate?{directory} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
    eventually((directory / "entered").exists)


def listens(at: Stage, worker: Worker) -> bool:
    """Whether the worker has the listener open."""
    mine = os.fstat(at.listener.fileno()).st_ino
    links = []
    for fd in Path(f"/proc/{worker.pid}/fd").iterdir():
        try:
            links.append(os.readlink(fd))
        except FileNotFoundError:
            pass
    return f"socket:[{mine}]" in links


# --- boot


@pytest.mark.parametrize("preload", [False, True])
def test_boot_says_hello_then_ready_and_serves_only_when_promoted(preload: bool) -> None:
    with stage() as at, at.worker(preload=preload, name="shop") as worker, at.connect() as client:
        ready = worker.expect(WorkerReady)
        assert ready.import_s >= 0
        title = Path(f"/proc/{worker.pid}/cmdline").read_bytes().rstrip(b"\0")
        assert title == b"graceserve: worker 1 gen 7 [shop]"
        client.send(GET)
        assert worker.ping().connections == 0, "accepted before it was promoted"
        worker.tell(Accept())
        assert client.response().status == 200


@pytest.mark.parametrize(
    ("app", "reason"),
    [
        ("tests.http.nowhere:app", "importing tests.http.nowhere"),
        ("tests.http.apps:nothing", "no attribute nothing"),
        ("tests.http.exits:app", "sys.exit"),
    ],
)
def test_an_app_that_does_not_boot_is_told(app: str, reason: str) -> None:
    with stage() as at, at.worker(app) as worker:
        failed = worker.expect(WorkerFailed)
        assert reason in failed.reason and "\n" not in failed.reason
        assert worker.ended() == 1


def test_the_app_s_own_signal_handlers_do_not_stay() -> None:
    with stage() as at, at.worker("tests.http.greedy:app") as worker:
        worker.accept()
        for number in DEAF_TO:
            worker.process.send_signal(number)
        worker.ping()
        worker.term()
        worker.left()
        assert worker.ended() == 0


def test_a_warm_up_may_name_the_host() -> None:
    with stage() as at, at.worker(warmup=("http://shop.example/shop-only",)) as worker:
        assert worker.expect(WorkerReady).warmup_s > 0
    with stage() as at, at.worker(warmup=("/shop-only",)) as worker:
        assert worker.expect(WorkerFailed).reason == "warm-up GET /shop-only: 400 Bad Request"


def test_warm_up_reaches_the_app() -> None:
    with stage() as at, at.worker(warmup=("/", "/stream?3", "/dump", "/moved")) as worker:
        assert worker.expect(WorkerReady).warmup_s > 0


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/raises?x", "warm-up GET /raises?x: 500 Internal Server Error"),
        ("/broken-stream", "warm-up GET /broken-stream: the response broke off"),
        ("/no-such-page", "warm-up GET /no-such-page: 500 Internal Server Error"),
    ],
)
def test_a_warm_up_that_fails_is_told_with_its_traceback(path: str, reason: str) -> None:
    with stage() as at, at.worker(warmup=("/", path)) as worker:
        failed = worker.expect(WorkerFailed)
        assert failed.reason == reason
        assert "Traceback" in failed.detail and "apps.py" in failed.detail
        assert worker.ended() == 1


def test_a_warm_up_that_the_app_does_not_know_fails() -> None:
    """Else a typo in the path would warm nothing up, and nobody would know."""
    with stage() as at, at.worker(warmup=("/", "/gone")) as worker:
        assert worker.expect(WorkerFailed).reason == "warm-up GET /gone: 404 Not Found"
        assert worker.ended() == 1


# --- signals


@pytest.mark.parametrize("state", ["ready", "idle", "busy"])
def test_the_group_s_signals_are_ignored(state: str, tmp_path: Path) -> None:
    with stage() as at, at.worker() as worker, at.connect() as client:
        worker.expect(WorkerReady)
        if state != "ready":
            worker.tell(Accept())
            worker.ping()
        if state == "busy":
            enter_gate(client, tmp_path)
        for number in DEAF_TO:
            worker.process.send_signal(number)
        if state == "busy":
            (tmp_path / "go").touch()
            assert client.response().body == b"went"
        worker.ping()
        assert worker.process.poll() is None


def test_children_of_the_app_do_not_inherit_ignored_signals() -> None:
    with stage() as at, at.worker("tests.http.greedy:app") as worker:
        worker.accept()
        mask = int(at.get("/").body, 16)
        for number in (*DEAF_TO, signal.SIGTERM, signal.SIGQUIT):
            assert not mask >> (number - 1) & 1, number


@pytest.mark.parametrize("state", ["importing", "ready", "idle", "busy", "draining"])
def test_quit_ends_at_once_after_the_atexit_hooks(state: str, tmp_path: Path) -> None:
    app = "tests.http.slow_import:app" if state == "importing" else "tests.http.greedy:app"
    os.environ["GREEDY_MARK"] = str(tmp_path / "atexit")
    try:
        with stage() as at, at.worker(app) as worker, at.connect() as client:
            if state == "importing":
                eventually((tmp_path / "atexit.importing").exists)
            else:
                worker.expect(WorkerReady)
            if state in ("idle", "busy", "draining"):
                worker.tell(Accept())
                worker.ping()
            if state in ("busy", "draining"):
                client.send(b"GET /hang HTTP/1.1\r\nHost: t\r\n\r\n")
                eventually((tmp_path / "atexit.hanging").exists)
            if state == "draining":
                worker.drain()
                worker.left()
            began = time.monotonic()
            worker.process.send_signal(signal.SIGQUIT)
            assert worker.ended() == 0
            assert time.monotonic() - began < 1.5
            assert (tmp_path / "atexit").exists()
    finally:
        del os.environ["GREEDY_MARK"]


# --- leaving


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("by_hand", [False, True])
def test_leaving_is_said_while_a_request_runs(threads: int, by_hand: bool, tmp_path: Path) -> None:
    """From there on the worker does not accept: what comes waits in the listener for others."""
    with stage() as at, at.worker(threads=threads) as worker, at.connect() as client:
        worker.accept()
        enter_gate(client, tmp_path)
        if by_hand:
            worker.term()
        else:
            worker.drain()
        worker.left()
        with at.connect() as late:
            late.send(GET)
            (tmp_path / "go").touch()
            answer = client.response()
            assert answer.body == b"went"
            if by_hand:
                worker.tell(Drain(5.0))
            if "connection" not in answer.headers:  # its head was made before the loop could read the terms
                assert worker.ended() == 0
                moved, fds = eventually(at.inbox.take.receive)
                assert isinstance(moved, HandOver) and moved.requests == 1
                close_all(fds)
            assert client.closed()
            assert worker.ended() == 0
            untouched, _ = at.listener.accept()
            assert untouched.recv(100) == GET
            untouched.close()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("by_group", [False, True])
def test_a_stop_serves_what_is_queued(threads: int, by_group: bool, tmp_path: Path) -> None:
    """Nobody else will come for it: neither what waits in the listener nor what was handed to the inbox."""
    with stage() as at, at.worker(threads=threads) as worker, contextlib.ExitStack() as stack:
        worker.accept()
        gates = [stack.enter_context(at.connect()) for _ in range(threads)]
        for client in gates:
            enter_gate(client, tmp_path)
        if by_group:  # the supervisor's TERM to the process group reaches the worker before the master's order
            worker.term()
            worker.left()
        late = [stack.enter_context(at.connect()) for _ in range(5)]
        for client in late:
            client.send(GET)
        worker.tell(Drain(10.0, stop=True))
        (tmp_path / "go").touch()
        for client in [*gates, *late]:
            answer = client.response()
            assert answer.status == 200
        assert worker.ended() == 0


def test_a_drain_message_alone_is_enough() -> None:
    with stage() as at, at.worker() as worker:
        worker.accept()
        worker.tell(Drain(5.0))
        worker.left()
        assert worker.ended() == 0


def test_a_worker_that_never_served_leaves_without_ado() -> None:
    with stage() as at, at.worker() as worker:
        worker.expect(WorkerReady)
        worker.term()
        assert worker.ended() == 0


def test_while_the_master_does_not_say_who_takes_them_idle_connections_linger() -> None:
    with stage() as at, at.worker(graceful_timeout=20) as worker, at.connect() as client:
        worker.accept()
        client.get("/")
        worker.term()
        worker.left()
        passed(ANSWER_S + 0.2)
        assert client.get("/").headers["connection"] == "close"
        assert client.closed()
        assert worker.ended() == 0


def test_what_lingers_is_closed_before_the_master_kills() -> None:
    with stage() as at, at.worker(graceful_timeout=4) as worker, at.connect() as client:
        worker.accept()
        client.get("/")
        worker.term()
        assert worker.ended(patience_s=4.0) == 0
        assert client.closed()


def test_at_a_stop_idle_connections_are_closed_after_a_second() -> None:
    with stage() as at, at.worker() as worker, at.connect() as quiet, at.connect() as talking:
        worker.accept()
        quiet.get("/")
        talking.get("/")
        began = time.monotonic()
        worker.drain(grace_s=20, stop=True)
        worker.left()
        worker.ping()  # it has read the terms
        assert talking.get("/").headers["connection"] == "close"
        assert quiet.closed()
        assert 0.9 < time.monotonic() - began < 3
        assert worker.ended() == 0


def test_newer_terms_replace_older_ones() -> None:
    """A stop behind a SIGTERM by hand."""
    with stage() as at, at.worker(graceful_timeout=600) as worker, at.connect() as client:
        worker.accept()
        client.get("/")
        worker.term()
        worker.left()
        worker.ping()
        worker.tell(Drain(5.0, stop=True))
        assert client.closed()
        assert worker.ended() == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_streaming_app_learns_of_the_drain(threads: int) -> None:
    with stage() as at, at.worker(threads=threads) as worker, at.connect() as client:
        worker.accept()
        client.send(b"GET /until-drained HTTP/1.1\r\nHost: t\r\n\r\n")
        assert b"waiting" in eventually(lambda: client.sock.recv(1000, 2))  # MSG_PEEK
        began = time.monotonic()
        worker.drain()
        assert client.response().body == b"waiting\ndrained=True"
        assert time.monotonic() - began < 5
        client.sock.close()
        assert worker.ended() == 0


def test_a_client_that_vanishes_does_not_let_the_worker_leave_its_request(tmp_path: Path) -> None:
    with stage() as at, at.worker(threads=2) as worker, at.connect() as client:
        worker.accept()
        enter_gate(client, tmp_path)
        client.reset()
        eventually(lambda: worker.ping().connections == 0)
        worker.drain()
        worker.left()
        assert worker.process.poll() is None
        (tmp_path / "go").touch()
        assert worker.ended() == 0


# --- the master's death


@pytest.mark.parametrize("threads", [1, 2])
def test_without_a_master_an_idle_worker_leaves(threads: int) -> None:
    with stage() as at, at.worker(threads=threads) as worker, at.connect() as client:
        worker.accept()
        client.get("/")
        worker.channel.close()
        eventually(lambda: not listens(at, worker), 2)
        assert client.closed()
        assert worker.ended() == 0
        assert worker.log().count("master-gone") == 1
        assert "accepts no more, finishes its requests within 30 s, then exits" in worker.log()
        assert "connections=1" in worker.log()


def test_without_a_master_a_request_is_finished() -> None:
    with stage() as at, at.worker(threads=2) as worker, at.connect() as client:
        worker.accept()
        client.send(b"GET /until-drained HTTP/1.1\r\nHost: t\r\n\r\n")
        assert client.sock.recv(1000, 2)
        worker.channel.close()
        assert client.response().body == b"waiting\ndrained=True"
        assert worker.ended() == 0


def test_without_a_master_a_stuck_worker_gives_the_port_back_and_ends(tmp_path: Path) -> None:
    with stage() as at, at.worker(threads=1, graceful_timeout=1.0) as worker, at.connect() as client:
        worker.accept()
        enter_gate(client, tmp_path)
        worker.channel.close()
        eventually(lambda: not listens(at, worker), 2)
        assert worker.ended(patience_s=5) == 1
        assert "stuck-without-master" in worker.log()


def test_before_it_is_promoted_it_just_ends_without_a_master() -> None:
    with stage() as at, at.worker() as worker:
        worker.expect(WorkerReady)
        worker.channel.close()
        assert worker.ended() == 0
        assert "master-gone" in worker.log() and "now=exits" in worker.log()


# --- the rest


def test_messages_from_another_version_are_ignored() -> None:
    with stage() as at, at.worker() as worker:
        worker.accept()
        worker.tell(Unknown("Tomorrow"))
        worker.tell(Leaving("nonsense from a master"))
        worker.channel._sock.send(b"noise")
        worker.ping()
        assert worker.log().count("worker-ignored") == 3


def test_the_log_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with stage() as at, at.worker(error_logfile=str(path)) as worker:
        worker.accept()
        at.get("/raises?x")
        eventually(lambda: "no such luck" in path.read_text())
        path.rename(tmp_path / "old")
        worker.tell(Reopen())
        worker.ping()
        at.get("/raises?x")
        eventually(lambda: path.exists() and "no such luck" in path.read_text())


def test_the_dump_signal_writes_the_stacks_for_the_master(tmp_path: Path) -> None:
    with stage() as at, at.worker() as worker, at.connect() as client:
        worker.accept()
        enter_gate(client, tmp_path)
        worker.process.send_signal(DUMP_SIGNAL)
        eventually(lambda: b"gate" in os.pread(worker.stacks, 100_000, 0))
        (tmp_path / "go").touch()
        assert client.response().body == b"went"


def test_an_idle_worker_sleeps() -> None:
    def switches() -> int:
        text = Path(f"/proc/{worker.pid}/status").read_text()
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("voluntary_ctxt"))

    with stage() as at, at.worker() as worker:
        worker.accept()
        at.get("/")
        eventually(lambda: worker.ping().connections == 0)
        passed(1.2)  # the sweep sees that nothing is left
        before = switches()
        passed(2.5)
        assert switches() == before


def test_two_workers_share_a_listener() -> None:
    with stage() as at, at.worker() as one, at.worker() as two:
        one.accept()
        two.accept()
        pids = {at.get("/version").body.split()[1] for _ in range(200)}
        assert pids <= {str(one.pid).encode(), str(two.pid).encode()}
        one.drain()
        assert one.ended() == 0
        assert {at.get("/version").body.split()[1] for _ in range(50)} == {str(two.pid).encode()}


def test_no_connection_is_refused_or_reset_while_workers_take_turns() -> None:
    """New connections all the time: what a leaving worker has not accepted, another one finds in the queue."""
    script = (
        "import http.client, sys, os\n"
        "n = 0\n"
        "while not os.path.exists(sys.argv[2]):\n"
        "    c = http.client.HTTPConnection('127.0.0.1', int(sys.argv[1]), timeout=20)\n"
        "    c.request('GET', '/')\n"
        "    assert c.getresponse().read() == b'hello'\n"
        "    c.close(); n += 1\n"
        "print(n)\n"
    )
    with stage() as at:
        end = f"/tmp/graceserve-test-{os.getpid()}-{time.monotonic_ns()}"
        serving = at.worker().accept()
        client = subprocess.Popen(
            [sys.executable, "-c", script, at.name.split(":")[1], end], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            for turn in range(5):
                successor = at.worker(side=1 - turn % 2).accept()
                serving.drain()
                assert serving.ended() == 0
                serving.__exit__(None, None, None)
                serving = successor
            Path(end).touch()
            out, err = client.communicate(timeout=20)
        finally:
            client.kill()
            serving.__exit__(None, None, None)
            Path(end).unlink(missing_ok=True)
        assert client.returncode == 0 and int(out) > 50, err.decode()
