"""The one policy layer: which requests are served. Pure; used in a worker.

Every request passes `admit`, whatever parser read it, and all that a parser leaves open is decided here, on the strict
side: a proxy in front that reads a request differently is how requests are smuggled (RFC 9112 11.2). Sections named
below are RFC 9112's unless said otherwise.
"""

import re
from dataclasses import dataclass
from enum import Enum

from graceserve.worker.http.port import Head, Limits


class Body(Enum):
    """How the request's body is framed."""

    NONE = "none"
    LENGTH = "content-length"
    CHUNKED = "chunked"


@dataclass(slots=True)  # not frozen, as `Head`
class Admitted:
    """A request that is served. `headers` are those that the app sees: lower-case names, no ambiguous ones."""

    method: bytes
    target: bytes  # as received
    path: bytes  # still percent-encoded
    query: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    host: bytes
    keep_alive: bool  # the client allows it
    expects_continue: bool
    body: Body
    body_bytes: int  # for Body.LENGTH


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is answered with this status; the connection closes."""

    status: int
    reason: str


_METHOD = re.compile(rb"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,31}")  # lower case: frameworks upper-case it, proxies don't
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]{0,5})?")  # RFC 3986 3.2.2
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110 5.5, all but HTAB
_LOOPBACK = frozenset(("", "127.0.0.1", "::1", "::ffff:127.0.0.1"))  # "" is a Unix socket's peer

_RULED = frozenset(
    (b"host", b"content-length", b"transfer-encoding", b"connection", b"expect", b"content-type")
)  # looked at here, and at most once each, but for `connection`
_HIDDEN = frozenset(
    (b"proxy",)  # would be HTTP_PROXY, which HTTP clients in the app obey (httpoxy, CVE-2016-5385)
)


def admit(head: Head, limits: Limits) -> Admitted | Refused:
    """The request, or why it is refused."""
    if head.oddities:
        return Refused(400, head.oddities[0].value)
    if head.version not in (b"1.1", b"1.0"):
        return Refused(505, "HTTP version not supported")
    if not _METHOD.fullmatch(head.method):
        return Refused(400, "bad method")
    if len(head.headers) > limits.fields_max:
        return Refused(431, f"more than {limits.fields_max} header fields")
    ruled, kept = _sort(head)
    if isinstance(ruled, Refused):
        return ruled
    framing = _framing(head, ruled, limits)
    if isinstance(framing, Refused):
        return framing
    place = _place(head, ruled.get(b"host"))
    if isinstance(place, Refused):
        return place
    expects = ruled.get(b"expect", b"").lower()
    if expects not in (b"", b"100-continue"):
        return Refused(417, "expectation not known")
    path, query, host = place
    return Admitted(
        method=head.method,
        target=head.target,
        path=path,
        query=query,
        version=head.version,
        headers=kept,
        host=host,
        keep_alive=_keep_alive(head.version, ruled.get(b"connection", b"")),
        expects_continue=bool(expects) and head.version == b"1.1",
        body=framing[0],
        body_bytes=framing[1],
    )


def scheme(request: Admitted, peer: str) -> str:
    """`https` if a proxy on this machine says so in X-Forwarded-Proto (gunicorn's default `--forwarded-allow-ips`)."""
    if peer in _LOOPBACK:
        said = [value.lower() for name, value in request.headers if name == b"x-forwarded-proto"]
        if said and all(value == b"https" for value in said):
            return "https"
    return "http"


def _sort(head: Head) -> tuple[dict[bytes, bytes] | Refused, list[tuple[bytes, bytes]]]:
    """The fields that rules look at, and those that the app sees."""
    ruled: dict[bytes, bytes] = {}
    kept: list[tuple[bytes, bytes]] = []
    for name, value in head.headers:
        if _CONTROL.search(value):
            return Refused(400, "control character in a header"), kept
        if name in _RULED:
            if name in ruled and name != b"connection":
                return Refused(400, f"more than one {name.decode()}"), kept
            ruled[name] = ruled[name] + b"," + value if name in ruled else value
        elif b"_" in name:
            continue  # X_Forwarded_For and X-Forwarded-For would be one name in environ
        if name not in _HIDDEN:
            kept.append((name, value))
    return ruled, kept


def _framing(head: Head, ruled: dict[bytes, bytes], limits: Limits) -> tuple[Body, int] | Refused:
    """6.1 to 6.3."""
    coding, length = ruled.get(b"transfer-encoding"), ruled.get(b"content-length")
    if coding is not None:
        if length is not None:
            return Refused(400, "both Transfer-Encoding and Content-Length")
        if head.version == b"1.0":
            return Refused(400, "Transfer-Encoding in HTTP/1.0")
        if coding.lower() != b"chunked":
            return Refused(501, "transfer coding not known")
        return Body.CHUNKED, 0
    if length is None:
        return Body.NONE, 0
    if not _LENGTH.fullmatch(length):
        return Refused(400, "bad Content-Length")
    if int(length) > limits.body_bytes_max:
        return Refused(413, f"body over {limits.body_bytes_max} bytes")
    return (Body.LENGTH if int(length) else Body.NONE), int(length)


def _place(head: Head, host: bytes | None) -> tuple[bytes, bytes, bytes] | Refused:
    """Path, query and host (3.2, 3.3)."""
    target = head.target
    if host is None and head.version != b"1.0":
        return Refused(400, "no Host")
    if host and not _HOST.fullmatch(host):
        return Refused(400, "bad Host")
    if head.method == b"CONNECT":
        return Refused(405, "not a proxy")
    if b"#" in target:
        return Refused(400, "fragment in the request target")
    if not target.startswith(b"/"):
        if target == b"*" and head.method == b"OPTIONS":
            return b"*", b"", host or b""
        absolute = _ABSOLUTE.fullmatch(target)
        if not absolute or not absolute[1] or not _HOST.fullmatch(absolute[1]):
            return Refused(400, "bad request target")
        host, target = absolute[1], absolute[2]  # 3.2.2: the target's host counts, not the Host field's
        target = target if target.startswith(b"/") else b"/" + target
    path, _, query = target.partition(b"?")
    return path, query, host or b""


def _keep_alive(version: bytes, connection: bytes) -> bool:
    """9.3. HTTP/1.0 clients have to ask for it."""
    if not connection:
        return version == b"1.1"
    options = {option.strip().lower() for option in connection.split(b",")}
    return b"close" not in options and (version == b"1.1" or b"keep-alive" in options)
