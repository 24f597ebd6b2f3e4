"""The app's import and warm-up. Shell (runs the app); used in a worker before its loop exists."""

import time
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from graceserve.logs import Log
from graceserve.template.load import AppError, WSGIApplication, load_app
from graceserve.worker.environ import Environs, Peer, Route, Site
from graceserve.worker.http.policy import Admitted, unquoted
from graceserve.worker.wsgi import Exchange, Gateway, Outcome

_SITE = Site("warm-up", "localhost", "80")


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


def boot(spec: str, given: WSGIApplication | None, warmup: tuple[str, ...], environs: Environs) -> Booted:
    """Import (unless `given`) and warm the app. Raises `AppError`."""
    started = time.monotonic()
    app = given or load_app(spec)
    imported = time.monotonic()
    for path in warmup:
        warm(app, path, environs)
    return Booted(app, imported - started, time.monotonic() - imported)


def warm(app: WSGIApplication, path: str, environs: Environs) -> None:
    """One GET through the app, in this process. Raises `AppError` for a status of 400 or above, or none.

    Also for 404: a typo in the path would else warm nothing up, and nobody would know.
    """
    failures = Failures()
    route = Route(_SITE, Peer("127.0.0.1"))
    environs.welcome(route)
    request = _request(path)
    gateway = Gateway(app, failures, close_now=bool)
    exchange = Exchange(gateway, request, environs.make(request, BytesIO(), 0, route))
    exchange.writer = _Nobody()
    while exchange.pull() is not None:
        pass
    exchange.close()
    if exchange.outcome is not Outcome.COMPLETE:
        raise AppError(f"warm-up GET {path}: the response broke off", failures.detail)
    if exchange.status_code >= 400:
        raise AppError(f"warm-up GET {path}: {exchange.status}", failures.detail)


def _request(url: str) -> Admitted:
    host, slash, rest = url.removeprefix("http://").partition("/")  # "" where there is only a path
    target = (slash + rest).encode("utf-8", "surrogateescape").decode("latin-1")
    path, _, query = target.partition("?")
    request = Admitted(
        {
            "REQUEST_METHOD": "GET", "RAW_URI": target, "REQUEST_URI": target, "PATH_INFO": unquoted(path),
            "QUERY_STRING": query, "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": host or "localhost",
            "HTTP_USER_AGENT": "graceserve warm-up", "HTTP_ACCEPT": "*/*",
        }
    )  # fmt: skip
    request.keep_alive = False
    return request


class _Nobody:
    """Reads what a warm-up writes."""

    def emit(self, piece: bytes) -> None:
        """See `Writer`."""
