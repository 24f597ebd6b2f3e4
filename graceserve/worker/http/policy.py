"""The one policy layer: which requests are served. Pure; used in a worker.

Every request passes `admit`, whatever parser read it, and all that a parser leaves open is decided here, on the strict
side: a proxy in front that reads a request differently is how requests are smuggled (RFC 9112 11.2). Sections named
below are RFC 9112's unless said otherwise. What a head may measure is `reader`'s to look at, before it is parsed.

A request is written down as WSGI wants it at once: strings whose characters are bytes (PEP 3333, "Unicode Issues"), the
header fields by their environ keys. On the way of every request, so it is written for speed: the usual head costs one
loop over its fields and no regular expression.
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from graceserve.worker.http.port import Head, Limits


class Body(Enum):
    """How the request's body is framed."""

    NONE = "none"
    LENGTH = "content-length"
    CHUNKED = "chunked"


@dataclass(slots=True)  # not frozen, as `Head`
class Admitted:
    """A request that is served."""

    method: str
    target: str  # as received
    path: str  # still percent-encoded
    query: str
    protocol: str  # "HTTP/1.1"
    variables: dict[str, str]  # the header fields by environ key: HTTP_HOST (the target's host wins), CONTENT_TYPE ...
    keep_alive: bool  # the client allows it
    expects_continue: bool
    body: Body
    body_bytes: int  # for Body.LENGTH

    @property
    def host(self) -> str:
        """Whom the client asks, empty if it does not say."""
        return self.variables.get("HTTP_HOST", "")


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that is answered with this status; the connection closes."""

    status: int
    reason: str


# lower case is refused: frameworks upper-case it, proxies don't
_METHOD = re.compile(rb"[A-Z][A-Z0-9!#$%&'*+.^_`|~-]{0,31}")
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]{0,5})?")  # RFC 3986 3.2.2
_ABSOLUTE = re.compile(r"https?://([^/?#]*)([^#]*)", re.IGNORECASE)
_LENGTH = re.compile(r"[0-9]{1,18}")

KEYS_MAX = 1024  # names whose environ keys are remembered; clients invent others
_SINGLE = frozenset(("HTTP_HOST", "CONTENT_LENGTH", "HTTP_TRANSFER_ENCODING", "HTTP_EXPECT", "CONTENT_TYPE"))
_DROPPED = ""  # the key of a field that the app does not see
_keys: dict[bytes, str] = {  # `proxy` would be HTTP_PROXY, which HTTP clients in the app obey (httpoxy, CVE-2016-5385)
    b"Proxy": _DROPPED, b"proxy": _DROPPED, b"PROXY": _DROPPED,
    b"Content-Type": "CONTENT_TYPE", b"Content-Length": "CONTENT_LENGTH",
    b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH",
}  # fmt: skip
_methods = {word.encode(): word for word in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}


def admit(head: Head, limits: Limits) -> Admitted | Refused:
    """The request, or why it is refused."""
    method = _methods.get(head.method) or _method(head.method)
    if len(head.fields) > limits.fields_max:
        return Refused(431, f"more than {limits.fields_max} header fields")
    if head.version not in (b"1.1", b"1.0"):
        return Refused(505, "HTTP version not supported")
    if not method:
        return Refused(400, "bad method")
    variables = _variables(head, limits)
    if isinstance(variables, Refused):
        return variables
    protocol = "HTTP/1.1" if head.version == b"1.1" else "HTTP/1.0"
    refused = _check_host(variables.get("HTTP_HOST"), protocol)
    if refused is not None:
        return refused
    target = head.target.decode("latin-1")
    path, mark, query = target.partition("?")
    if path[:1] != "/" or "#" in target or method == "CONNECT":
        place = _other_form(method, target, variables)
        if isinstance(place, Refused):
            return place
        path, query = place
    admitted = Admitted(method, target, path, query, protocol, variables, protocol == "HTTP/1.1", False, Body.NONE, 0)
    if "HTTP_CONNECTION" in variables:
        admitted.keep_alive = _keep_alive(protocol, variables["HTTP_CONNECTION"])
    if "CONTENT_LENGTH" in variables or "HTTP_TRANSFER_ENCODING" in variables or "HTTP_EXPECT" in variables:
        return _with_body(admitted, limits)
    return admitted


# --- fields


def _variables(head: Head, limits: Limits) -> dict[str, str] | Refused:
    """The fields that rules look at, and those that the app sees."""
    made: dict[str, str] = {}
    for name, value in head.fields:
        key = _keys.get(name)
        if key is None:
            key = _learned(name, limits.header_map)
            if key is None:
                return Refused(400, "a header name with an underscore (--header-map refuse)")
        made[key] = value.decode("latin-1").strip(" \t")
    if len(made) == len(head.fields) and _DROPPED not in made:
        return made
    return _joined(head, limits)


def _joined(head: Head, limits: Limits) -> dict[str, str] | Refused:
    """As `_variables`, for a head with repeated fields."""
    made: dict[str, str] = {}
    for name, value in head.fields:
        key = _keys.get(name) or _learned(name, limits.header_map)
        if not key:
            continue
        text = value.decode("latin-1").strip(" \t")
        if key in made:
            if key in _SINGLE:
                return Refused(400, f"more than one {name.decode('latin-1')}")
            text = made[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text  # RFC 9110 5.3, RFC 6265bis 5.8.3
        made[key] = text
    return made


def _learned(name: bytes, header_map: str) -> str | None:
    """The environ key of a name that is not known yet, None if `header_map` refuses it."""
    if b"_" in name and header_map != "dangerous":  # X_Real_IP and X-Real-IP would be one
        return None if header_map == "refuse" else _DROPPED
    key = name.decode("latin-1").upper().replace("-", "_")
    if key == "PROXY":
        return _DROPPED
    key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
    if len(_keys) < KEYS_MAX and b"_" not in name:
        _keys[name] = key
    return key


def _method(method: bytes) -> str:
    """Empty if it is none."""
    return method.decode("latin-1") if _METHOD.fullmatch(method) else ""


# --- rules


def _check_host(host: str | None, protocol: str) -> Refused | None:
    """3.2."""
    if host is None:
        return Refused(400, "no Host") if protocol == "HTTP/1.1" else None
    return None if is_host(host) else Refused(400, "bad Host")


@lru_cache(1024)
def is_host(host: str) -> bool:
    """Whether it is a host, with or without a port; also an empty one (3.2)."""
    return HOST.fullmatch(host) is not None


def _other_form(method: str, target: str, variables: dict[str, str]) -> tuple[str, str] | Refused:
    """Path and query of a target that is not in origin-form (3.2.1)."""
    if method == "CONNECT":
        return Refused(405, "not a proxy")
    if "#" in target:
        return Refused(400, "fragment in the request target")
    if target == "*" and method == "OPTIONS":
        return "*", ""
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute or not absolute[1] or not is_host(absolute[1]):
        return Refused(400, "bad request target")
    variables["HTTP_HOST"] = absolute[1]  # 3.2.2: the target's host counts, not the Host field's
    path, _, query = absolute[2].partition("?")
    return path or "/", query


def _with_body(admitted: Admitted, limits: Limits) -> Admitted | Refused:
    """6.1 to 6.3, and RFC 9110 10.1.1."""
    coding = admitted.variables.pop("HTTP_TRANSFER_ENCODING", None)  # it is undone before the app sees the body
    length = admitted.variables.get("CONTENT_LENGTH")
    expects = admitted.variables.get("HTTP_EXPECT")
    if coding is not None:
        if length is not None:
            return Refused(400, "both Transfer-Encoding and Content-Length")
        if admitted.protocol != "HTTP/1.1":
            return Refused(400, "Transfer-Encoding in HTTP/1.0")
        if coding.lower() != "chunked":
            return Refused(501, "transfer coding not known")
        admitted.body = Body.CHUNKED
    elif length is not None:
        if not _LENGTH.fullmatch(length):
            return Refused(400, "bad Content-Length")
        admitted.body_bytes = int(length)
        if admitted.body_bytes > limits.body_bytes_max:
            return Refused(413, f"body over {limits.body_bytes_max} bytes")
        if admitted.body_bytes:
            admitted.body = Body.LENGTH
    if expects is not None:
        if expects.lower() != "100-continue":
            return Refused(417, "expectation not known")
        admitted.expects_continue = admitted.protocol == "HTTP/1.1"
    return admitted


def _keep_alive(protocol: str, connection: str) -> bool:
    """9.3. HTTP/1.0 clients have to ask for it."""
    options = {option.strip().lower() for option in connection.split(",")}
    return "close" not in options and (protocol == "HTTP/1.1" or "keep-alive" in options)
