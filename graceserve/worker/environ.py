"""The environ of a request (PEP 3333, and RFC 3875 behind it). Pure; used in a worker."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from graceserve.worker.http.policy import Admitted, Body, scheme

_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CGI_NAMES = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
_DECODED = frozenset((b"transfer-encoding", b"host"))  # the coding is undone, the host is the policy's to say
_PORTS = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Site:
    """A listener: its name, as messages carry it, and where it listens. `host` is empty for a Unix socket."""

    name: str
    host: str = ""
    port: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a connection, the nearest proxy if there is one. `address` is empty for a Unix socket."""

    address: str = ""
    port: int = 0


@dataclass(frozen=True, slots=True)
class Route:
    """How a connection came in."""

    site: Site
    peer: Peer


def constants(threads: int, generation: int, draining: Any, errors: Any, file_wrapper: Any) -> dict[str, Any]:
    """What is the same in every environ of a worker."""
    return {
        "wsgi.version": (1, 0),
        "wsgi.errors": errors,
        "wsgi.multithread": threads > 1,
        "wsgi.multiprocess": True,  # two generations at a reload, also with one worker
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "wsgi.file_wrapper": file_wrapper,
        "SCRIPT_NAME": "",
        "SERVER_SOFTWARE": "graceserve",
        "graceserve.generation": generation,
        "graceserve.draining": draining,
    }


def environ(
    request: Admitted, body: Any, body_bytes: int, route: Route, constant: dict[str, Any]
) -> dict[str, Any]:
    """`body` is the input, `body_bytes` how much is in it (known of a chunked body, too: it was read in full)."""
    peer, made = route.peer, constant.copy()
    url_scheme = scheme(request, peer.address)
    _add_headers(made, request)
    if request.body is not Body.NONE:
        made["CONTENT_LENGTH"] = str(body_bytes)
    made["wsgi.input"] = body
    made["wsgi.url_scheme"] = url_scheme
    made["REQUEST_METHOD"] = request.method.decode("latin-1")
    made["RAW_URI"] = made["REQUEST_URI"] = request.target.decode("latin-1")
    made["PATH_INFO"] = unquoted(request.path)
    made["QUERY_STRING"] = request.query.decode("latin-1")
    made["SERVER_PROTOCOL"] = "HTTP/" + request.version.decode("latin-1")
    made["REMOTE_ADDR"] = peer.address
    if peer.port:
        made["REMOTE_PORT"] = str(peer.port)
    made["SERVER_NAME"], made["SERVER_PORT"] = _server(route.site, request.host.decode("latin-1"), url_scheme)
    return made


def unquoted(path: bytes) -> str:
    """Percent-decoded, each byte a character (PEP 3333, "Unicode Issues")."""
    if b"%" in path:
        path = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), path)
    return path.decode("latin-1")


@lru_cache(512)
def key(name: bytes) -> str:
    """The environ key of a header with this lower-case name."""
    return _CGI_NAMES.get(name) or "HTTP_" + name.decode("latin-1").upper().replace("-", "_")


def _add_headers(made: dict[str, Any], request: Admitted) -> None:
    for name, value in request.headers:
        if name in _DECODED:
            continue
        k, text = key(name), value.decode("latin-1")
        if k in made:  # RFC 9110 5.3; cookies RFC 6265bis 5.8.3
            text = made[k] + ("; " if name == b"cookie" else ", ") + text
        made[k] = text
    if request.host:
        made["HTTP_HOST"] = request.host.decode("latin-1")


def _server(site: Site, host: str, url_scheme: str) -> tuple[str, str]:
    """SERVER_NAME and SERVER_PORT: the listening address, or for a Unix socket what the client called us."""
    if site.host:
        return site.host, site.port
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name, port = host, _PORTS[url_scheme]
    return name or "localhost", port
