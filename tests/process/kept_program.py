"""Clients that keep their connections, in a process of their own; every request accounted for. Shell; a program.

    python -m tests.process.kept_program '{"address": "127.0.0.1:8000", "connections": 200, "rate": 600}'

Each client opens a connection and asks once; then a report (one line of JSON) tells that all have been answered. Two
lines are obeyed on stdin: "resume" (ask at the rate), and "pause" (let the requests in flight finish, hold all
connections, report). At the end of stdin it pauses, reports, and ends.

Requests are those of `kept.app_source`: GET, POST with a body, POST in two pieces (cut anywhere, a pause between), and
pipelined ones. Nothing is retried. A client whose connection has ended opens another one for its next request.
"""

import asyncio
import json
import random
import sys
import time
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

from tests.process.load_program import Head, parse_head

KINDS = ("get", "post", "pieces", "pipelined")
FIRST = "first"  # a client's first request, a GET; all of them come at once
DEPTH = 3  # requests that are pipelined
BODY_BYTES_MAX = 3000
BETWEEN_PIECES_S = 0.03
FIRST_S = 0.005  # that it takes the app, so that a proxy opens a connection for each of them
ANSWER_S = 30.0  # for the answers to what is sent at a time
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do; the JSON object on the command line. `slow_share` of the requests take the app up to `slow_s`."""

    address: str
    connections: int = 200
    rate: float = 600.0  # requests a second of all together
    slow_share: float = 0.02
    slow_s: float = 0.02
    seed: int = 0


@dataclass
class Tally:
    """What happened; times are of CLOCK_MONOTONIC. Changed by clients and lines only."""

    asked: int = 0
    opened: int = 0  # connections
    announced_closes: int = 0  # answers that said `Connection: close`
    kinds: dict[str, int] = field(default_factory=dict)  # answers
    releases: dict[str, int] = field(default_factory=dict)  # answers
    lost: list[dict[str, Any]] = field(default_factory=list)
    idle_closes: list[dict[str, Any]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # answers to something else
    ports: set[int] = field(default_factory=set)  # REMOTE_PORT, as the app saw it
    took_s: list[float] = field(default_factory=list)  # without first requests


@dataclass(frozen=True, slots=True)
class Request:
    """One that was sent."""

    id: str
    kind: str
    body: bytes
    sent: float

    @property
    def expected(self) -> dict[str, Any]:
        """What its answer has to say of it."""
        return {"id": self.id, "bytes": len(self.body), "crc": zlib.crc32(self.body)}


class Line(asyncio.Protocol):
    """A connection, as its client sees it."""

    def __init__(self, tally: Tally) -> None:
        self.tally = tally
        self.port = 0  # this end's; 0 of a Unix socket
        self.opened = time.monotonic()
        self.pid = 0  # of the process that answered last
        self.moves = 0  # how often that was another one than before
        self.answered = 0
        self.ended = False
        self.waiting: deque[Request] = deque()
        self.over = asyncio.Event()  # nothing is waited for
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """By the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        name = transport.get_extra_info("sockname")
        self.port = name[1] if isinstance(name, tuple) else 0
        self.tally.opened += 1

    def data_received(self, data: bytes) -> None:
        """By the loop."""
        self._data += data
        while self.waiting and (head := parse_head(self._data)) is not None:
            size = head.size + max(0, head.length)
            if len(self._data) < size:
                break
            body, self._data = self._data[head.size : size], self._data[size:]
            self._answer(self.waiting.popleft(), head, body)
        if self._data and not self.waiting and not self.ended:
            self.tally.wrong.append(f"{self._data[:100]!r} to no request at all")
        if not self.waiting:
            self.over.set()

    def eof_received(self) -> None:
        """By the loop, which then closes the connection."""
        self.end("closed")

    def connection_lost(self, exc: Exception | None) -> None:
        """By the loop."""
        self.end(str(exc) if exc else "closed")

    def send(self, data: bytes) -> None:
        """Some bytes of a request."""
        if not self.ended:
            self._transport.write(data)

    def end(self, how: str) -> None:
        """It is over: what was not answered is lost. Idempotent."""
        if self.ended:
            return
        self.ended = True
        if not self.waiting:
            self.tally.idle_closes.append({**self._facts(), "how": how})
        if self._data:
            how = f"{how} after {self._data[:60]!r}"
        while self.waiting:
            lose(self.tally, self.waiting.popleft(), how, **self._facts())
        self.over.set()
        self._transport.abort()

    def hang_up(self) -> None:
        """By this end."""
        self.ended = True
        self._transport.close()

    def _facts(self) -> dict[str, Any]:
        return {"port": self.port, "opened": self.opened, "at": time.monotonic(), "pid": self.pid}

    def _answer(self, request: Request, head: Head, body: bytes) -> None:
        tally = self.tally
        if head.status != 200:
            lose(tally, request, f"status {head.status}: {body[:100]!r}", **self._facts())
        else:
            told = json.loads(body)
            if {key: told[key] for key in request.expected} != request.expected:
                tally.wrong.append(f"{told} instead of {request.expected}")
            self._count(request, told)
        if head.close:
            tally.announced_closes += 1
            self.end("pushed back")

    def _count(self, request: Request, told: dict[str, Any]) -> None:
        tally = self.tally
        if request.kind != FIRST:
            tally.took_s.append(time.monotonic() - request.sent)
        tally.kinds[request.kind] = tally.kinds.get(request.kind, 0) + 1
        tally.releases[told["release"]] = tally.releases.get(told["release"], 0) + 1
        tally.ports.add(told["port"])
        self.moves += self.pid not in (0, told["pid"])
        self.pid = told["pid"]
        self.answered += 1


