"""Running an exchange: on the loop thread, or on one of the app's threads. Shell; used in a worker.

Both move pieces from the app to the client at the client's pace, and end with `Client.finished` unless the client went
before. Each request runs in a context of its own, so that context variables don't leak from one to the next.
"""

import asyncio
from collections import deque
from contextvars import Context, copy_context
from typing import Protocol

from graceserve.worker.filewrapper import FilePart
from graceserve.worker.http.policy import Admitted
from graceserve.worker.pool import Pool
from graceserve.worker.watch import Watch
from graceserve.worker.wsgi import OPEN, ClientGone, Exchange, Piece

PIECES_A_TURN = 16  # of an endless response, before other connections get theirs
AHEAD_BYTES_MAX = 256 * 1024  # that an app thread may be ahead of its client


class Client(Protocol):
    """The connection, as a run sees it. For the loop thread only."""

    full: bool  # the client is slow: send no more until `Run.resume`

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more."""

    def send(self, data: bytes) -> None:
        """Buffer a piece for the client. A no-op when nobody reads."""

    def send_early(self, piece: bytes, exchange: Exchange) -> bytes:
        """Send what the kernel takes at once; the rest. On the guard's thread, while the loop thread is busy."""

    def emit(self, piece: bytes) -> None:
        """`send` for an app on the loop thread. Raises `ClientGone`, also if too much is unsent."""

    def send_file(self, part: FilePart) -> None:
        """Send it from its file, behind what is buffered. `full` until that is done."""

    def alone(self) -> None:
        """The app is about to be called: nobody else may, whatever happens. On app threads, too."""

    def running(self, run: "Run") -> None:
        """The exchange takes more than one go."""

    def finished(self, exchange: Exchange, last: bytes | None = None) -> None:
        """Send the last piece. The exchange has ended, and its iterable is closed."""


class Run(Protocol):
    """For the connection, on the loop thread."""

    def resume(self) -> None:
        """The client takes more."""

    def abandon(self) -> None:
        """The client is gone; `Client.finished` follows when the app has let go."""


class Inline:
    """The app on the loop thread: nothing else happens in the worker while it computes (`--threads 1`).

    What it answers is kept until `answer`. Sent in one go, without the app in between, it wakes the other end once and
    not each time (10 us in a virtual machine), and the caches stay the app's. Until then the connection is not idle, so
    that nobody moves it. The guard sends what is kept when the app's next call takes long; if that call ends the
    process before, these answers are lost with it.
    """

    __slots__ = ("_begun", "_kept", "_loop", "watch")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.watch = Watch()
        self._kept: deque[tuple[Client, Exchange, Context, Piece | None]] = deque()  # first pieces, never a `FilePart`
        self._begun: deque[InlineRun] = deque()  # these are sent; there is more to come, or an iterable to be closed

    @property
    def done(self) -> bool:
        """Whether `answer` has nothing to do."""
        return not self._kept and not self._begun

    def call(self, client: Client, exchange: Exchange) -> None:
        """Up to the first piece, which is all of most responses."""
        exchange.writer = client
        context = copy_context()
        if client.full:  # what the client was sent before is not read yet: the app has time
            client.running(InlineRun(client, exchange, self._loop, context, self.watch))
            return
        watch = self.watch
        watch.turn += 1  # as `Watch.run`, whose call would be felt here
        if watch.asleep:  # else who has some called in a row puts the alarm off
            watch.arm()
        try:
            piece = context.run(exchange.begin)
        finally:
            watch.turn += 1
        self._kept.append((client, exchange, context, piece))
        if watch.touched:
            watch.settle()

    def answer(self) -> None:
        """Send the first pieces of all, and then do what there is to do behind each. In this order: an app's `close`
        may take its time. To be called again if it raises (a bug), for those behind that one."""
        kept, begun = self._kept, self._begun
        while kept:
            client, exchange, context, piece = kept.popleft()
            if exchange.outcome is not OPEN:
                client.finished(exchange, piece)  # type: ignore[arg-type]
                continue
            if piece is not None:
                client.send(piece)  # type: ignore[arg-type]
            run = InlineRun(client, exchange, self._loop, context, self.watch)
            client.running(run)
            begun.append(run)
        while begun:
            begun.popleft().go_on()

    def send_early(self, turn: int) -> bool:
        """On the guard's thread, while it is this turn, which takes long. Whether all of it is out."""
        kept = self._kept
        all_out = True
        for at, (client, exchange, context, piece) in enumerate(tuple(kept)):
            if self.watch.turn != turn:
                return True
            if type(piece) is bytes:
                rest = client.send_early(piece, exchange)
                kept[at] = client, exchange, context, rest or None
                all_out = all_out and not rest
        return all_out


