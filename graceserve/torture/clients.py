"""The clients, and a connection as they see it. Shell; runs in `graceserve torture`.

Nothing is retried and nothing hidden: what a client sees goes to the tally.
"""

import asyncio
import os
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import graceserve
from graceserve.torture.answers import Answer, Answers, Broken
from graceserve.torture.options import Plan
from graceserve.torture.tally import Kind, Tally
from graceserve.torture.target import Target

DEPTH = 4  # requests that a pipelining client sends at a time
SLOW_BODY_BYTES = 1000
SLOW_PIECES = 10  # of the head, and of the body


class Lost(Exception):
    """The connection ended, or was never made, before the answer. `str()` says how."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What a client of a kind sends at a time: `count` requests of one method."""

    method: str
    count: int
    close: bool
    head: bytes
    body: bytes

    @classmethod
    def of(cls, kind: Kind, plan: Plan) -> "Requests":
        """By the plan."""
        posts = kind in (Kind.SLOW, Kind.UPLOAD)
        method, path = ("POST", plan.upload_path) if posts else ("GET", plan.target.path)
        body = {Kind.SLOW: b"x" * SLOW_BODY_BYTES, Kind.UPLOAD: b"x" * plan.upload_bytes}.get(kind, b"")
        length = [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))] if posts else []
        close = [("Connection", "close")] if kind is Kind.ONE_SHOT else []
        head = head_of(method, path, plan, [*length, *close])
        count = DEPTH if kind is Kind.PIPELINED else 1
        return cls(method, count, bool(close), head * count, body)


def head_of(method: str, path: str, plan: Plan, more: Sequence[tuple[str, str]]) -> bytes:
    """A request's head. A header of the plan replaces one of this program's own."""
    fields = {"host": ("Host", plan.target.authority), "accept": ("Accept", "*/*")}
    fields["user-agent"] = ("User-Agent", f"graceserve-torture/{graceserve.__version__}")
    given = [field for field in plan.headers if field[0].lower() not in fields]
    fields |= {field[0].lower(): field for field in plan.headers if field[0].lower() in fields}
    lines = [f"{name}: {value}" for name, value in (*fields.values(), *given, *more)]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("ascii")


