"""A client that sends each request when it is due, over whichever of its connections is free. Shell.

What is due while no connection is free waits, and that counts. `select` and not `epoll`: its timeout is in
microseconds, that of epoll in whole milliseconds.
"""

import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.peers import HOST

CLOSES = b"\r\nconnection: close"


@dataclass(frozen=True, slots=True)
class Request:
    """When it is due, in seconds from the begin of a run, and its bytes."""

    due_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """One request. Seconds from the begin of the run; `trouble` is empty if the right answer came in time."""

    due_s: float
    sent_s: float
    end_s: float
    queued: bool  # no connection was free when it was due
    trouble: str


@dataclass(slots=True)
class Counts:
    """Of connections. The client alone changes them."""

    opened: int = 0
    announced: int = 0  # closed after `Connection: close`
    cut: int = 0  # closed without a word, idle or not
    given_up: int = 0  # by the client, for want of an answer


@dataclass(slots=True)
class _Asked:
    number: int
    sent_s: float
    queued: bool
    answer: bytes = b""


class Client:
    """So many connections. A closed one is opened again for the next request that is due, not before.

    (A server that closes each connection may read a connection as soon as it is there, and wait for it.)
    """

    def __init__(self, port: int, connections: int, body: bytes, timeout_s: float) -> None:
        self.counts = Counts()
        self._port = port
        self._body = body
        self._timeout_s = timeout_s
        self._closed = connections
        self._free: deque[socket.socket] = deque()  # the longest idle one is first, and taken first: all are in use
        self._asked: dict[socket.socket, _Asked] = {}  # the busy ones, in the order in which they were sent
        self._requests: Sequence[Request] = ()
        self._found: dict[int, Answered] = {}
        self._began = 0.0

    def run(self, requests: Sequence[Request]) -> list[Answered]:
        """All of them, in order of their due time, until the last one is answered or given up."""
        self._requests, self._found, self._began = requests, {}, time.monotonic()
        number, full_until_s = 0, -1.0
        while number < len(requests) or self._asked:
            now = self._now()
            while number < len(requests) and requests[number].due_s <= now and self._has_room():
                self._ask(number, queued=requests[number].due_s <= full_until_s)
                number += 1
            full = not self._has_room()
            self._listen(self._next_s(number))
            if full:
                full_until_s = self._now()
        return [self._found[number] for number in range(len(requests))]

    def close(self) -> None:
        """All connections."""
        for sock in (*self._free, *self._asked):
            sock.close()

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _has_room(self) -> bool:
        """Whether a request could be sent."""
        return bool(self._free or self._closed)

    def _next_s(self, number: int) -> float:
        """When there is something to do if nothing comes."""
        times = [self._requests[number].due_s] if number < len(self._requests) and self._has_room() else []
        times += [asked.sent_s + self._timeout_s for asked in list(self._asked.values())[:1]]
        return min(times, default=0.0)

    def _ask(self, number: int, queued: bool) -> None:
        asked = _Asked(number, self._now(), queued)
        try:
            sock = self._free.popleft() if self._free else self._connect()
        except OSError as error:
            self._note(asked, f"connect: {error}")
            return
        self._asked[sock] = asked
        try:
            sock.send(self._requests[number].data)
        except OSError as error:
            self._lost(sock, f"send: {error}")

    def _connect(self) -> socket.socket:
        sock = socket.create_connection((HOST, self._port), self._timeout_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._closed -= 1
        self.counts.opened += 1
        return sock

    def _listen(self, until_s: float) -> None:
        wait_s = max(until_s - self._now(), 0.0)
        for sock in select.select([*self._free, *self._asked], [], [], wait_s)[0]:
            self._read(sock)
        before_s = self._now() - self._timeout_s
        for sock in [sock for sock, asked in self._asked.items() if asked.sent_s <= before_s]:
            self.counts.given_up += 1
            self._end(sock, "no answer in time")

    def _read(self, sock: socket.socket) -> None:
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if sock not in self._asked:  # nobody asked: the server has closed it
            self._free.remove(sock)
            self._drop(sock)
            self.counts.cut += 1
            return
        asked = self._asked[sock]
        asked.answer += data
        if not data:
            self._lost(sock, "closed")
        elif asked.answer.endswith(b"\r\n\r\n" + self._body):
            self._finish(sock, asked)

    def _finish(self, sock: socket.socket, asked: _Asked) -> None:
        """The answer is whole."""
        head = asked.answer.lower()
        trouble = "" if head.startswith((b"http/1.1 200 ", b"http/1.0 200 ")) else repr(asked.answer[:40])
        if CLOSES in head or head.startswith(b"http/1.0"):
            self.counts.announced += 1
            self._end(sock, trouble)
        else:
            self._note(self._asked.pop(sock), trouble)
            self._free.append(sock)

    def _lost(self, sock: socket.socket, trouble: str) -> None:
        self.counts.cut += 1
        self._end(sock, trouble)

    def _end(self, sock: socket.socket, trouble: str) -> None:
        self._note(self._asked.pop(sock), trouble)
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        sock.close()
        self._closed += 1

    def _note(self, asked: _Asked, trouble: str) -> None:
        due_s = self._requests[asked.number].due_s
        self._found[asked.number] = Answered(due_s, asked.sent_s, self._now(), asked.queued, trouble)
