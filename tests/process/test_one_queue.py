"""One queue: no request waits behind a busy worker while somebody else could serve it, and none is lost by moving."""

import hashlib
import json
import os
import random
import signal
from collections import Counter
from typing import Any

import pytest

from tests.process import holders, web
from tests.process.apps import Gate
from tests.process.conftest import Boot
from tests.process.procs import kill, wake_ups
from tests.process.releases import Site
from tests.process.server import Server, finish
from tests.process.waiting import eventually, steadily

CONNECTIONS_MAX = 200  # that a worker may need to get as many as a test wants
FAST = b"GET /pid?%b HTTP/1.1\r\nHost: test\r\n\r\n"
BODY = b"POST /digest HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\n\r\nabcdef"


class Line:
    """A raw keep-alive connection: bytes out, answers in."""

    def __init__(self, server: Server) -> None:
        self.sock = web.connect(server.address)
        self._held = b""

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def begin(self, page: str, gate: Gate) -> None:
        self.send(f"GET /{page}?{gate.path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())

    def ask(self, word: bytes = b"") -> int:
        """Who answers."""
        self.send(FAST % word)
        return self.pid(word)

    def pid(self, word: bytes | None = None) -> int:
        """Who answers what was sent."""
        answer = self.answer()
        assert word is None or answer["asked"] == word.decode(), answer
        return int(answer["pid"])

    def answer(self) -> dict[str, Any]:
        head = self._until(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        body = self._exactly(int(fields[b"content-length"])) if b"content-length" in fields else self._chunks()
        found: dict[str, Any] = json.loads(body)
        return found

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self._until(b"\r\n"), 16):
            body += self._exactly(size)
            assert self._exactly(2) == b"\r\n"
        assert self._exactly(2) == b"\r\n"
        return body

    def _until(self, end: bytes) -> bytes:
        while end not in self._held:
            self._more()
        found, self._held = self._held.split(end, 1)
        return found + end

    def _exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            self._more()
        found, self._held = self._held[:size], self._held[size:]
        return found

    def _more(self) -> None:
        data = self.sock.recv(65536)
        assert data, f"closed; so far {self._held!r}"
        self._held += data


class Lines:
    """Connections by who answers them."""

    def __init__(self) -> None:
        self.all: list[Line] = []

    def dial(self, server: Server) -> Line:
        self.all.append(Line(server))
        return self.all[-1]

    def on_one(self, server: Server, count: int) -> list[Line]:
        """So many that one worker holds."""
        by_pid: dict[int, list[Line]] = {}
        for _ in range(CONNECTIONS_MAX):
            line = self.dial(server)
            mine = by_pid.setdefault(line.ask(), [])
            mine.append(line)
            if len(mine) == count:
                return mine
        raise AssertionError({pid: len(lines) for pid, lines in by_pid.items()})

    def on_each(self, server: Server, count: int) -> dict[int, list[Line]]:
        """So many, for each worker."""
        by_pid: dict[int, list[Line]] = {pid: [] for pid in server.worker_pids()}
        for _ in range(CONNECTIONS_MAX):
            line = self.dial(server)
            by_pid[line.ask()].append(line)
            if min(map(len, by_pid.values())) >= count:
                return {pid: mine[:count] for pid, mine in by_pid.items()}
        raise AssertionError({pid: len(mine) for pid, mine in by_pid.items()})

    def close(self) -> None:
        for line in self.all:
            line.sock.close()


@pytest.fixture
def lines() -> Any:
    made = Lines()
    yield made
    made.close()


def all_is_well(server: Server, lines: Lines) -> None:
    """Every connection still is served, each worker knows of its own, and nobody complained."""
    for number, line in enumerate(lines.all):
        line.ask(b"%d" % number)
    eventually(lambda: held(server) == len(lines.all), what="each connection is held by one worker")
    assert "ERROR" not in server.log and "worker-bug" not in server.log, server.log
    assert "Traceback" not in server.log, server.log


def held(server: Server) -> int:
    return sum(int(worker["connections"]) for worker in server.serving()["workers"])


# --- inline


@pytest.mark.parametrize("before", [b"", FAST[:9], FAST[:-2] % b"x", BODY[:-3]], ids=["none", "line", "head", "body"])
@pytest.mark.parametrize("page", ["hold", "spin", "pieces"])
def test_behind_a_long_call(site: Site, boot: Boot, lines: Lines, page: str, before: bytes) -> None:
    """`before`: what of the next request has been read when the call begins."""
    server = boot()
    busy, other = lines.on_one(server, 2)
    whole = next(raw for raw in (FAST % b"x", BODY) if raw.startswith(before))
    other.send(before)
    busy.ask()  # so that it has been read
    gate = site.gate("call")
    busy.begin(page, gate)
    [holder] = gate.wait_for()
    other.send(whole[len(before) :])
    assert other.pid() != holder
    assert other.ask() != holder
    gate.open()
    assert busy.pid() == holder
    all_is_well(server, lines)


@pytest.mark.parametrize("page", ["hold", "spin", "pieces"])
def test_pipelined_behind_a_long_call(site: Site, boot: Boot, lines: Lines, page: str) -> None:
    """What is behind the call on its own connection keeps its turn; what is pipelined on another one moves."""
    server = boot()
    busy, other = lines.on_one(server, 2)
    gate = site.gate("call")
    busy.begin(page, gate)
    [holder] = gate.wait_for()
    busy.send(FAST % b"behind")
    other.send(b"".join(FAST % b"%d" % number for number in range(5)) + BODY)
    for number in range(5):
        assert other.pid(b"%d" % number) != holder
    assert other.answer()["bytes"] == 6
    gate.open()
    assert busy.pid() == holder
    busy.pid(b"behind")
    all_is_well(server, lines)


def test_the_guard_sleeps_while_nobody_waits(site: Site, boot: Boot, lines: Lines) -> None:
    """In a call as between two; and it wakes for who comes then, and for the next long call."""
    server = boot()
    busy, other, third = lines.on_one(server, 3)
    for number, line in enumerate((other, third)):
        gate = site.gate(f"call-{number}")
        busy.begin("hold", gate)
        [holder] = gate.wait_for()
        [guard] = [int(name) for name in os.listdir(f"/proc/{holder}/task") if int(name) != holder]
        line.send(FAST % b"x")
        assert line.pid(b"x") != holder
        before = wake_ups(guard)
        steadily(lambda before=before, guard=guard: wake_ups(guard) < before + 40, 0.5, "the guard sleeps")
        gate.open()
        assert busy.pid() == holder
    all_is_well(server, lines)


CLOSING = {
    "close": b"GET /pid?x HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
    "http-1.0": b"GET /pid?x HTTP/1.0\r\n\r\n",
    "keep-alive": FAST % b"x",
}


@pytest.mark.parametrize("kind", CLOSING)
def test_a_close_behind_a_long_call(site: Site, boot: Boot, lines: Lines, kind: str) -> None:
    """Who was given the connection closes it, and the client sees that before the call is over."""
    server = boot("--keep-alive", "1")
    busy, other = lines.on_one(server, 2)
    gate = site.gate("call")
    busy.begin("hold", gate)
    [holder] = gate.wait_for()
    other.send(CLOSING[kind])
    assert other.pid(b"x") != holder
    other.sock.settimeout(5)
    assert other.sock.recv(1) == b""
    gate.open()
    busy.answer()


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("kind", CLOSING)
def test_an_answer_in_front_of_a_long_call(site: Site, boot: Boot, lines: Lines, kind: str, workers: str) -> None:
    """It does not wait for the call, and what the client asks next doesn't either."""
    server = boot("--workers", workers)
    busy, other = lines.on_one(server, 2)
    gate = site.gate("call")
    worker = other.ask()
    kill(worker, signal.SIGSTOP)  # so that it finds both at once
    other.send(CLOSING[kind])
    busy.begin("hold", gate)
    kill(worker, signal.SIGCONT)
    assert gate.wait_for() == {worker}
    assert other.pid(b"x") == worker
    if kind == "keep-alive" and workers == "2":
        assert other.ask() != worker
    gate.open()
    assert busy.pid() == worker
    if kind == "keep-alive":
        all_is_well(server, lines)
    else:
        assert other.sock.recv(1) == b""


def test_all_are_busy(site: Site, boot: Boot, lines: Lines) -> None:
    """Who is through first serves those who wait; three workers."""
    server = boot("--workers", "3")
    busy = {pid: line for pid, [line] in lines.on_each(server, 1).items()}
    others = [lines.dial(server) for _ in range(6)]
    for line in others:
        line.ask()
    gates = {}
    for pid, line in busy.items():
        gates[pid] = site.gate(f"call-{pid}")
        line.begin("hold", gates[pid])
        gates[pid].wait_for()
    assert len({pid for gate in gates.values() for pid in gate.waiting()}) == 3
    for number, line in enumerate(others):
        line.send(FAST % b"%d" % number)
    first, *rest = gates
    gates[first].open()
    for number, line in enumerate(others):
        line.pid(b"%d" % number)
    busy[first].answer()
    for pid in rest:
        gates[pid].open()
        busy[pid].answer()
    all_is_well(server, lines)


class BothBusy:
    """Two workers, each in a call of its own, and connections that each of them holds."""

    def __init__(self, site: Site, server: Server, lines: Lines, page: str = "hold", count: int = 3) -> None:
        self.server = server
        (self.one, of_one), (self.two, of_two) = lines.on_each(server, count).items()
        [self.call_one, *self.of_one], [self.call_two, *self.of_two] = of_one, of_two
        self.gate_one, self.gate_two = site.gate("one"), site.gate("two")
        self.call_one.begin(page, self.gate_one)
        self.call_two.begin(page, self.gate_two)
        assert self.gate_one.wait_for() == {self.one}
        assert self.gate_two.wait_for() == {self.two}

    def queue(self, line: Line, page: str, gate: Gate | None = None) -> None:
        """Have it ask, and wait until it is in the inbox."""
        line.send(f"GET /{page}?{gate.path if gate else ''} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        eventually(lambda: not {self.one, self.two} & holding(self.server, line), what="no worker holds it")


def holding(server: Server, line: Line) -> set[int]:
    """The workers that have the server's end of it open."""
    port = line.sock.getsockname()[1]
    return {pid for pid in server.worker_pids() if port in holders.held(pid, server.address)}


@pytest.mark.parametrize("page", ["hold", "spin"])
def test_first_come_first_served(site: Site, boot: Boot, lines: Lines, page: str) -> None:
    """Who is through first serves the one who has waited for longest, wherever that was."""
    both = BothBusy(site, boot(), lines, page)
    order = [both.of_one[0], both.of_two[0], both.of_one[1], both.of_two[1]]
    for line in order:
        both.queue(line, "count")
    both.gate_two.open()
    assert [line.answer() for line in order] == [{"requests": n + 1, "pid": both.two} for n in range(len(order))]
    both.gate_one.open()
    assert both.call_one.pid() == both.one
    assert both.call_two.pid() == both.two
    all_is_well(both.server, lines)


def test_before_those_who_come_now(site: Site, boot: Boot, lines: Lines) -> None:
    """Also before those who have come so late that they still are with the worker that is through."""
    both = BothBusy(site, boot(), lines, count=8)
    for number, (older, younger) in enumerate(zip(both.of_one[:-1], both.of_two[:-1], strict=True)):
        both.queue(older, "count")
        kill(both.two, signal.SIGSTOP)  # so that it finds all at once
        younger.send(b"GET /count HTTP/1.1\r\nHost: test\r\n\r\n")
        both.gate_two.open()
        kill(both.two, signal.SIGCONT)
        assert both.call_two.pid() == both.two
        first, second = older.answer(), younger.answer()
        assert first["pid"] == second["pid"] == both.two
        assert first["requests"] < second["requests"]
        both.gate_two = site.gate(f"two-{number}")
        both.call_two.begin("hold", both.gate_two)
        both.gate_two.wait_for()
    both.gate_two.open()
    both.gate_one.open()
    both.call_one.answer()
    both.call_two.answer()
    all_is_well(both.server, lines)


def test_behind_the_next_long_call(site: Site, boot: Boot, lines: Lines) -> None:
    """Who takes a request that takes long leaves those behind it to the others."""
    both = BothBusy(site, boot(), lines)
    gate = site.gate("next")
    both.queue(both.of_one[0], "hold", gate)
    both.queue(both.of_one[1], "pid")
    both.queue(both.of_two[0], "pid")
    both.gate_two.open()
    assert both.call_two.pid() == both.two
    assert gate.wait_for() == {both.two}
    both.gate_one.open()
    assert both.of_one[1].pid() == both.of_two[0].pid() == both.one
    gate.open()
    assert both.of_one[0].pid() == both.two
    assert both.call_one.pid() == both.one
    all_is_well(both.server, lines)


def test_who_waits_is_not_killed_with_whom_it_waited_behind(site: Site, boot: Boot, lines: Lines) -> None:
    both = BothBusy(site, boot(), lines)
    both.queue(both.of_one[0], "pid")
    both.queue(both.of_two[0], "pid")
    kill(both.one)
    kill(both.two)
    assert both.of_one[0].pid() not in (both.one, both.two)
    assert both.of_two[0].pid() not in (both.one, both.two)
    both.gate_one.open()
    both.gate_two.open()


def test_a_reload_while_all_are_busy(site: Site, boot: Boot, lines: Lines) -> None:
    both = BothBusy(site, boot(), lines)
    waiting = both.of_one[0], both.of_two[0]
    for line in waiting:
        both.queue(line, "pid")
    reload = both.server.begin("reload")
    assert not {line.pid() for line in waiting} & {both.one, both.two}
    both.gate_one.open()
    both.gate_two.open()
    assert both.call_one.pid() == both.one
    assert both.call_two.pid() == both.two
    assert finish(reload).code == 0
    both.server.wait_whole(2)
    all_is_well(both.server, lines)


def test_a_stop_while_all_are_busy(site: Site, boot: Boot, lines: Lines) -> None:
    both = BothBusy(site, boot(), lines)
    waiting = both.of_one[0], both.of_two[0]
    for line in waiting:
        both.queue(line, "pid")
    both.server.send(signal.SIGTERM)
    both.server.wait_log("leaving")
    both.gate_two.open()
    assert {line.pid() for line in waiting} == {both.two}
    assert both.call_two.pid() == both.two
    both.gate_one.open()
    assert both.call_one.pid() == both.one
    assert both.server.wait_exit() == 0, both.server.log


def test_a_fresh_connection(site: Site, boot: Boot, lines: Lines) -> None:
    server = boot()
    gate = site.gate("call")
    lines.dial(server).begin("hold", gate)
    [holder] = gate.wait_for()
    assert all(server.get("/pid").json["pid"] != holder for _ in range(50))
    gate.open()
    lines.all[0].answer()
    all_is_well(server, lines)


def test_a_body_of_small_chunks(boot: Boot) -> None:
    """To read one takes as long as a long call: it is no reason to give the connection away in the middle."""
    server = boot()
    for seed in range(4):
        body = bytes(random.Random(seed).choices(b"0123456789abcdefghij", k=120_000))
        chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        line = Line(server)
        line.send(b"POST /digest HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n%b0\r\n\r\n" % chunks)
        answer = line.answer()
        line.sock.close()
        assert answer["digest"] == hashlib.sha256(body).hexdigest(), f"another body: seed {seed}, {answer}"


# --- threads


def test_threads(site: Site, boot: Boot, lines: Lines) -> None:
    server = boot("--threads", "2")
    one, two, third, fourth = lines.on_one(server, 4)
    gates = [site.gate("one"), site.gate("two")]
    one.begin("hold", gates[0])
    [holder] = gates[0].wait_for()
    two.begin("hold", gates[1])
    [other] = gates[1].wait_for()
    assert other == holder
    assert third.ask() != holder
    fourth.send(BODY + FAST % b"x")
    assert fourth.pid() != holder
    assert fourth.pid(b"x") != holder
    for gate in gates:
        gate.open()
    assert one.pid() == two.pid() == holder
    all_is_well(server, lines)


# --- reloads, stops, kills


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("page", ["hold", "spin", "pieces"])
def test_a_reload_in_a_long_call(site: Site, boot: Boot, lines: Lines, page: str, workers: str) -> None:
    """The new generation answers what waits behind it."""
    server = boot("--workers", workers)
    busy, other, idle = lines.on_one(server, 3)
    gate = site.gate("call")
    busy.begin(page, gate)
    [holder] = gate.wait_for()
    reload = server.begin("reload")
    eventually(lambda: server.serving()["generation"] == 2)
    for line in (other, idle):
        assert line.ask() in server.worker_pids()
    gate.open()
    assert busy.pid() == holder
    assert finish(reload).code == 0
    server.wait_whole(2)
    all_is_well(server, lines)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_stop_in_a_long_call(site: Site, boot: Boot, lines: Lines, workers: str, threads: str) -> None:
    server = boot("--workers", workers, "--threads", threads)
    busy, other = lines.on_one(server, 2)
    gate = site.gate("call")
    busy.begin("hold", gate)
    gate.wait_for()
    server.send(signal.SIGTERM)
    other.send(FAST % b"x")
    server.wait_log("leaving")
    gate.open()
    busy.answer()
    other.pid(b"x")
    assert server.wait_exit() == 0, server.log


def test_a_second_long_call_in_a_stop(site: Site, boot: Boot, lines: Lines) -> None:
    """The worker has emptied the inbox, and nobody will do it again: what waits stays."""
    server = boot("--workers", "1")
    busy, next_, last = lines.on_one(server, 3)
    gates = [site.gate("one"), site.gate("two")]
    busy.begin("hold", gates[0])
    gates[0].wait_for()
    next_.begin("hold", gates[1])
    server.send(signal.SIGTERM)
    server.wait_log("leaving")
    gates[0].open()
    busy.answer()
    gates[1].wait_for()
    last.send(FAST % b"x")
    steadily(lambda: server.process.poll() is None, 0.3, "the guard has looked")
    gates[1].open()
    next_.answer()
    last.pid(b"x")
    assert server.wait_exit() == 0, server.log


def test_who_took_over_is_killed(site: Site, boot: Boot, lines: Lines) -> None:
    """Its connections live on, also that which came from a holder that has not let go of it yet."""
    server = boot()
    busy, other, third = lines.on_one(server, 3)
    gate = site.gate("call")
    busy.begin("hold", gate)
    [holder] = gate.wait_for()
    heir = other.ask()
    assert heir != holder
    kill(heir)
    server.wait_whole(without=[heir])
    assert third.ask() not in (holder, heir)
    gate.open()
    assert busy.pid() == holder
    assert other.ask() != heir
    busy.ask()
    third.ask()
    assert server.version()["release"] == "41"


# --- fair shares


@pytest.mark.parametrize("threads", ["1", "2"])
def test_connections_are_shared_out(boot: Boot, lines: Lines, threads: str) -> None:
    """Also at a reload, where they all come at once, and the first worker to wake could take them all."""
    server = boot("--threads", threads)
    for _ in range(40):
        lines.dial(server).ask()
    found = []
    for _ in range(4):
        server.reload_ok()
        found.append(Counter(line.ask() for line in lines.all))
        assert set(found[-1]) <= set(server.worker_pids())
    smaller = [min(shares.values()) if len(shares) > 1 else 0 for shares in found]
    assert sum(smaller) >= 20, found  # of 80; in one of them a sibling may not have come to run at all
    all_is_well(server, lines)
