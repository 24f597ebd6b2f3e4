"""Running an exchange: on the loop thread, or on one of the app's threads. Shell; used in a worker.

Both move pieces from the app to the client at the client's pace, and end with `Client.finished` unless the client went
before. Each request runs in a context of its own, so that context variables don't leak from one to the next.
"""

import asyncio
import threading
from contextvars import copy_context
from typing import Protocol

from graceserve.worker.pool import Pool
from graceserve.worker.wsgi import ClientGone, Exchange

PIECES_A_TURN = 16  # of an endless response, before other connections get theirs
AHEAD_BYTES_MAX = 256 * 1024  # that an app thread may be ahead of its client
WRITE_AHEAD_BYTES_MAX = 64 * 1024 * 1024  # for write() on the loop thread, which must not wait for the client


class Client(Protocol):
    """The connection, as a run sees it. For the loop thread only."""

    @property
    def full(self) -> bool:
        """Whether the client is slow: send no more until `Run.resume`."""

    @property
    def gone(self) -> bool:
        """Whether nobody reads any more."""

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""

    def send(self, data: bytes) -> None:
        """Buffer a piece for the client. A no-op when nobody reads."""

    def finished(self, exchange: Exchange) -> None:
        """The exchange has ended, and its iterable is closed."""


class Run(Protocol):
    """For the connection, on the loop thread."""

    def start(self) -> None:
        """Once, first."""

    def resume(self) -> None:
        """The client takes more."""

    def abandon(self) -> None:
        """The client is gone; `Client.finished` follows when the app has let go."""


class InlineRun:
    """On the loop thread: nothing else happens in the worker while the app computes (`--threads 1`)."""

    __slots__ = ("_client", "_context", "_exchange", "_loop", "_scheduled")

    def __init__(self, client: Client, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._exchange: Exchange | None = exchange
        self._loop = loop
        self._context = copy_context()
        self._scheduled = False
        exchange.set_emit(self._emit)

    def start(self) -> None:
        """See `Run`."""
        self._pump()

    def resume(self) -> None:
        """See `Run`."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def abandon(self) -> None:
        """See `Run`."""
        self._end()

    def _pump(self) -> None:
        self._scheduled = False
        exchange, client = self._exchange, self._client
        for _ in range(PIECES_A_TURN):
            if exchange is None or client.full:
                return
            # The app must not see a loop in its thread: Django's ORM and asyncio.run() would refuse to work.
            asyncio._set_running_loop(None)
            try:
                piece = self._context.run(exchange.pull)
            finally:
                asyncio._set_running_loop(self._loop)
            if piece is None or client.gone:
                self._end()
                return
            client.send(piece)
        self.resume()

    def _emit(self, piece: bytes) -> None:
        if self._client.gone or self._client.unsent_bytes > WRITE_AHEAD_BYTES_MAX:
            raise ClientGone("the client does not read what the app writes")
        self._client.send(piece)

    def _end(self) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        asyncio._set_running_loop(None)
        try:
            self._context.run(exchange.close)
        finally:
            asyncio._set_running_loop(self._loop)
        self._client.finished(exchange)


class ThreadRun:
    """On one of the pool's threads."""

    __slots__ = ("_abandoned", "_ahead", "_client", "_exchange", "_in_transport", "_loop", "_pool", "_room")

    def __init__(self, client: Client, exchange: Exchange, loop: asyncio.AbstractEventLoop, pool: Pool) -> None:
        self._client = client
        self._exchange = exchange
        self._loop = loop
        self._pool = pool
        self._room = threading.Condition()  # guards the next two
        self._ahead = 0  # bytes given to the loop that the client's transport has not passed on
        self._abandoned = False
        self._in_transport = 0  # of those, how many the transport has; loop thread only
        exchange.set_emit(self._emit)

    # --- loop thread

    def start(self) -> None:
        """See `Run`."""
        context = copy_context()
        self._pool.submit(lambda: context.run(self._work))

    def resume(self) -> None:
        """See `Run`."""
        with self._room:
            self._ahead -= self._in_transport
            self._room.notify_all()
        self._in_transport = 0

    def abandon(self) -> None:
        """See `Run`."""
        with self._room:
            self._abandoned = True
            self._room.notify_all()

    def _send(self, piece: bytes) -> None:
        self._in_transport += len(piece)
        self._client.send(piece)
        if not self._client.full:
            self.resume()

    def _ended(self) -> None:
        self._pool.ended()
        self._client.finished(self._exchange)

    # --- app thread

    def _work(self) -> None:
        while (piece := self._exchange.pull()) is not None:
            if not self._put(piece):
                break
        self._exchange.close()
        try:
            self._loop.call_soon_threadsafe(self._ended)
        except RuntimeError:  # the loop is closed: the process is at its end
            pass

    def _put(self, piece: bytes) -> bool:
        """Whether anybody still reads. Waits while the client is slow; its death, or the write timeout, ends that."""
        with self._room:
            self._room.wait_for(lambda: self._abandoned or self._ahead < AHEAD_BYTES_MAX)
            if self._abandoned:
                return False
            self._ahead += len(piece)
        try:
            self._loop.call_soon_threadsafe(self._send, piece)
        except RuntimeError:
            return False
        return True

    def _emit(self, piece: bytes) -> None:
        if not self._put(piece):
            raise ClientGone("the client is gone")
