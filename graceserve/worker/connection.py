"""One client connection, from the first byte to the last. Shell; used in a worker, on its loop thread.

    IDLE --bytes--> HEAD --head admitted--> BODY --complete--> RUNNING --response done--> IDLE ...
      |               |                      |                   |
      +---- MOVED ----+------ refused -------+--> LAST <---------+ `Connection: close`        any --> CLOSED

Head and body are read in full before the app is called. Bytes that come while a request runs stay unparsed (and, beyond
a limit, in the kernel), so that requests are answered in order. As long as the app has not been called for a request
the connection can be handed over, with what has been read of it.

The way of a request that has come whole, and has no body, is the hot path: IDLE to RUNNING in one `advance`, and back
when what it was answered is sent (`runs.Inline`).
"""

import asyncio
import socket
import struct
from enum import Enum
from time import time
from typing import Protocol, cast

from graceserve.worker.arrival import Arrival
from graceserve.worker.filesend import FileSender
from graceserve.worker.filewrapper import FilePart
from graceserve.worker.http.policy import Admitted, Body, Refused
from graceserve.worker.http.reader import END, Event, Reader
from graceserve.worker.http.response import plain
from graceserve.worker.ledger import KEPT_BYTES_MAX, NEAR_BYTES, Ledger
from graceserve.worker.patience import Pace, Patience
from graceserve.worker.runs import Run
from graceserve.worker.spool import Spool
from graceserve.worker.wsgi import ClientGone, Exchange, Outcome

HELD_BYTES_MAX = 65_536  # that nobody has looked at, or while a request runs; then the kernel holds them
LARGE_BYTES = 16_384
WRITE_AHEAD_BYTES_MAX = 64 * 1024 * 1024  # for write() on the loop thread, which must not wait for the client
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
_AT_ONCE = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


class State(Enum):
    """See the module."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    RUNNING = "running"
    LAST = "last"
    MOVED = "moved"  # somebody else holds it; closed here as soon as the loop thread can
    CLOSED = "closed"


# A member looked up in its class takes 100 ns on Python 3.11, and the hot path would do that twenty times.
IDLE, HEAD, BODY, RUNNING, LAST, MOVED, CLOSED = State
_BODYLESS, _COMPLETE = Body.NONE, Outcome.COMPLETE


class Home(Protocol):
    """The worker, as its connections see it."""

    patience: Patience
    ledger: Ledger
    draining: bool  # tell it whenever a connection rests
    watches: bool  # tell it whenever a request is `served`

    def now(self) -> float:
        """A monotonic clock, seconds."""

    def reader(self) -> Reader:
        """For a new connection."""

    def opened(self, connection: "Connection") -> None:
        """It can receive."""

    def serve(self, connection: "Connection", request: Admitted, spool: Spool | None) -> None:
        """Serve it; `Connection.running` tells if that takes more than one go. Raises `OSError` if the body's file
        can't be read."""

    def send_file(self, connection: "Connection", part: FilePart) -> FileSender:
        """Start to send it."""

    def rested(self, connection: "Connection") -> None:
        """It has become idle."""

    def served(self, exchange: Exchange, took_s: float) -> None:
        """The app has let go of a request."""

    def closed(self, connection: "Connection") -> None:
        """Nothing of it is left here, but perhaps a request in an app thread."""

    def refused(self, connection: "Connection", status: int, reason: str) -> None:
        """The client was told off."""

    def soon(self, connection: "Connection") -> None:
        """Call `advance` when all that has come is read."""


