"""The load generator's own process: many clients in one loop, every request accounted for. Shell; a program of its own.

    python -m tests.process.load_program '{"address": "127.0.0.1:8000", "keepalive": 24, "oneshot": 8, ...}'

It prints "ready" when each keep-alive client has had a first response, goes on until its stdin is closed, lets every
request finish, and prints one JSON object. A request fails if it gets no complete 200 response; nothing is retried.
A client thinks `pause_s` between requests (so that connections are idle at times, as a proxy's are).
"""

import heapq
import json
import random
import selectors
import socket
import sys
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

FINISH_S = 30.0  # for the requests in flight at the end
REQUEST_TIMEOUT_S = 30.0
FAILURES_KEPT = 50


class Phase(Enum):
    """What a client does."""

    THINKING = "thinking"
    CONNECTING = "connecting"
    WAITING = "waiting"  # for the response
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do; the JSON object on the command line."""

    address: str
    keepalive: int = 24
    oneshot: int = 8
    pause_s: float = 0.02
    paths: tuple[str, ...] = ("/",)
    headers: dict[str, str] = field(default_factory=dict)
    seed: int = 0


@dataclass
class Tally:
    """What happened. Changed by the clients only."""

    samples: list[tuple[float, float]] = field(default_factory=list)  # (start, latency), seconds, CLOCK_MONOTONIC
    releases: dict[str, int] = field(default_factory=dict)  # by X-Release
    failures: list[str] = field(default_factory=list)  # the first ones
    failed: int = 0
    connects: int = 0
    announced_closes: int = 0  # a keep-alive response that said Connection: close
    idle_closes: int = 0  # a keep-alive connection closed between requests, unannounced

    def fail(self, why: str) -> None:
        """Account for a request that got no 200."""
        self.failed += 1
        if len(self.failures) < FAILURES_KEPT:
            self.failures.append(f"{time.monotonic():.3f} {why}")


@dataclass(slots=True)
class Head:
    """A parsed response head. `length` is -1 for a body until end-of-file, -2 for chunked."""

    status: int
    length: int
    close: bool
    release: str
    size: int  # of the head in bytes


def parse_head(data: bytes) -> Head | None:
    """The head at the start of `data`, None while it is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = data[:end].decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length = int(fields.get("content-length", "-1"))
    if fields.get("transfer-encoding") == "chunked":
        length = -2
    close = fields.get("connection", "").lower() == "close"
    return Head(int(lines[0].split()[1]), length, close, fields.get("x-release", ""), end + 4)


