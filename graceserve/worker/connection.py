"""One client connection, from the first byte to the last. Shell; used in a worker, on its loop thread.

    IDLE --bytes--> HEAD --head admitted--> BODY --complete--> RUNNING --response done--> IDLE ...
      |               |                      |                   |
      +-- moved       +------ refused -------+--> LAST <---------+ `Connection: close`        any --> CLOSED

Head and body are read in full before the app is called. Bytes that come while a request runs stay unparsed (and, beyond
a limit, in the kernel), so that requests are answered in order. Only an IDLE connection of which nothing is held in
this process, neither received nor to be sent, can be handed over.
"""

import asyncio
import socket
import struct
import time
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, cast

from graceserve.worker.environ import Route
from graceserve.worker.http.policy import Admitted, Body, Refused, admit
from graceserve.worker.http.port import END, Broken, Head, Limits, Parser
from graceserve.worker.http.response import http_date, plain
from graceserve.worker.runs import Run
from graceserve.worker.spool import Spool
from graceserve.worker.wsgi import Exchange, Outcome

PIPELINED_BYTES_MAX = 65_536  # held while a request runs; then the kernel holds them
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, in seconds."""

    keep_alive_s: float  # between requests
    head_s: float = 60.0  # for a whole head, whatever its pace; nginx's client_header_timeout
    body_idle_s: float = 60.0  # without a byte of the body; nginx's client_body_timeout
    write_stall_s: float = 60.0  # without taking a byte of the response; nginx's send_timeout
    linger_s: float = 2.0  # to read our last byte: closing while it still sends would destroy that


class State(Enum):
    """See the module."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    RUNNING = "running"
    LAST = "last"
    CLOSED = "closed"


@dataclass(slots=True)
class Request:
    """A request on its way in. Only its connection changes it."""

    admitted: Admitted
    spool: Spool


class Home(Protocol):
    """The worker, as its connections see it."""

    limits: Limits
    patience: Patience

    def now(self) -> float:
        """The loop's monotonic clock, seconds."""

    def parser(self) -> Parser:
        """For a new connection."""

    def opened(self, connection: "Connection") -> None:
        """It can receive."""

    def begin(self, connection: "Connection", request: Request) -> Run:
        """Make an exchange of the request. Raises `OSError` if the body's file can't be read."""

    def rested(self, connection: "Connection") -> None:
        """It has become idle."""

    def served(self, connection: "Connection") -> None:
        """The app has let go of its request."""

    def closed(self, connection: "Connection") -> None:
        """Nothing of it is left here, but perhaps a request in an app thread."""

    def refused(self, connection: "Connection", status: int, reason: str) -> None:
        """The client was told off."""

    def soon(self, connection: "Connection") -> None:
        """Call `advance` on the loop's next turn."""


