"""Keep-alive clients in a process of their own: `python -m tests.http.load_program ADDRESS CLIENTS`.

Each client sends a request that names itself, checks that the answer is its own, and goes on after a pause of a random
length, some with the request cut in two. Ends with its stdin; then says on stdout, as JSON, what became of them all.
"""

import asyncio
import json
import os
import random
import socket
import sys
from collections import Counter

import uvloop


class Client(asyncio.Protocol):
    """One connection, and after an announced close the next."""

    def __init__(self, number: int, load: "Load") -> None:
        self.number = number
        self.load = load
        self.sent = 0
        self.received = b""
        self.waits = False
        self.announced = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # uvloop's has the methods, not the base class
        self.next()

    def next(self) -> None:
        if self.load.over:
            self.load.done(self)
            return
        self.sent += 1
        token = f"{self.number}-{self.sent}"
        raw = f"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {len(token)}\r\n\r\n{token}".encode()
        self.waits = True
        cut = self.load.random.choice((0, 0, 10, len(raw) - 2))
        if cut:
            self.transport.write(raw[:cut])
            asyncio.get_running_loop().call_later(0.001, self.write, raw[cut:])
        else:
            self.transport.write(raw)

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if not end:
            return
        token = f"{self.number}-{self.sent}".encode()
        if len(body) < len(token):
            return
        good = head.startswith(b"HTTP/1.1 200 ") and body == token and self.waits
        self.load.counts["good" if good else "wrong"] += 1
        self.received, self.waits = b"", False
        self.announced = b"connection: close" in head.lower()
        if not self.announced:
            asyncio.get_running_loop().call_later(self.load.random.random() * 0.004, self.next)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.load.over and not self.waits:
            return
        self.load.counts["announced" if self.announced and not self.waits else "lost"] += 1
        self.load.connect(self.number)


class Load:
    def __init__(self, address: str, clients: int) -> None:
        self.address = address
        self.clients = clients
        self.counts: Counter[str] = Counter()
        self.over = False
        self.random = random.Random(clients)
        self.tasks: set[asyncio.Task[object]] = set()
        self.left = clients
        self.ended = asyncio.Event()

    def connect(self, number: int) -> None:
        if self.over:
            self.left -= 1
            self.check()
            return
        self.counts["connections"] += 1
        task = asyncio.get_running_loop().create_task(self._connect(number))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _connect(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        if self.address.startswith("unix:"):
            await loop.create_unix_connection(lambda: Client(number, self), self.address[5:])
        else:
            host, port = self.address.rsplit(":", 1)
            await loop.create_connection(lambda: Client(number, self), host, int(port), family=socket.AF_INET)

    def done(self, client: Client) -> None:
        client.transport.close()
        self.left -= 1
        self.check()

    def check(self) -> None:
        if self.left <= 0:
            self.ended.set()

    async def run(self) -> None:
        for number in range(self.clients):
            self.connect(number)
        loop = asyncio.get_running_loop()
        loop.add_reader(0, self.stop)
        await asyncio.wait_for(self.ended.wait(), 600)
        print(json.dumps(self.counts))

    def stop(self) -> None:
        data = os.read(0, 100)
        if data:  # asked how far it is
            print(json.dumps(self.counts), flush=True)
            return
        asyncio.get_running_loop().remove_reader(0)
        self.over = True


async def main() -> None:
    await Load(sys.argv[1], int(sys.argv[2])).run()


if __name__ == "__main__":
    uvloop.run(main())