class Client:
    """One client: connects, asks, reads, thinks. The loop calls `start`, `on_io` and `on_time`."""

    def __init__(self, loop: "Loop", number: int, keep: bool) -> None:
        self.loop, self.number, self.keep = loop, number, keep
        self.phase = Phase.THINKING
        self.sock: socket.socket | None = None
        self.data = b""
        self.sent_at = 0.0
        self.done = 0

    def start(self) -> None:
        """Send the next request, on the kept connection or on a new one."""
        self.sent_at = time.monotonic()
        self.data = b""
        if self.sock is None:
            self._connect()
        else:
            self._send()

    def on_io(self) -> None:
        """The socket is ready."""
        if self.phase is Phase.CONNECTING:
            self._connected()
        else:
            self._read()

    def overdue(self, now: float) -> None:
        """Give up on a request that takes too long."""
        if self.phase in (Phase.CONNECTING, Phase.WAITING) and now - self.sent_at > REQUEST_TIMEOUT_S:
            self._failed(f"no response within {REQUEST_TIMEOUT_S} s")

    def _connect(self) -> None:
        self.loop.tally.connects += 1
        self.sock = socket.socket(self.loop.family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        try:
            self.sock.connect(self.loop.target)
        except BlockingIOError:
            self.phase = Phase.CONNECTING
            self.loop.watch(self, selectors.EVENT_WRITE)
            return
        except OSError as error:  # a Unix socket refuses at once; EAGAIN there is a full backlog
            self._failed(f"connect: {error}")
            return
        self._send()

    def _connected(self) -> None:
        assert self.sock is not None
        code = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._failed(f"connect: errno {code}")
        else:
            self._send()

    def _send(self) -> None:
        assert self.sock is not None
        self.phase = Phase.WAITING
        try:
            self.sock.send(self.loop.request(self.keep))
        except OSError as error:
            self._failed(f"send after {self.done} requests on it: {error}")
            return
        self.loop.watch(self, selectors.EVENT_READ)

    def _read(self) -> None:
        assert self.sock is not None
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(f"recv: {error}")
            return
        if not data:
            self._eof()
            return
        self.data += data
        head = parse_head(self.data)
        if head is not None and self._complete(head):
            self._answered(head)

    def _complete(self, head: Head) -> bool:
        if head.length == -2:
            return self.data.endswith(b"0\r\n\r\n")
        return head.length >= 0 and len(self.data) >= head.size + head.length

    def _eof(self) -> None:
        head = parse_head(self.data)
        if self.phase is Phase.WAITING and head is not None and head.length == -1:
            self._answered(head)
        else:
            self._broken(f"closed after {len(self.data)} bytes of a response")

    def _broken(self, why: str) -> None:
        if self.phase is Phase.THINKING:
            self.loop.tally.idle_closes += 1
            self._drop()
        else:
            self._failed(f"{why} ({self.done} requests on it before)")

    def _answered(self, head: Head) -> None:
        now = time.monotonic()
        tally = self.loop.tally
        tally.samples.append((self.sent_at, now - self.sent_at))
        tally.releases[head.release] = tally.releases.get(head.release, 0) + 1
        if head.status != 200:
            tally.fail(f"status {head.status}: {self.data[head.size :][:200]!r}")
        self.done += 1
        if not self.keep or head.close or head.length == -1:
            tally.announced_closes += int(self.keep)
            self._drop()
        self._think()

    def _failed(self, why: str) -> None:
        self.loop.tally.fail(f"client {self.number} {'keep-alive' if self.keep else 'one-shot'}: {why}")
        self._drop()
        self._think()

    def _drop(self) -> None:
        if self.sock is not None:
            self.loop.unwatch(self)
            self.sock.close()
            self.sock = None
            self.done = 0

    def _think(self) -> None:
        self.phase = Phase.THINKING
        self.loop.rest(self)


class Loop:
    """The one waiting place."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.tally = plan, Tally()
        self.random = random.Random(plan.seed)
        self.family, self.target = _target(plan.address)
        count = plan.keepalive + plan.oneshot
        self.clients = [Client(self, number, number < plan.keepalive) for number in range(count)]
        self._selector = selectors.DefaultSelector()
        self._rest: list[tuple[float, int]] = []
        self._stopping_at = 0.0
        self._said_ready = False

    def request(self, keep: bool) -> bytes:
        """The bytes of a next request."""
        path = self.random.choice(self.plan.paths)
        lines = [f"GET {path} HTTP/1.1", "Host: localhost", *(f"{k}: {v}" for k, v in self.plan.headers.items())]
        if not keep:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def watch(self, client: Client, events: int) -> None:
        """Tell the client of these events on its socket."""
        assert client.sock is not None
        try:
            self._selector.modify(client.sock, events, client)
        except KeyError:
            self._selector.register(client.sock, events, client)

    def unwatch(self, client: Client) -> None:
        """No more events of its socket."""
        assert client.sock is not None
        try:
            self._selector.unregister(client.sock)
        except KeyError:
            pass

    def rest(self, client: Client) -> None:
        """Wake the client for its next request after a pause of up to twice `pause_s`."""
        if self._stopping_at:
            client.phase = Phase.DONE
            return
        heapq.heappush(self._rest, (time.monotonic() + self.random.random() * 2 * self.plan.pause_s, client.number))

    def run(self) -> None:
        """To the end of stdin, and until each request has its end."""
        self._selector.register(0, selectors.EVENT_READ, None)
        for client in self.clients:
            self.rest(client)
        while not self._over():
            self._turn()

    def _turn(self) -> None:
        now = time.monotonic()
        wait_s = 0.5 if not self._rest else max(0.0, min(0.5, self._rest[0][0] - now))
        for key, _ in self._selector.select(wait_s):
            if key.data is None:
                self._selector.unregister(0)
                self._stopping_at = time.monotonic()
                self._rest_is_done()
            else:
                key.data.on_io()
        now = time.monotonic()
        while self._rest and self._rest[0][0] <= now:
            self.clients[heapq.heappop(self._rest)[1]].start()
        for client in self.clients:
            client.overdue(now)
        self._say_ready()

    def _rest_is_done(self) -> None:
        for _, number in self._rest:
            self.clients[number].phase = Phase.DONE
        self._rest.clear()

    def _over(self) -> bool:
        if not self._stopping_at:
            return False
        return all(client.phase is Phase.DONE for client in self.clients) or (
            time.monotonic() - self._stopping_at > FINISH_S
        )

    def _say_ready(self) -> None:
        if not self._said_ready and all(client.done for client in self.clients[: self.plan.keepalive]):
            self._said_ready = True
            print("ready", flush=True)


def _target(address: str) -> tuple[int, Any]:
    if address.startswith("unix:"):
        return socket.AF_UNIX, address.removeprefix("unix:")
    host, port = address.rsplit(":", 1)
    return socket.AF_INET, (host, int(port))


def main() -> None:
    """Read the plan, run it, print the tally."""
    options = json.loads(sys.argv[1])
    options["paths"] = tuple(options.get("paths", ("/",)))
    loop = Loop(Plan(**options))
    loop.run()
    tally = loop.tally
    unfinished = sum(client.phase is not Phase.DONE for client in loop.clients)
    if unfinished:
        tally.fail(f"{unfinished} requests never ended")
    print(json.dumps({name: getattr(tally, name) for name in Tally.__dataclass_fields__}))


if __name__ == "__main__":
    main()
