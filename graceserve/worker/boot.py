"""The app's import and warm-up. Shell (runs the app); used in a worker before its loop exists."""

import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from graceserve.logs import Log
from graceserve.template.load import AppError, WSGIApplication, load_app
from graceserve.worker.environ import Peer, Route, Site, environ
from graceserve.worker.http.policy import Admitted, Body
from graceserve.worker.wsgi import Exchange, Outcome

_ROUTE = Route(Site("warm-up", "localhost", "80"), Peer("127.0.0.1"))


@dataclass(frozen=True, slots=True)
class Booted:
    """An app that can serve; seconds."""

    app: WSGIApplication
    import_s: float
    warmup_s: float


class Failures(Log):
    """A log that keeps the last traceback, for the verdict."""

    detail = ""

    def error(self, event: str, detail: str = "", **fields: Any) -> None:
        """See `Log`."""
        self.detail = detail or event


def boot(spec: str, given: WSGIApplication | None, warmup: tuple[str, ...], constants: dict[str, Any]) -> Booted:
    """Import (unless `given`) and warm the app. Raises `AppError`."""
    started = time.monotonic()
    app = given or load_app(spec)
    imported = time.monotonic()
    for path in warmup:
        warm(app, path, constants)
    return Booted(app, imported - started, time.monotonic() - imported)


def warm(app: WSGIApplication, path: str, constants: dict[str, Any]) -> None:
    """One GET through the app, in this process. Raises `AppError` for a status of 400 or above, or none.

    Also for 404: a typo in the path would else warm nothing up, and nobody would know.
    """
    failures = Failures()
    exchange = Exchange(
        app, environ(_request(path), BytesIO(), 0, _ROUTE, constants), failures, keep_alive=False, close_now=bool
    )
    exchange.set_emit(lambda piece: None)
    while exchange.pull() is not None:
        pass
    exchange.close()
    if exchange.outcome is not Outcome.COMPLETE:
        raise AppError(f"warm-up GET {path}: the response broke off", failures.detail)
    if exchange.status >= 400:
        raise AppError(f"warm-up GET {path}: {exchange.status_line}", failures.detail)


def _request(target: str) -> Admitted:
    host, slash, rest = target.removeprefix("http://").partition("/")  # "" where there is only a path
    raw = (slash + rest).encode("utf-8", "surrogateescape")
    path, _, query = raw.partition(b"?")
    return Admitted(
        method=b"GET",
        target=raw,
        path=path,
        query=query,
        version=b"1.1",
        headers=[(b"user-agent", b"graceserve warm-up"), (b"accept", b"*/*")],
        host=host.encode() or b"localhost",
        keep_alive=False,
        expects_continue=False,
        body=Body.NONE,
        body_bytes=0,
    )
