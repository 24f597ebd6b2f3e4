"""The environ of a request (PEP 3333, and RFC 3875 behind it). Pure; used in a worker."""

from dataclasses import dataclass, field
from typing import Any

from graceserve.worker.forwarded import NOTHING, Told, Trust, client_of, read
from graceserve.worker.http.policy import Admitted, Alike, Body

_CHUNKED = Body.CHUNKED  # a member looked up in its class takes 100 ns on Python 3.11
# A base has room for them: to overwrite is cheaper than to insert, and a copy of a dict keeps its size.
_OF_A_REQUEST = dict.fromkeys(
    ("wsgi.input", "REQUEST_METHOD", "RAW_URI", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL",
     "REMOTE_ADDR"), ""
)  # fmt: skip
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


@dataclass(slots=True)
class Route:
    """How a connection came in. `Environs.welcome` fills the last three."""

    site: Site
    peer: Peer
    secure: bool = False  # TLS
    base: dict[str, Any] = field(default_factory=dict)  # what all requests of this site have in common; shared
    port: str = ""  # the peer's, as text
    trusted: bool = False  # whether the peer is believed what it says of the client


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


class Environs:
    """Makes environs. `script_name` is where the app is mounted ($SCRIPT_NAME, as gunicorn's)."""

    def __init__(
        self, constant: dict[str, Any], trust: Trust, believed: frozenset[str], script_name: str = ""
    ) -> None:
        self._constant = constant
        self._trust = trust
        self._believed = believed
        self._believes_more = not believed <= {"x-forwarded-for", "x-forwarded-proto"}
        self._script_name = script_name.rstrip("/")
        self._bases: dict[tuple[Site, bool, bool, bool], dict[str, Any]] = {}

    def welcome(self, route: Route) -> None:
        """Prepare for the requests of a connection."""
        route.trusted = bool(self._believed) and self._trust.covers(route.peer.address)
        route.port = str(route.peer.port) if route.peer.port else ""
        key = route.site, route.secure, route.trusted, not route.port  # `_rebase` relies on it
        base = self._bases.get(key)
        if base is None:
            scheme = "https" if route.secure else "http"
            base = self._bases[key] = {
                **self._constant, "wsgi.url_scheme": scheme, "SERVER_NAME": route.site.host,
                "SERVER_PORT": route.site.port, **_OF_A_REQUEST,
            }  # fmt: skip
        route.base = base

    def make(self, request: Admitted, body: Any, body_bytes: int, route: Route) -> dict[str, Any]:
        """`body` is the input, `body_bytes` how much is in it (known of a chunked body, too: it was read in full)."""
        alike, own = request.alike, request.differing
        if alike is None or self._script_name or (
            own is not None and (self._believes_more or "HTTP_X_FORWARDED_PROTO" in own)  # more follows from these
        ):
            return self._make(request, body, body_bytes, route)
        if alike.base is not route.base:
            self._rebase(alike, request, route)
        if own is None:
            if alike.latest is not request:
                alike.latest = request
                alike.environ.update(request.variables)
            made = alike.environ.copy()
        else:
            made = alike.environ.copy()
            made.update(request.variables)
            made.update(own)
        made["wsgi.input"] = body
        if alike.tells_peer:
            return made
        if own is not None and route.trusted and "HTTP_X_FORWARDED_FOR" in own:
            client = client_of(own["HTTP_X_FORWARDED_FOR"], self._believed, self._trust)
            if client is not None:
                made["REMOTE_ADDR"], port = client
                if port:
                    made["REMOTE_PORT"] = str(port)
                return made
        made["REMOTE_ADDR"] = route.peer.address
        if route.port:
            made["REMOTE_PORT"] = route.port
        return made

    def _rebase(self, alike: Alike, request: Admitted, route: Route) -> None:
        """In the environs of those that are alike, and of connections with the same base, nothing differs but what the
        request line says, the body, the fields of its own, and the peer, unless the others tell who the client is."""
        alike.base, alike.latest = route.base, None
        alike.environ = self._make(Admitted(request.variables, fields=alike.fields), None, 0, route)
        alike.tells_peer = route.trusted and self._told(alike.environ).peer is not None
        if not alike.tells_peer:
            alike.environ.pop("REMOTE_PORT", None)  # of this connection

    def _make(self, request: Admitted, body: Any, body_bytes: int, route: Route) -> dict[str, Any]:
        made = route.base.copy()
        if request.fields is not None:
            made.update(request.fields)
        if request.differing is not None:
            made.update(request.differing)
        made.update(request.variables)
        made["wsgi.input"] = body
        made["REMOTE_ADDR"] = route.peer.address
        if route.port:
            made["REMOTE_PORT"] = route.port
        if request.body is _CHUNKED:
            made["CONTENT_LENGTH"] = str(body_bytes)
        if self._script_name:
            _mount(made, self._script_name)
        if route.trusted:
            told = self._told(made)
            if told is not NOTHING:
                _believe(made, told)
        if not route.site.host:
            made["SERVER_NAME"], made["SERVER_PORT"] = _server(made.get("HTTP_HOST", ""), made["wsgi.url_scheme"])
        return made

    def _told(self, made: dict[str, Any]) -> Told:
        """By a peer that is trusted."""
        if "HTTP_X_FORWARDED_FOR" in made or "HTTP_X_FORWARDED_PROTO" in made or self._believes_more:
            return read(made, self._believed, self._trust)
        return NOTHING


def _mount(made: dict[str, Any], prefix: str) -> None:
    """What is not below the prefix was not sent through the proxy that adds it (a health check): it stays as it is."""
    path = made["PATH_INFO"]
    if path == prefix or path.startswith(prefix + "/"):
        made["SCRIPT_NAME"], made["PATH_INFO"] = prefix, path[len(prefix) :]


def _believe(made: dict[str, Any], told: Told) -> None:
    """What a trusted proxy says of its client."""
    scheme, peer, host, port, prefix = told
    if scheme:
        made["wsgi.url_scheme"] = scheme
    if peer:
        made["REMOTE_ADDR"], client_port = peer
        made.pop("REMOTE_PORT", None)
        if client_port:
            made["REMOTE_PORT"] = str(client_port)
    if host:
        made["HTTP_HOST"] = host
    if port:
        made["SERVER_PORT"] = port
        made["HTTP_HOST"] = _with_port(made.get("HTTP_HOST", ""), port, made["wsgi.url_scheme"])
    if prefix:
        made["SCRIPT_NAME"] = prefix


def _with_port(host: str, port: str, scheme: str) -> str:
    """The host as its URL shows it: without the port that goes without saying."""
    name = host if host.endswith("]") or ":" not in host else host.rpartition(":")[0]
    return name if not name or port == _PORTS[scheme] else f"{name}:{port}"


def _server(host: str, scheme: str) -> tuple[str, str]:
    """SERVER_NAME and SERVER_PORT behind a Unix socket: what the client called us."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name, port = host, _PORTS[scheme]
    return name or "localhost", port