class Connection(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_eof",
        "_held_back",
        "_home",
        "_parser",
        "_request",
        "_run",
        "_stalled_since",
        "_transport",
        "_unsent",
        "full",
        "requests",
        "route",
        "since",
        "sock",
        "state",
    )  # fmt: skip

    def __init__(self, home: Home, sock: socket.socket, route: Route, requests: int) -> None:
        self._home = home
        self.sock = sock  # the transport owns its descriptor
        self.route = route
        self.requests = requests  # begun so far, also before a hand-over
        self.state = State.IDLE
        self.since = home.now()  # of the state, or for BODY of its last byte
        self.full = False
        self._parser = home.parser()
        self._request: Request | None = None
        self._run: Run | None = None
        self._eof = False  # the client sends no more, but may still read
        self._held_back = False  # reading is paused
        self._unsent = 0  # at the last look
        self._stalled_since = self.since

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has its methods, not its base class
        self._home.opened(self)

    def data_received(self, data: bytes) -> None:
        if self.state is State.LAST:
            return
        self._parser.receive(data)
        if self.state is not State.RUNNING:
            self.advance()
        elif self._parser.held_bytes > PIPELINED_BYTES_MAX:
            self._held_back = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """True: keep the connection for the rest of the response."""
        self._eof = True
        return self.state is State.RUNNING or (self.state is State.IDLE and self._parser.held_bytes > 0)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        if self._run is not None:
            self._run.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = State.CLOSED
        self.full = False
        if self._run is not None:
            self._run.abandon()
        else:
            self._drop_request()
        self._home.closed(self)

    # --- runs.Client

    @property
    def gone(self) -> bool:
        return self.state is State.CLOSED or self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        return 0 if self.state is State.CLOSED else self._transport.get_write_buffer_size()

    def send(self, data: bytes) -> None:
        if not self.gone:
            self._transport.write(data)

    def finished(self, exchange: Exchange) -> None:
        self._run = None
        self._drop_request()
        self._home.served(self)
        if self.state is State.CLOSED:
            return
        if exchange.outcome is not Outcome.COMPLETE:
            self._cut(reset=exchange.ends_by_close)
        elif not exchange.keep_alive:
            self._end()
        else:
            self._rest()

    # --- for the worker

    @property
    def busy(self) -> bool:
        """Whether a request has been read in full and its response is not complete."""
        return self.state is State.RUNNING

    def can_move(self) -> bool:
        """Whether nothing but its descriptor would have to go along."""
        return (
            self.state is State.IDLE
            and not self._parser.held_bytes
            and not self._eof
            and not self.gone
            and not self._transport.get_write_buffer_size()
        )

    def hold_still(self) -> int:
        """Stop reading: from here what the client sends stays in the kernel. The descriptor."""
        self._transport.pause_reading()
        return self.sock.fileno()

    def go_on(self) -> None:
        """Undo `hold_still`."""
        self._transport.resume_reading()

    def let_go(self) -> None:
        """Somebody else holds the connection: close this process's descriptor. The client does not notice."""
        self._transport.abort()

    def close_idle(self) -> None:
        """Close it, if no request has begun."""
        if self.state is State.IDLE:
            self._transport.close()

    def advance(self) -> None:
        """Parse what has come, as far as the next complete request."""
        if not self._parses:
            return
        while (event := self._parser.next_event()) is not None:
            if event is END:
                self._dispatch()
                return
            if isinstance(event, bytes | bytearray):
                self._take_body(event)
            elif isinstance(event, Head):
                self._take_head(event)
            elif isinstance(event, Broken):
                self._refuse(event.status, event.reason)
            if not self._parses:
                return
        if self.state is State.IDLE and self._parser.held_bytes:
            self._become(State.HEAD)
        if self._eof:
            self._transport.close()  # the rest of this request will never come

    def check(self, now: float) -> None:
        """Enforce the time limits. Called about once a second."""
        if self._write_stalled(now):
            self._cut(reset=True)
            return
        waited_s, patience = now - self.since, self._home.patience
        match self.state:
            case State.IDLE if waited_s > patience.keep_alive_s:
                self._transport.close()
            case State.HEAD if waited_s > patience.head_s:
                self._refuse(408, f"head not complete in {patience.head_s:.0f} s")
            case State.BODY if waited_s > patience.body_idle_s:
                self._refuse(408, f"no byte of the body for {patience.body_idle_s:.0f} s")
            case State.LAST if waited_s > patience.linger_s and not self._unsent:
                self._transport.abort()

    # --- steps

    @property
    def _parses(self) -> bool:
        return self.state in (State.IDLE, State.HEAD, State.BODY) and not self._transport.is_closing()

    def _become(self, state: State) -> None:
        self.state = state
        self.since = self._home.now()

    def _take_head(self, head: Head) -> None:
        admitted = admit(head, self._home.limits)
        if isinstance(admitted, Refused):
            self._refuse(admitted.status, admitted.reason)
            return
        self._request = Request(admitted, Spool())
        self._become(State.BODY)
        if admitted.expects_continue and admitted.body is not Body.NONE and not self._parser.held_bytes:
            self._transport.write(_CONTINUE)

    def _take_body(self, data: bytes | bytearray) -> None:
        assert self._request is not None, "a body follows a head"
        spool, limit = self._request.spool, self._home.limits.body_bytes_max
        try:
            spool.write(data)
        except OSError as error:
            self._refuse(503, f"no room for the body: {error}")
            return
        self.since = self._home.now()
        if spool.size_bytes > limit:  # only a chunked one: a length was looked at in the head
            self._refuse(413, f"body over {limit} bytes")

    def _dispatch(self) -> None:
        assert self._request is not None, "an end follows a head"
        self._become(State.RUNNING)
        self.requests += 1
        try:
            self._run = self._home.begin(self, self._request)
        except OSError as error:
            self._refuse(503, f"no room for the body: {error}")
            return
        self._run.start()

    def _rest(self) -> None:
        self._become(State.IDLE)
        if self._held_back:
            self._held_back = False
            self._transport.resume_reading()
        if self._parser.held_bytes:
            self._home.soon(self)  # not at once: other connections have their turn first
        elif self._eof:
            self._transport.close()
        else:
            self._home.rested(self)

    def _refuse(self, status: int, reason: str) -> None:
        self._home.refused(self, status, reason)
        self._drop_request()
        self.send(plain(status, http_date(int(time.time()))))
        self._linger()

    def _end(self) -> None:
        if self._parser.held_bytes and not self._eof:
            self._linger()
        else:
            self._become(State.LAST)
            self._transport.close()

    def _linger(self) -> None:
        """Our last byte is on its way, the client may still send: closing now would reset the connection under it."""
        self._become(State.LAST)
        if self._eof or self.gone:
            self._transport.close()
            return
        self._transport.write_eof()
        if self._held_back:
            self._transport.resume_reading()

    def _cut(self, *, reset: bool) -> None:
        """The client must not take for complete what it has. Without a length or chunks only a reset can tell it."""
        if reset and not self.gone:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _write_stalled(self, now: float) -> bool:
        unsent = self.unsent_bytes
        if not unsent or unsent != self._unsent:
            self._unsent, self._stalled_since = unsent, now
        return now - self._stalled_since > self._home.patience.write_stall_s

    def _drop_request(self) -> None:
        if self._request is not None:
            self._request.spool.close()
            self._request = None
