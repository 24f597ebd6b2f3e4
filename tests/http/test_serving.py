"""Requests to a real worker, inline and with threads."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.harness import Client, Stage, Worker, eventually, stage

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.fixture(scope="module", params=[1, 4], ids=["inline", "threads"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Stage, Worker]]:
    with stage() as at, at.worker(threads=request.param) as worker:
        yield at, worker.accept()


@pytest.fixture
def at(served: tuple[Stage, Worker]) -> Stage:
    return served[0]


@pytest.fixture
def worker(served: tuple[Stage, Worker]) -> Worker:
    return served[1]


@pytest.fixture
def client(at: Stage) -> Iterator[Client]:
    with at.connect() as client:
        yield client


# --- heads and bodies


def test_many_requests_on_one_connection(client: Client) -> None:
    for _ in range(50):
        assert client.get("/").body == b"hello"


def test_byte_by_byte(client: Client) -> None:
    client.trickle(GET + b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    assert client.response().body == b"hello"
    answer = client.response()
    assert (answer.body, answer.headers["x-length"]) == (b"abc", "3")


def test_pipelined(client: Client) -> None:
    client.send(b"".join(b"GET /stream?%d HTTP/1.1\r\nHost: t\r\n\r\n" % number for number in range(1, 40)))
    assert [client.response().body.count(b"\n") for _ in range(1, 40)] == list(range(1, 40))


def test_much_more_pipelined_than_is_held(client: Client) -> None:
    count = 5_000  # 180 kB of requests, more than PIPELINED_BYTES_MAX
    client.sock.setblocking(False)
    left, got = memoryview(b"GET / HTTP/1.1\r\nHost: test\r\nX: y\r\n\r\n" * count), 0

    def go_on() -> bool:
        nonlocal left, got
        try:
            left = left[client.sock.send(left) :]
        except BlockingIOError:
            pass
        try:
            client.buffer += client.sock.recv(1 << 20)
        except BlockingIOError:
            pass
        got = client.buffer.count(b"\r\n\r\nhello")
        return got == count

    eventually(go_on)


def test_a_request_and_then_end_of_file(client: Client) -> None:
    client.send(GET + GET + GET[:-2])
    client.sock.shutdown(socket.SHUT_WR)
    assert [client.response().status, client.response().status] == [200, 200]
    assert client.closed()


@pytest.mark.parametrize("size", [0, 1, 512 * 1024, 512 * 1024 + 1, 5_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_of_any_size_comes_back(client: Client, size: int, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    if chunked:
        pieces = [body[start : start + 60_000] for start in range(0, size, 60_000)]
        framed = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" + framed)
    else:
        client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size + body)
    answer = client.response()
    assert answer.body == body and answer.headers["x-length"] == str(size)


def test_continue_is_said_when_the_body_is_waited_for(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert client.response().status == 100
    client.send(b"abc")
    assert client.response().body == b"abc"


def test_continue_is_not_said_when_the_body_is_there(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc")
    assert client.response().body == b"abc"


def test_a_body_too_large_is_refused_before_it_is_sent(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9999999999\r\nExpect: 100-continue\r\n\r\n")
    assert client.response().status == 413
    assert client.closed()


def test_a_refusal_is_read_also_by_a_client_that_goes_on_sending(client: Client) -> None:
    client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nContent-Length: 9999999999\r\n\r\n" + b"x" * 100_000)
    answer = client.response()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    client.send(b"x" * 100_000)
    assert client.closed()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"noise\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"\x16\x03\x01", 400),
    ],
)
def test_what_is_no_request_is_answered_and_closed(client: Client, raw: bytes, status: int) -> None:
    client.send(raw)
    answer = client.response()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert client.closed()


def test_http_1_0(client: Client) -> None:
    client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    answer = client.response()
    assert (answer.body, answer.headers["connection"]) == (b"hello", "keep-alive")
    client.send(b"GET /stream HTTP/1.0\r\n\r\n")
    answer = client.response()
    assert answer.body.count(b"\n") == 3 and answer.headers["connection"] == "close"
    assert client.closed()


def test_close_is_obeyed(client: Client) -> None:
    assert client.get("/", Connection="close").headers["connection"] == "close"
    assert client.closed()


def test_head(client: Client) -> None:
    client.send(b"HEAD /stream HTTP/1.1\r\nHost: t\r\n\r\n" + GET)
    assert client.response(head=True).status == 200
    assert client.response().body == b"hello"


# --- responses


@pytest.mark.parametrize("path", ["/raises?runtime", "/raises?exit", "/raises?int", "/raises?memory", "/raises?stop"])
def test_an_app_that_raises_answers_500_and_serves_on(client: Client, worker: Worker, path: str) -> None:
    answer = client.get(path)
    assert (answer.status, answer.body) == (500, b"500 Internal Server Error\n")
    assert client.get("/").status == 200
    assert re.search(r"ERROR app-error .*method=GET path=/raises\n +Traceback", worker.log())


def test_an_app_that_breaks_off_is_cut_off(client: Client) -> None:
    answer = client.get("/broken-stream")
    assert (answer.body, answer.complete) == (b"before", False)
    assert client.closed()


def test_a_broken_http_1_0_stream_does_not_look_complete(client: Client) -> None:
    client.send(b"GET /broken-stream HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        while client.sock.recv(1000):
            pass


def test_a_broken_promise_is_cut_off(client: Client) -> None:
    answer = client.get("/lengthy?10&5")
    assert not answer.complete and client.closed()


def test_too_much_is_not_read_as_the_next_response(client: Client) -> None:
    assert client.get("/lengthy?5&10").body == b"x" * 5
    assert client.get("/").body == b"hello"


def test_a_header_can_not_be_injected(client: Client) -> None:
    assert client.get("/injects?name=X&value=a%0d%0aSet-Cookie:%20b").status == 500
    assert "set-cookie" not in client.get("/injects?name=X%0d%0aSet-Cookie&value=b").headers


def test_write(client: Client) -> None:
    assert client.get("/writes").body == b"written, returned"


def test_close_is_called(client: Client, tmp_path: Path) -> None:
    client.get(f"/marked?{tmp_path}/mark")
    eventually((tmp_path / "mark").exists)


def test_a_client_that_vanishes_closes_the_app_s_iterable(at: Stage, tmp_path: Path) -> None:
    with at.connect() as client:
        client.send(f"GET /endless?{tmp_path}/mark HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        client.sock.recv(100_000)
    eventually((tmp_path / "mark").exists)
    assert at.get("/").status == 200


def test_a_slow_reader_holds_up_nobody(at: Stage, worker: Worker, tmp_path: Path) -> None:
    """An app thread waits for its client (as many as `--threads`); the loop, and with it the others, does not."""
    slow = [at.connect() for _ in range(3)]
    try:
        for number, client in enumerate(slow):
            client.send(f"GET /endless?{tmp_path}/{number} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            client.sock.recv(1000)
        before = _resident_kb(worker.pid)
        for _ in range(50):
            assert at.get("/").status == 200
        assert _resident_kb(worker.pid) < before + 8_000, "an endless response is not buffered"
        assert not (tmp_path / "0").exists()
    finally:
        for client in slow:
            client.sock.close()
    eventually(lambda: all((tmp_path / str(number)).exists() for number in range(3)))


def test_a_large_response_is_buffered_by_the_loop(at: Stage) -> None:
    with at.connect() as slow:
        slow.send(b"GET /big?20000000 HTTP/1.1\r\nHost: t\r\n\r\n")
        assert at.get("/").status == 200
        assert len(slow.response().body) == 20_000_000
        assert slow.get("/").status == 200


# --- the app's surroundings


def test_context_variables_do_not_leak(client: Client) -> None:
    assert [client.get("/context").body for _ in range(3)] == [b"1"] * 3


def test_the_app_may_run_a_loop_of_its_own(client: Client) -> None:
    assert client.get("/async").body == b"from a loop"


def test_where_the_app_runs(client: Client, at: Stage) -> None:
    assert client.get("/where").body in (b"main=True multithread=False", b"main=False multithread=True")


def test_environ(client: Client, at: Stage) -> None:
    body = client.get("/dump", X_Two="2").body.decode()
    port = at.name.split(":")[1]
    for said in (
        "'SERVER_NAME': '127.0.0.1'",
        f"'SERVER_PORT': '{port}'",
        "'HTTP_X_TWO': '2'",
        "'REMOTE_ADDR': '127.0.0.1'",
        "'graceserve.generation': 7",
        "'wsgi.input_terminated': True",
    ):
        assert said in body


def test_counters(at: Stage, worker: Worker) -> None:
    eventually(lambda: worker.ping().connections == 0)
    before = worker.ping().requests
    with at.connect() as client, at.connect():
        client.get("/")
        eventually(lambda: (pong := worker.ping()).connections == 2 and pong.requests == before + 1 and pong.busy == 0)
    eventually(lambda: worker.ping().connections == 0)


def test_nothing_was_logged_as_a_bug(worker: Worker) -> None:
    assert "worker-bug" not in worker.log()


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


# --- how many


def test_worker_connections_is_a_limit() -> None:
    with stage() as at, at.worker(worker_connections=2) as worker:
        worker.accept()
        with at.connect() as one, at.connect() as two, at.connect() as three:
            assert (one.get("/").status, two.get("/").status) == (200, 200)
            three.send(GET)
            assert worker.ping().connections == 2
            one.sock.close()
            assert three.response().status == 200


def test_as_many_as_allowed_are_accepted_when_they_come_at_once() -> None:
    """One that is just being set up must not be counted twice."""
    with stage() as at, at.worker(worker_connections=8) as worker:
        worker.accept()
        for _ in range(40):
            clients = [at.connect() for _ in range(8)]
            eventually(lambda: worker.ping().connections == 8)
            for client in clients:
                client.reset()
            eventually(lambda: worker.ping().connections == 0)


def test_out_of_descriptors_is_survived() -> None:
    import resource

    with stage() as at, at.worker() as worker:
        worker.accept()
        used = len(list(Path(f"/proc/{worker.pid}/fd").iterdir()))
        resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (used + 2, used + 50))
        held = [at.connect() for _ in range(8)]
        try:
            eventually(lambda: "accept-error" in worker.log())
            assert held[0].get("/").status == 200
            for client in held[:4]:
                client.sock.close()
            resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (used + 50, used + 50))
            assert held[-1].get("/").status == 200
        finally:
            for client in held:
                client.sock.close()


def test_with_threads_only_what_can_begin_is_accepted(tmp_path: Path) -> None:
    """The rest stays in the listener's queue, for other workers."""
    with stage() as at, at.worker(threads=2) as worker:
        worker.accept()
        busy = [at.connect() for _ in range(2)]
        for number, client in enumerate(busy):
            (tmp_path / str(number)).mkdir()
            client.send(f"GET /gate?{tmp_path}/{number} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
            eventually((tmp_path / str(number) / "entered").exists)
        with at.connect() as waiting:
            waiting.send(GET)
            assert worker.ping().connections == 2
            (tmp_path / "0" / "go").touch()
            assert waiting.response().status == 200
            (tmp_path / "1" / "go").touch()
        for client in busy:
            assert client.response().body == b"went"
            client.sock.close()


# --- files, early hints


@pytest.mark.parametrize("size", [1, 65_536, 5_000_000])
def test_a_file_goes_out_whole_and_the_connection_stays(client: Client, size: int) -> None:
    answer = client.get(f"/file?{size}")
    assert (len(answer.body), answer.headers["content-length"], answer.complete) == (size, str(size), True)
    assert client.get("/").body == b"hello"


def test_a_file_shorter_than_promised_breaks_the_connection(client: Client, worker: Worker) -> None:
    answer = client.get("/file?1000&2000")
    assert (len(answer.body), answer.complete) == (1000, False)
    eventually(lambda: "app-body-too-short missing_bytes=1000" in worker.log().replace(" gen=7 worker=70", ""))


def test_no_more_of_a_file_than_promised(client: Client) -> None:
    assert client.get("/file?1000&10").body == b"\0" * 10
    assert client.get("/").body == b"hello"


def test_many_files_at_once_to_clients_that_read_slowly(at: Stage) -> None:
    """More than there are app threads: a reader of a file holds none."""
    clients = [at.connect() for _ in range(10)]
    for client in clients:
        client.send(b"GET /file?3000000 HTTP/1.1\r\nHost: t\r\n\r\n")
    assert at.get("/").body == b"hello"
    for client in clients:
        assert len(client.response().body) == 3_000_000
        client.sock.close()


def test_early_hints(client: Client) -> None:
    client.send(b"GET /hints HTTP/1.1\r\nHost: t\r\n\r\n")
    early = client.response()
    assert (early.status, early.headers) == (103, {"link": "</style.css>; rel=preload; as=style"})
    assert client.response().body == b"hinted"
    client.send(b"GET /hints HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert client.response().body == b"hinted", "HTTP/1.0 knows no 1xx"


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_body_does_not_pile_up(threads: int, chunked: bool) -> None:
    """However much of it comes at a time: what is not in its file is a few blocks."""
    size = 64 << 20
    with stage() as at, at.worker(threads=threads) as worker:
        worker.accept()
        at.get("/")
        before = peak_bytes(worker.pid)
        with at.connect() as client:
            framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
            client.send(f"POST /sum HTTP/1.1\r\nHost: t\r\n{framing}\r\n\r\n".encode())
            block = b"x" * (1 << 20)
            for _ in range(size >> 20):
                client.send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
            if chunked:
                client.send(b"0\r\n\r\n")
            assert client.response().body == b"%d" % (size * ord("x"))
        assert peak_bytes(worker.pid) - before < 8 << 20


@pytest.mark.parametrize("threads", [1, 2])
def test_who_is_refused_may_send_to_the_end(threads: int) -> None:
    """All of it is read, and dropped: a client that can't send does not come to read its 413."""
    with stage() as at, at.worker(threads=threads, limit_request_body=100_000) as worker, at.connect() as client:
        worker.accept()
        client.send(b"POST /echo HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"2000\r\n%b\r\n" % (b"x" * 0x2000) * 2000 + b"0\r\n\r\n")
        answer = client.response()
        assert (answer.status, answer.complete) == (413, True)


def peak_bytes(pid: int) -> int:
    """VmHWM (proc(5))."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