def lose(tally: Tally, request: Request, how: str, **facts: Any) -> None:
    """It got no answer. `at` is now, if the facts do not say otherwise."""
    known = {"id": request.id, "kind": request.kind, "sent": request.sent, "port": 0, "opened": 0.0, "pid": 0}
    tally.lost.append({**known, "at": time.monotonic(), "how": how, **facts})


class Client:
    """One client. `run` is its task."""

    def __init__(self, crew: "Crew", number: int) -> None:
        self.number = number
        self.line: Line | None = None
        self.busy = False
        self._crew, self._tally, self._plan = crew, crew.tally, crew.plan
        self._random = random.Random(f"{crew.plan.seed} {number}")
        self._requests = 0

    async def run(self) -> None:
        """Ask once, and then whenever the crew goes on."""
        await self._turn(FIRST)
        while True:
            await self._crew.goes_on.wait()
            kind = self._random.choice(KINDS)
            requests = DEPTH if kind == "pipelined" else 1
            mean_s = requests * self._plan.connections / self._plan.rate
            await asyncio.sleep(self._random.uniform(0, 2 * mean_s))
            if self._crew.goes_on.is_set():
                await self._turn(kind)

    async def _turn(self, kind: str) -> None:
        self.busy = True
        requests = [self._request(kind) for _ in range(DEPTH if kind == "pipelined" else 1)]
        self._tally.asked += len(requests)
        try:
            async with asyncio.timeout(ANSWER_S):
                line = await self._connected()
        except (OSError, TimeoutError) as error:
            for request in requests:
                lose(self._tally, request, f"connect: {error!r}")
        else:
            await self._exchange(line, requests)
        self.busy = False

    async def _connected(self) -> Line:
        if self.line is None or self.line.ended:
            self.line = await self._crew.dial()
        return self.line

    async def _exchange(self, line: Line, requests: list[Request]) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._ask(line, requests)
        except TimeoutError:
            line.end(f"no answer within {ANSWER_S:g} s")

    async def _ask(self, line: Line, requests: list[Request]) -> None:
        line.over.clear()
        line.waiting.extend(requests)
        data = b"".join(self._bytes(request) for request in requests)
        if requests[0].kind == "pieces":
            cut = self._random.randrange(1, len(data))
            line.send(data[:cut])
            data = data[cut:]
            await asyncio.sleep(self._random.uniform(0, BETWEEN_PIECES_S))
        line.send(data)
        await line.over.wait()

    def _request(self, kind: str) -> Request:
        self._requests += 1
        body = self._random.randbytes(self._random.randrange(BODY_BYTES_MAX)) if kind in ("post", "pieces") else b""
        return Request(f"{self.number}-{self._requests}", kind, body, time.monotonic())

    def _bytes(self, request: Request) -> bytes:
        slow = self._random.random() < self._plan.slow_share
        sleep_s = self._random.uniform(0, self._plan.slow_s) if slow else 0
        sleep_s = max(sleep_s, FIRST_S * (request.kind == FIRST))
        lines = [f"{'POST' if request.body else 'GET'} /?{sleep_s:.4f} HTTP/1.1", "Host: localhost"]
        lines += [f"X-Id: {request.id}", *([f"Content-Length: {len(request.body)}"] if request.body else [])]
        return "\r\n".join([*lines, "", ""]).encode() + request.body


class Crew:
    """All clients, and what they are told."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.tally = plan, Tally()
        self.goes_on = asyncio.Event()
        self.clients = [Client(self, number) for number in range(plan.connections)]

    async def dial(self) -> Line:
        """A new connection. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        if self.plan.address.startswith("unix:"):
            path = self.plan.address.removeprefix("unix:")
            return (await loop.create_unix_connection(lambda: Line(self.tally), path))[1]
        host, port = self.plan.address.rsplit(":", 1)
        return (await loop.create_connection(lambda: Line(self.tally), host, int(port)))[1]

    async def run(self) -> None:
        """To the end of stdin."""
        tasks = [asyncio.create_task(client.run()) for client in self.clients]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)
        await self._report()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            if line == "resume\n":
                self.goes_on.set()
            else:
                self.goes_on.clear()
                await self._report()
        self.goes_on.clear()
        await self._report()
        for task in tasks:
            task.cancel()
        for client in self.clients:
            if client.line is not None and not client.line.ended:
                client.line.hang_up()

    async def _report(self) -> None:
        """Once nobody waits for an answer. A client whose task has failed is a fault of this program, and told."""
        while any(client.busy for client in self.clients):
            await asyncio.sleep(POLL_S)
        print(json.dumps({**self._told(), "lines": [self._line(client) for client in self.clients]}), flush=True)

    def _told(self) -> dict[str, Any]:
        tally = self.tally
        fields = {name: getattr(tally, name) for name in Tally.__dataclass_fields__}
        took = sorted(tally.took_s)
        quantiles = {str(q): took[min(len(took) - 1, int(len(took) * q))] for q in (0.5, 0.99, 0.999, 1.0) if took}
        return {**fields, "ports": sorted(tally.ports), "took_s": quantiles, "answered": sum(tally.kinds.values())}

    def _line(self, client: Client) -> dict[str, Any]:
        line = client.line
        if line is None or line.ended:
            return {"port": 0, "opened": 0.0, "pid": 0, "moves": 0, "answered": 0}
        return {name: getattr(line, name) for name in ("port", "opened", "pid", "moves", "answered")}


async def main() -> None:
    """Read the plan, carry it out."""
    await Crew(Plan(**json.loads(sys.argv[1]))).run()


if __name__ == "__main__":
    uvloop.run(main())