class InlineRun:
    """The rest of an exchange on the loop thread."""

    __slots__ = ("_client", "_context", "_exchange", "_loop", "_scheduled", "_watch")

    def __init__(
        self, client: Client, exchange: Exchange, loop: asyncio.AbstractEventLoop, context: Context, watch: Watch
    ) -> None:
        self._client = client
        self._exchange: Exchange | None = exchange
        self._loop = loop
        self._context = context
        self._watch = watch
        self._scheduled = False

    def resume(self) -> None:
        """See `Run`."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def abandon(self) -> None:
        """See `Run`."""
        exchange = self._exchange
        if exchange is not None:
            self._watch.run(self._context, exchange.close)
            self._end(exchange)

    def _pump(self) -> None:
        self._scheduled = False
        self.go_on()

    def go_on(self) -> None:
        """As far as the client takes it."""
        exchange = self._exchange
        if exchange is not None and not self._client.full:
            if self._watch.run(self._context, self._turn, exchange):
                self._end(exchange)
            elif not self._client.full:
                self.resume()

    def _turn(self, exchange: Exchange) -> bool:
        """Some pieces; whether that was all."""
        for _ in range(PIECES_A_TURN):
            piece = exchange.pull()
            self._send(piece)
            if exchange.outcome is not OPEN or piece is None or self._client.gone:
                exchange.close()
                return True
            if self._client.full:
                return False
        return False

    def _send(self, piece: Piece | None) -> None:
        if isinstance(piece, FilePart):
            self._client.send_file(piece)
        elif piece is not None:
            self._client.send(piece)

    def _end(self, exchange: Exchange) -> None:
        self._exchange = None
        self._client.finished(exchange)


class ThreadRun:
    """On one of the pool's threads."""

    __slots__ = (
        "_abandoned", "_ahead", "_context", "_exchange", "_file", "_in_transport", "_pool", "begun", "client", "since",
    )  # fmt: skip

    def __init__(self, client: Client, exchange: Exchange, pool: Pool, since: float) -> None:
        self.client = client
        self.since = since  # it waits for a thread
        self.begun = False
        self._exchange = exchange
        exchange.writer = self
        self._pool = pool
        self._context = copy_context()
        self._file: FilePart | None = None
        self._ahead = 0  # bytes given to the loop that the client's transport has not passed on; guarded by `Pool.room`
        self._abandoned = False  # likewise
        self._in_transport = 0  # of those ahead, how many the transport has; loop thread only

    # --- loop thread

    @property
    def request(self) -> Admitted:
        """What the client wants."""
        return self._exchange.request

    def resume(self) -> None:
        """See `Run`."""
        with self._pool.room:
            self._ahead -= self._in_transport
            self._pool.room.notify_all()
        self._in_transport = 0
        self._after_file()

    def abandon(self) -> None:
        """See `Run`."""
        with self._pool.room:
            self._abandoned = True
            self._pool.room.notify_all()
        self._after_file()

    def _ended(self, last: bytes | None) -> None:
        self._pool.ended()
        self.client.finished(self._exchange, last)

    def _send(self, piece: bytes) -> None:
        self._in_transport += len(piece)
        self.client.send(piece)
        if not self.client.full:
            self.resume()

    def _send_file(self, part: FilePart) -> None:
        """No thread waits for a file's reader: one is asked for again when that is done."""
        self._pool.ended()
        self._file = part
        self.client.send_file(part)
        if self.client.gone:  # about to be lost: that nothing of the file was sent is not the app's fault
            self.abandon()
        elif not self.client.full:
            self._after_file()

    def _after_file(self) -> None:
        if self._file is not None:
            self._file = None
            self._pool.submit(self)

    # --- app thread

    def work(self) -> None:
        """All of it, up to the next file."""
        self.begun = True
        self.client.alone()
        self._context.run(self._turns)

    def _turns(self) -> None:
        exchange = self._exchange
        piece = None if self._abandoned else exchange.pull()
        while exchange.outcome is OPEN and piece is not None:
            if isinstance(piece, FilePart):
                self._pool.tell(self._send_file, piece)
                return
            if not self._put(piece):
                break
            piece = exchange.pull()
        if exchange.outcome is OPEN:  # nobody reads any more
            exchange.close()
            piece = None
        self._pool.tell(self._ended, piece)

    def _put(self, piece: bytes) -> bool:
        """Whether anybody still reads. Waits while the client is slow; its death, or the write timeout, ends that."""
        with self._pool.room:
            self._pool.room.wait_for(lambda: self._abandoned or self._ahead < AHEAD_BYTES_MAX)
            if self._abandoned:
                return False
            self._ahead += len(piece)
        self._pool.tell(self._send, piece)
        return True

    def emit(self, piece: bytes) -> None:
        """See `Writer`."""
        if not self._put(piece):
            raise ClientGone("the client is gone")