class Line(asyncio.Protocol):
    """A connection: answers with the moment each came (monotonic), and how it ended."""

    def __init__(self) -> None:
        self.received: deque[tuple[Answer, float]] = deque()
        self.ended = ""  # how; empty while the connection is alive
        self.sending = False  # whether a request is not sent to its end
        self.served = 0  # answers so far
        self._answers = Answers()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """By the loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it

    def data_received(self, data: bytes) -> None:
        """By the loop."""
        now = time.monotonic()
        try:
            found = self._answers.feed(data)
        except Broken as error:
            self._end(str(error))
            self.close()
            return
        self.received += [(answer, now) for answer in found]
        self.served += len(found)
        self._wake()

    def eof_received(self) -> None:
        """By the loop, which then closes the connection: nobody here goes on sending to a server that has ended."""
        if self._answers.begun:
            self.data_received(b"")
        self._end(f"closed {self._when()}")

    def connection_lost(self, exc: Exception | None) -> None:
        """By the loop."""
        self._end(f"{_reason(exc) if isinstance(exc, OSError) else 'closed'} {self._when()}")

    def send(self, requests: Requests, data: bytes) -> None:
        """All of `requests`."""
        self.begin(requests)
        self.write(data)

    def begin(self, requests: Requests) -> None:
        """From now on these are expected to be answered."""
        for _ in range(requests.count):
            self._answers.expect(requests.method, requests.close)

    def write(self, data: bytes) -> None:
        """Some bytes of a request; the loop sends them while the client already reads."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    async def answer(self) -> tuple[Answer, float]:
        """The next one, and when it came. Raises `Lost`."""
        while not self.received:
            if self.ended:
                raise Lost(self.ended)
            await self._wait()
        return self.received.popleft()

    async def rest(self, seconds: float) -> None:
        """Wait so long, or until an answer comes or the connection ends."""
        if self.ended or self.received:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Without waiting for what is unsent."""
        if self._transport is not None:
            self._transport.abort()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _when(self) -> str:
        if self.sending:
            return "while the request was being sent"
        return "before the answer" if self._answers.waiting else "while it was idle"

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, how: str) -> None:
        self.ended = self.ended or how
        self._wake()


async def dial(target: Target) -> Line:
    """A connection. Raises `Lost`."""
    loop = asyncio.get_running_loop()
    try:
        if target.socket_path:
            return (await loop.create_unix_connection(Line, target.socket_path))[1]
        return (await loop.create_connection(Line, target.host, target.port))[1]
    except OSError as error:
        raise Lost(f"connect: {_reason(error)}") from None


class Client:
    """One client. `run` is its task; `stop` lets the request in flight finish."""

    def __init__(self, kind: Kind, plan: Plan, tally: Tally, origin: float) -> None:
        self.kind = kind
        self._plan, self._tally, self._origin = plan, tally, origin
        self._requests = Requests.of(kind, plan)
        self._whole = self._requests.head + self._requests.body
        self._line: Line | None = None
        self._waiting = 0  # requests that are to be answered
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """No more requests."""
        self._stopping.set()

    async def run(self) -> None:
        """Ask until `stop`."""
        pause_s = self._requests.count / self._plan.rate
        due = time.monotonic() + random.random() * pause_s
        try:
            while await self._think(due):
                due = time.monotonic() + random.uniform(0.5, 1.5) * pause_s
                await self._turn()
        finally:
            self._drop()

    async def _think(self, due: float) -> bool:
        """Wait until then, and notice if the connection ends meanwhile. False if there is nothing more to do."""
        while not self._stopping.is_set() and (left_s := due - time.monotonic()) > 0:
            if self._line is None:
                await self._sleep(left_s)
                continue
            if not self._line.ended:
                await self._line.rest(min(left_s, 0.25))  # `stop` is seen soon enough
            self._notice_end()
        self._notice_end()
        return not self._stopping.is_set()

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    def _notice_end(self) -> None:
        """A connection that ended between two requests."""
        if self._line is not None and self._line.ended:
            why = f"{self._line.ended}, {self._line.served} requests on it before"
            self._tally.closed(self.kind, self._now(), False, why)
            self._drop()

    async def _turn(self) -> None:
        """One batch of requests, to its end."""
        self._waiting = self._requests.count
        limit_s = self._plan.timeout_s + (self._plan.slow_s if self.kind is Kind.SLOW else 0)
        try:
            async with asyncio.timeout(limit_s):
                await self._exchange()
        except TimeoutError:
            self._give_up(f"no answer within {self._plan.timeout_s:g} s")
        except Lost as error:
            self._give_up(str(error))

    async def _exchange(self) -> None:
        began = time.monotonic()
        line = self._line or await self._dial()
        if self.kind is Kind.SLOW:
            began = await self._dribble(line)
        else:
            line.send(self._requests, self._whole)
        while self._waiting:
            answer, came = await line.answer()
            self._waiting -= 1
            self._tally.answered(self.kind, max(0, began - self._origin), came - self._origin, answer.status)
            if answer.closes:
                self._said_close()
                return

    async def _dial(self) -> Line:
        self._line = await dial(self._plan.target)
        self._tally.opened(self.kind)
        return self._line

    async def _dribble(self, line: Line) -> float:
        """Send a request in pieces, all at once after an early answer. When its last byte was sent (monotonic)."""
        pieces = [*_cut(self._requests.head, SLOW_PIECES), *_cut(self._requests.body, SLOW_PIECES)]
        line.begin(self._requests)
        line.sending = True
        for piece in pieces[:-1]:
            line.write(piece)
            await line.rest(self._plan.slow_s / len(pieces))
            if line.ended and not line.received:
                raise Lost(line.ended)
        line.sending = False
        sent = time.monotonic()
        line.write(pieces[-1])
        return min(sent, line.received[0][1]) if line.received else sent

    def _said_close(self) -> None:
        """The answer announced the end of the connection."""
        assert self._line is not None
        if not self._requests.close:
            why = f"Connection: close, {self._line.served} requests on it"
            self._tally.closed(self.kind, self._now(), True, why)
        if self._waiting:
            self._tally.pushed_back(self.kind, self._waiting)
        self._drop()

    def _give_up(self, why: str) -> None:
        """The rest of the batch is lost."""
        line, self._line = self._line, None
        before = f", {line.served} requests on its connection before" if line is not None and line.served else ""
        self._tally.lost(self.kind, self._now(), why + before, self._waiting)
        if line is not None:
            if line.ended and not self._requests.close:
                self._tally.closed(self.kind, self._now(), False)  # the example is among the lost
            line.close()

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()

    def _now(self) -> float:
        return time.monotonic() - self._origin


def _cut(data: bytes, pieces: int) -> list[bytes]:
    """In pieces of one size, but the last; none is empty."""
    size = max(1, -(-len(data) // pieces))
    return [data[start : start + size] for start in range(0, len(data), size)]


def _reason(error: OSError) -> str:
    """uvloop and asyncio have different words around the same errno."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
