"""What a worker writes into its access log, and when. Shell; used in a worker, on its loop thread."""

import asyncio
import os
import time
from typing import Any

from graceserve.logs import Log
from graceserve.worker.access_format import Entry, refused
from graceserve.worker.access_log import FLUSH_S, AccessLog
from graceserve.worker.http.response import Header
from graceserve.worker.wsgi import Exchange


class Journal:
    """One a worker, if it has an access log."""

    def __init__(self, access: AccessLog, loop: asyncio.AbstractEventLoop, log: Log) -> None:
        self._access = access
        self._loop = loop
        self._log = log
        self._pid = os.getpid()

    def served(self, exchange: Exchange, took_s: float) -> None:
        """A request that the app has let go of."""
        self._note(exchange.environ, exchange.status, exchange.headers, exchange.body_bytes, took_s)

    def refused(self, peer: str, status: int, took_s: float) -> None:
        """A request that the app never saw."""
        self._note(refused(peer), str(status), [], 0, took_s)

    def reopen(self) -> None:
        """The file was moved away."""
        if not self._access.reopen():
            self._log.error("access-log-not-reopened", reason=self._access.problem)

    def close(self) -> None:
        """Write what is left."""
        self._access.close()
        self._tell_dropped()

    def _note(self, environ: dict[str, Any], status: str, headers: list[Header], size: int, took_s: float) -> None:
        if self._access.add(Entry(environ, status, headers, size, took_s, time.time(), self._pid)):
            self._loop.call_later(FLUSH_S, self._flush)

    def _flush(self) -> None:
        if self._access.flush():
            self._loop.call_later(FLUSH_S, self._flush)
        self._tell_dropped()

    def _tell_dropped(self) -> None:
        if dropped := self._access.take_dropped():
            self._log.warning("access-log-dropped", lines=dropped, reason=self._access.problem)