class Connection(asyncio.Protocol):
    """See the module."""

    __slots__ = (
        "_answered_early",
        "_body_pace",
        "_continued",
        "_eof",
        "_file",
        "_given",
        "_given_bytes",
        "_held_back",
        "_home",
        "_ledger",
        "_near",
        "_reader",
        "_request",
        "_run",
        "_seen",
        "_sender",
        "_spool",
        "_start",
        "_starts",
        "_transport",
        "_waited_s",
        "_whole",
        "_words",
        "_write_pace",
        "fd",
        "full",
        "line",
        "requests",
        "route",
        "since",
        "sock",
        "state",
    )  # fmt: skip

    def __init__(self, home: Home, arrival: Arrival) -> None:
        self._home = home
        self.sock = arrival.sock  # the transport owns its descriptor
        self.fd = arrival.sock.fileno()  # to be known when that is closed
        self.route = arrival.route
        self.requests = arrival.requests  # begun so far, also before a hand-over
        self.state = IDLE
        self.since = home.now()  # of the state
        self.full = False
        self._continued = arrival.continued
        self._waited_s = 0.0  # before it came here, for the rest of a head
        self._whole = False  # the body has been read, and its request is to be served
        self._reader = home.reader()
        if arrival.read:
            self._reader.receive(arrival.read)
            self._waited_s = arrival.waited_s
        else:
            self.since -= arrival.waited_s
        self._request: Admitted | None = None  # whose body is being read, or that was taken back
        self._spool: Spool | None = None
        self._run: Run | None = None
        self._file: FilePart | None = None  # waits for the transport to be empty
        self._sender: FileSender | None = None
        self._eof = False  # the client sends no more, but may still read
        self._held_back = False  # reading is paused
        self._given_bytes = 0  # to the transport so far
        self._answered_early = 0.0  # when, if the guard did it, while that is not known on the loop thread
        self._body_pace: Pace | None = None
        self._write_pace: Pace | None = None
        self._ledger = ledger = home.ledger
        self._words, self._starts, self._given = ledger.words, ledger.starts, ledger.given
        self.line, self._seen = ledger.line(arrival)  # the word when all that was read is noted
        self._start = self._seen  # as on the line, which others may share if it is the spare one
        self._near = ledger.near(self.line)
        if not arrival.continued:  # which is not noted
            self._note()

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's has its methods, not its base class
        self._home.opened(self)
        if self._reader.held:
            self._home.soon(self)

    def data_received(self, data: bytes) -> None:
        """Keep it for now: what has come on all connections is read first, and then served, without a system call in
        between. After each one the caches of processor and memory management are somebody else's."""
        state = self.state
        if state is LAST or state is MOVED:
            return
        size = len(data)
        self._seen = seen = self._seen + size
        reader = self._reader
        reader.receive(data)
        if state is IDLE or state is HEAD:
            if size <= NEAR_BYTES and reader.held is data:  # nearly always
                self._near[:size] = data
                self._words[self.line] = seen
                self._home.soon(self)
                return
            self._note_more(data)
            self._home.soon(self)
            if size < LARGE_BYTES:
                return
        elif state is BODY:
            self._note_more(data)
            self._read_body()
            if self.state is LAST:  # refused: what still comes is to be read, and dropped
                return
        if self._reader.held_bytes > HELD_BYTES_MAX:
            self._held_back = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """True: keep the connection, for the rest of the response, or until what has come before is looked at."""
        self._eof = True
        if self.state is LAST:
            return False
        if self.state is not RUNNING:
            self._home.soon(self)
        return True

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        if self._file is not None:
            self._start_file()
            return
        self.full = False
        if self._run is not None:
            self._run.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = CLOSED
        self.line = self._ledger.spare  # the descriptor may be another connection's when an app thread calls `alone`
        self.full = False
        self._drop_file()
        if self._run is not None:
            self._run.abandon()
        else:
            self._drop_request()
        self._home.closed(self)

    # --- runs.Client

    @property
    def gone(self) -> bool:
        return self.state is CLOSED or self._transport.is_closing()

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        if self.state is CLOSED:
            return 0
        in_file = self._file.left_bytes if self._file is not None else 0
        return self._transport.get_write_buffer_size() + in_file

    def send(self, data: bytes) -> None:
        if self.state is not CLOSED:  # a transport that is only about to be lost drops it
            self._given_bytes += len(data)
            self._transport.write(data)

    def send_early(self, piece: bytes, exchange: Exchange) -> bytes:
        """Past the transport. Threads as for `movable`; `finished` follows. A response that is out and was all there is
        leaves the connection idle: what the client asks next need not wait here."""
        if self.route.secure or self.gone or self._transport.get_write_buffer_size():
            return piece
        try:
            size = self.sock.send(piece, _AT_ONCE)
        except OSError:
            return piece
        self._given_bytes += size
        self._answered_early = self._home.now()
        if size == len(piece) and exchange.outcome is _COMPLETE and exchange.keep_alive and not self._held_back:
            self.state = IDLE
            self._note()
        return piece[size:]

    def emit(self, piece: bytes) -> None:
        if self.gone or self.unsent_bytes > WRITE_AHEAD_BYTES_MAX:
            raise ClientGone("the client does not read what the app writes")
        self.send(piece)

    def send_file(self, part: FilePart) -> None:
        if self.gone:
            return
        self.full = True
        self._file = part
        self._given_bytes += part.left_bytes
        self._transport.set_write_buffer_limits(0)  # `resume_writing` comes when nothing is left unsent
        if not self._transport.get_write_buffer_size():
            self._start_file()

    def finished(self, exchange: Exchange, last: bytes | None = None) -> None:  # noqa: C901 - a call would be felt
        goes_on = exchange.outcome is _COMPLETE and exchange.keep_alive
        state = self.state
        if state is not CLOSED and state is not MOVED:
            if last is not None:
                self._given_bytes += len(last)
            if goes_on and not self._reader.held:  # as `_note`, which counts as soon as the rest is out
                line = self.line
                self._given[line] = self._given_bytes
                self._start = self._starts[line] = self._words[line] = self._seen
            elif goes_on:
                self._note()
            if last is not None:  # as `send`
                self._transport.write(last)
        self._run = None
        if self._spool is not None:
            self._drop_request()
        if self._home.watches:
            self._tell_served(exchange)
        if self.state is CLOSED or self.state is MOVED:
            return
        if not goes_on:
            self._last(exchange)
            return
        self.state = IDLE
        self.since = self._home.now()
        if self._held_back:
            self._read_on()
        if self._reader.held or self._eof:
            self._home.soon(self)  # not at once: other connections have their turn first
        elif self._home.draining:
            self._home.rested(self)

    # --- for the worker

    @property
    def busy(self) -> bool:
        """Whether a request has been read in full and its response is not complete."""
        return self.state is RUNNING

    @property
    def body_bytes(self) -> int:
        """What has come of the request's body."""
        return self._spool.size_bytes if self._spool is not None else 0

    @property
    def at_rest(self) -> bool:
        """Between requests, and nothing of it is held here."""
        return self.state is IDLE and self.movable and not self._reader.held

    @property
    def movable(self) -> bool:
        """Whether somebody else could go on from here. On the guard's thread, too, while the loop thread is busy."""
        state = self.state
        return (
            (state is IDLE or state is HEAD or state is BODY)
            and not self.route.secure
            and (self._spool is None or self._spool.in_memory)
            and not self._transport.is_closing()
            and not self._transport.get_write_buffer_size()
        )

    def arrival(self, *, waits: bool = False) -> Arrival:
        """What whoever goes on needs to know, and is about to be told. `waits`: something has come that was not read
        yet. Threads as for `movable`."""
        counted = self._ledger.counted(self.line)
        self.alone()
        state, waited_s = self.state, self._waited_s
        if state is HEAD or (state is IDLE and not self._reader.held):
            waited_s = self._home.now() - self.since
        body = self._spool.content() if self._spool is not None else b""
        read = self._reader.unserved(self._request if state is BODY else None, body)
        deaths = self._ledger.deaths(self.line)
        return Arrival(
            self.sock, self.route, fresh=False, read=read, requests=self.requests, waited_s=waited_s,
            continued=self._continued, deaths=deaths, waits=waits or bool(read), counted=counted,
        )  # fmt: skip

    def moved(self) -> None:
        """Somebody else holds it: nothing more happens here. Threads as for `movable`; `let_go` follows."""
        self.state = MOVED

    def let_go(self) -> None:
        """Close this process's descriptor. The client does not notice."""
        self._transport.pause_reading()
        self._transport.abort()

    def close_idle(self) -> None:
        """Close it, if no request has begun."""
        if self.state is IDLE:
            self._close()

    def take_back(self, request: Admitted) -> None:
        """It has not begun yet, and is not about to: so it can be moved now. Else to be followed by `again`."""
        self._run = None
        self.requests -= 1
        self.state = BODY
        self._body_pace = None
        self._request = request

    def again(self, run: Run) -> None:
        """Its request waits again."""
        self._request = None
        self._run = run
        self.requests += 1
        self.state = RUNNING

    def advance(self) -> None:
        """Parse what has come, as far as the next complete request, and have that served."""
        while (state := self.state) is IDLE or state is HEAD or state is BODY:
            if self._held_back:
                self._read_on()
            event = END if self._whole else self._reader.next_event()
            if type(event) is Admitted and event.body is _BODYLESS:
                self._serve(event)
                return
            if event is END:
                assert self._request is not None, "an end follows a head"
                self._continued = self._whole = False
                self._serve(self._request)
                return
            if event is None:
                self._wait(state)
                return
            self._take(event)

    def check(self, now: float) -> None:
        """Enforce the time limits. Called about once a second."""
        patience = self._home.patience
        if self.state is IDLE and not self._words[self.line] and self.movable:
            self._note()  # the inbox had no room
        if self._write_stalled(now, patience):
            self._cut(reset=True)
            return
        if self._write_pace is not None:
            self.since = now  # it is not the client's turn yet
        waited_s = now - self.since
        match self.state:
            case State.IDLE if waited_s > patience.keep_alive_s and not self._reader.held:
                self._close()
            case State.HEAD if waited_s > patience.head_s:
                self._refuse(408, f"head not complete in {patience.head_s:g} s")
            case State.BODY if self._body_pace is not None and self._body_pace.too_slow(now, self.body_bytes):
                self._refuse(408, f"body too slow: {self.body_bytes} bytes so far")
            case State.LAST if waited_s > patience.linger_s:
                self._transport.abort()

    # --- the ledger

    def alone(self) -> None:
        """From here on nobody else could go on, even if this process is killed. On app threads, too."""
        self._words[self.line] = 0

    def _note(self) -> None:
        """Between requests: whoever goes on begins with what is held here."""
        line = self.line
        self._given[line] = self._given_bytes
        held = self._reader.unserved(None, b"")
        if len(held) <= KEPT_BYTES_MAX:
            self._ledger.keep(line, 0, held)
            self._start = self._starts[line] = self._seen - len(held)
            self._words[line] = self._seen

    def _note_more(self, data: bytes) -> None:
        """They follow what was noted, if anything was."""
        kept = self._seen - self._start
        if not self._words[self.line] or kept > KEPT_BYTES_MAX:
            self.alone()
            return
        self._ledger.keep(self.line, kept - len(data), data)
        self._words[self.line] = self._seen

    # --- steps

    def _read_on(self) -> None:
        self._held_back = False
        self._transport.resume_reading()

    def _become(self, state: State) -> None:
        self.state = state
        self.since = self._home.now()

    def _read_body(self) -> None:
        """At once, and not when all that has come is read: a large body would pile up until then."""
        while self.state is BODY and not self._whole:
            event = self._reader.next_event()
            if event is None:
                return
            if event is END:
                self._whole = True
                self._home.soon(self)
            else:
                self._take(event)

    def _wait(self, state: State) -> None:
        """For the rest of a request."""
        if state is IDLE and self._reader.held:
            self._become(HEAD)
            self.since -= self._waited_s
            self._waited_s = 0.0
        if self._eof:
            self._close()  # which will never come

    def _take(self, event: Event) -> None:
        """What does not complete a request."""
        if isinstance(event, Admitted):
            self._take_head(event)
        elif isinstance(event, Refused):
            self._refuse(event.status, event.reason)
        elif isinstance(event, bytes):
            self._take_body(event)

    def _take_head(self, request: Admitted) -> None:
        self._waited_s = 0.0
        self._request = request
        self._spool = Spool()
        self._become(BODY)
        self._body_pace = Pace(self._home.patience.body_s, self.since)
        if request.expects_continue and not self._reader.held and not self._continued:
            self._continued = True
            self.alone()  # that the client was told so is not noted
            self.send(_CONTINUE)

    def _take_body(self, data: bytes) -> None:
        assert self._spool is not None, "a body follows a head"
        try:
            self._spool.write(data)
        except OSError as error:
            self._refuse(503, f"no room for the body: {error}")

    def _serve(self, request: Admitted) -> None:
        self.state = RUNNING
        self.requests += 1
        self._waited_s = 0.0
        if self._home.watches:
            self.since = self._home.now()
        try:
            self._home.serve(self, request, self._spool)
        except OSError as error:
            self._refuse(503, f"no room for the body: {error}")

    def running(self, run: Run) -> None:
        """The request is not served at once."""
        self._run = run

    def _tell_served(self, exchange: Exchange) -> None:
        answered = self._answered_early or self._home.now()
        self._home.served(exchange, answered - self.since)
        self._answered_early = 0.0

    def _last(self, exchange: Exchange) -> None:
        if exchange.outcome is _COMPLETE:
            self._end()
        else:
            self._cut(reset=exchange.ends_by_close)

    def _refuse(self, status: int, reason: str) -> None:
        self.alone()
        self._home.refused(self, status, reason)
        self._drop_request()
        self.send(plain(status, time()))
        self._linger()

    def _end(self) -> None:
        if self._reader.held and not self._eof:
            self._linger()
        else:
            self._close()

    def _close(self) -> None:
        """Once all is sent."""
        self.alone()
        self._become(LAST)
        self._transport.close()

    def _linger(self) -> None:
        """Our last byte is on its way, the client may still send: closing now would reset the connection under it."""
        self._become(LAST)
        if self._eof or self.gone or not self._transport.can_write_eof():  # TLS can't close one direction
            self._transport.close()
            return
        self._transport.write_eof()
        if self._held_back:
            self._read_on()

    def _cut(self, *, reset: bool) -> None:
        """The client must not take for complete what it has. Without a length or chunks only a reset can tell it."""
        if reset and not self.gone:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def _write_stalled(self, now: float, patience: Patience) -> bool:
        unsent = self.unsent_bytes
        if not unsent:
            self._write_pace = None
            return False
        taken = self._given_bytes - unsent
        if self._write_pace is None:
            self._write_pace = Pace(patience.write_s, now, taken)
        return self._write_pace.too_slow(now, taken)

    # --- a file

    def _start_file(self) -> None:
        part = self._file
        assert part is not None
        if self._sender is not None or self.gone:
            return
        try:
            self._sender = self._home.send_file(self, part)
        except OSError:  # no descriptor for it; the client has a head already, so all that is left is to cut it off
            self.file_sent(False)

    def file_sent(self, ok: bool) -> None:
        """By the sender, at its end."""
        self._file = self._sender = None
        if not ok:
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits()
        self.resume_writing()

    def _drop_file(self) -> None:
        if self._sender is not None:
            self._sender.stop()
        self._file = self._sender = None

    def _drop_request(self) -> None:
        self._request = None
        if self._spool is not None:
            self._spool.close()
            self._spool = None
