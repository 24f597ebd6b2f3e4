"""The PROXY protocol header in front of a connection, before anything else reads of it. Shell; used in a worker's loop.

Only the header's bytes are taken from the socket; those behind it, a request or a TLS handshake, stay in the kernel for
whoever comes next.
"""

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace

from graceserve.worker.arrival import Arrival
from graceserve.worker.environ import Peer
from graceserve.worker.forwarded import Trust
from graceserve.worker.proxyproto import HEADER_BYTES_MAX, Incomplete, Malformed, Mode, scan


@dataclass(frozen=True, slots=True)
class Expected:
    """From whom a header comes, and in which version."""

    mode: Mode
    of: Trust
    within_s: float  # from the accept on


class Preface:
    """Reads the header of one arrival."""

    __slots__ = ("_arrival", "_done", "_expected", "_loop", "_read", "_timer", "begun", "problem")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        arrival: Arrival,
        expected: Expected,
        done: Callable[["Preface", Arrival | None], None],
    ) -> None:
        """`done` comes once, with the arrival as its client's, or None with `problem` set and the socket closed."""
        self._loop = loop
        self._arrival = arrival
        self._expected = expected
        self._done = done
        self._read = arrival.read
        self._timer: asyncio.TimerHandle | None = None
        self.begun = bool(arrival.read)  # something has come
        self.problem = ""

    @property
    def peer(self) -> Peer:
        """The proxy."""
        return self._arrival.route.peer

    @property
    def arrival(self) -> Arrival:
        """For somebody else, who reads the header from here on; then `let_go`."""
        return replace(self._arrival, read=self._read, counted=None)

    def let_go(self) -> None:
        """Close this process's descriptor; `done` is not called."""
        self._forget()
        self._arrival.sock.close()

    def start(self) -> None:
        """Begin to wait."""
        self._arrival.sock.setblocking(False)
        self._loop.add_reader(self._arrival.sock.fileno(), self._on_readable)
        if self._expected.within_s < float("inf"):
            self._timer = self._loop.call_later(
                self._expected.within_s, self._fail, f"no complete header in {self._expected.within_s:g} s"
            )

    def give_up(self) -> None:
        """Close it."""
        self._fail("the worker is leaving")

    def _on_readable(self) -> None:
        sock = self._arrival.sock
        try:
            seen = sock.recv(HEADER_BYTES_MAX, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(str(error))
            return
        if not seen:
            self._fail("the connection ended before its header")
            return
        self.begun = True
        self._on_bytes(sock, seen)

    def _on_bytes(self, sock: socket.socket, seen: bytes) -> None:
        found = scan(self._read + seen, self._expected.mode)
        match found:
            case Malformed(reason):
                self._fail(reason)
            case Incomplete():  # all of it belongs to the header: take it, or it would wake us for ever
                self._read += sock.recv(len(seen))
            case _:
                sock.recv(found.length_bytes - len(self._read))
                peer = Peer(*found.peer) if found.peer else self.peer
                route = replace(self._arrival.route, peer=peer)
                self._end(replace(self._arrival, route=route, read=b"", counted=None))

    def _fail(self, problem: str) -> None:
        self.problem = problem
        self._end(None)

    def _end(self, arrival: Arrival | None) -> None:
        self._forget()
        if arrival is None:
            self._arrival.sock.close()
        self._done(self, arrival)

    def _forget(self) -> None:
        self._loop.remove_reader(self._arrival.sock.fileno())
        if self._timer is not None:
            self._timer.cancel()
