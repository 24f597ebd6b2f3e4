"""The one policy layer: which requests are served. Pure; used in a worker.

Every request passes `admit`, whatever parser read it, and all that a parser leaves open is decided here, on the strict
side: a proxy in front that reads a request differently is how requests are smuggled (RFC 9112 11.2). What a head may
measure is `reader`'s to look at, before it is parsed. Sections named below are RFC 9112's unless said otherwise.

A request is written down as WSGI wants it at once: variables of environ, strings whose characters are bytes (PEP 3333,
"Unicode Issues"). All requests come this way, so the usual one costs a loop over its fields and no regular expression.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias

from graceserve.worker.http.port import Head, Limits

Fields: TypeAlias = Collection[tuple[bytes, bytes]]


class Body(Enum):
    """How the request's body is framed."""

    NONE = "none"
    LENGTH = "content-length"
    CHUNKED = "chunked"


_NONE = Body.NONE  # a member looked up in its class takes 100 ns on Python 3.11


class Admitted:
    """A request that is served. Nobody changes it any more, as it may stand for the next one with the same head.

    No dataclass, which would have to be told what can be seen; and no defaults in the class, which would take longer to
    look up than they take to store (Python 3.11).
    """

    __slots__ = ("alike", "body", "body_bytes", "differing", "expects_continue", "fields", "is_head", "is_http10",
                 "keep_alive", "raw", "variables")  # fmt: skip

    def __init__(
        self, variables: dict[str, str], raw: bytes = b"", fields: dict[str, str] | None = None,
        differing: dict[str, str] | None = None, alike: "Alike | None" = None,
    ) -> None:  # fmt: skip
        """`variables` are those of environ that the head decides: REQUEST_METHOD, RAW_URI (the target as received),
        PATH_INFO, QUERY_STRING, SERVER_PROTOCOL, HTTP_HOST (the target's host wins), CONTENT_TYPE, ...; with `fields`
        only those of the request line."""
        self.variables = variables
        self.keep_alive = True  # the client allows it
        self.is_head = variables["REQUEST_METHOD"] == "HEAD"  # the response has no body
        self.is_http10 = variables["SERVER_PROTOCOL"] == "HTTP/1.0"  # the client knows neither chunks nor 1xx responses
        self.body: Body = _NONE
        self.body_bytes = 0  # for Body.LENGTH
        self.expects_continue = False
        self.fields = fields  # the others, if `memo` knew them; not to be changed
        self.differing = differing  # fields beside those: the ones that its alikes do not share
        self.alike = alike  # if `fields` have come before, all of them
        self.raw = raw  # the head as it came; the reader's to say

    @property
    def method(self) -> str:
        """As received; case matters."""
        return self.variables["REQUEST_METHOD"]

    @property
    def path(self) -> str:
        """Percent-decoded, each byte a character."""
        return self.variables["PATH_INFO"]


class Alike:
    """What requests with the same fields, byte for byte, have in common. Kept by `memo`."""

    __slots__ = ("base", "environ", "fields", "keep_alive", "latest", "tells_peer")

    def __init__(self, one: Admitted) -> None:
        self.fields = one.fields or one.variables  # perhaps those of its request line, too, to be overwritten
        self.keep_alive = one.keep_alive
        # `Environs`' to use: the environ of such a request, made of this base; whether it says who the client is; and
        # which request's line it holds, if any.
        self.base: dict[str, Any] | None = None
        self.environ: dict[str, Any] = {}
        self.tells_peer = False
        self.latest: Admitted | None = None


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
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")

KEYS_MAX = 1024  # names whose environ keys are remembered; clients invent others
_CGI = ("CONTENT_TYPE", "CONTENT_LENGTH")
_SINGLE = frozenset(("HTTP_HOST", "HTTP_TRANSFER_ENCODING", "HTTP_EXPECT", *_CGI))
# Fields that change what comes of the others, or are wrong twice: of these `memo` knows a line only as a whole.
PLAIN_BUT_KNOWN = frozenset((*_SINGLE, "HTTP_CONNECTION", "HTTP_UPGRADE", "HTTP_PROXY"))
KEEP_ALIVE = "keep-alive"
_OF_THE_LINE = ("REQUEST_METHOD", "RAW_URI", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL")
_NO_KEY = ""  # of a field that the app does not see, or not for sure
_protocols = {b"1.1": "HTTP/1.1", b"1.0": "HTTP/1.0"}
_methods = {word.encode(): word for word in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")}
_usual_methods = frozenset(_methods.values())


class _Keys(dict[bytes, str]):
    """The environ key of a header name, worked out at its first use."""

    def __missing__(self, name: bytes) -> str:
        key = environ_key(name)
        if b"_" in name or key == "HTTP_PROXY":  # HTTP clients in the app obey it (httpoxy, CVE-2016-5385)
            key = _NO_KEY
        if len(self) < KEYS_MAX:
            self[name] = key
        return key


_keys = _Keys()


def environ_key(name: bytes) -> str:
    """RFC 3875 4.1.18."""
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in _CGI and b"_" not in name else f"HTTP_{key}"


def admit(head: Head, limits: Limits) -> Admitted | Refused:  # noqa: C901 - flat, and a call costs more than a test
    """The request, or why it is refused."""
    fields, version = head.fields, head.version
    target = head.target.decode("latin-1")
    path, _, query = target.partition("?")
    made = {
        "REQUEST_METHOD": _methods.get(head.method) or _method(head.method),
        "RAW_URI": target,
        "REQUEST_URI": target,
        "PATH_INFO": unquoted(path) if "%" in path else path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": _protocols.get(version, ""),
    }
    for name, value in fields:
        made[_keys[name]] = value.decode("latin-1").strip(" \t")
    if "HTTP_TRANSFER_ENCODING" in made and not _is_chunked(fields):
        return Refused(501, "transfer coding not known")  # before anything else: h11 says so by itself
    if len(fields) > limits.fields_max:
        return Refused(431, f"more than {limits.fields_max} header fields")
    if len(made) != len(fields) + 6 or _NO_KEY in made:  # 6 are `_OF_THE_LINE`
        joined = _joined(made, fields, limits)
        if isinstance(joined, Refused):
            return joined
        made = joined
    host = made.get("HTTP_HOST")
    if version != b"1.1" or host is None or not is_host(host) or path[:1] != "/" or "#" in target:
        refused = _check_line(made, host)
        if refused is not None:
            return refused
    if head.method not in _methods:
        refused = _check_method(made["REQUEST_METHOD"])
        if refused is not None:
            return refused
    admitted = Admitted(made)
    if "HTTP_CONNECTION" in made or version != b"1.1":
        admitted.keep_alive = _keep_alive(version, made.get("HTTP_CONNECTION", ""))
    if "CONTENT_LENGTH" in made or "HTTP_TRANSFER_ENCODING" in made or "HTTP_EXPECT" in made:
        return _with_body(admitted, limits)
    return admitted


def admit_line(line: bytes) -> dict[str, str] | None:
    """The variables of a usual request line, None of any other: `admit` has to tell what comes of that."""
    try:
        method, target, version = line.decode("latin-1").split(" ")
    except ValueError:
        return None
    if version != "HTTP/1.1" or method not in _usual_methods or target[:1] != "/" or "#" in target:
        return None
    if not (target.isascii() and target.isprintable()):
        return None
    path, query = target, ""
    if "?" in target:
        path, _, query = target.partition("?")
    return {
        "REQUEST_METHOD": method, "RAW_URI": target, "REQUEST_URI": target,
        "PATH_INFO": unquoted(path) if "%" in path else path, "QUERY_STRING": query, "SERVER_PROTOCOL": version,
    }  # fmt: skip


# --- fields


def _joined(made: dict[str, str], fields: Fields, limits: Limits) -> dict[str, str] | Refused:
    """The variables of a head with repeated fields, or with some that the app may not see."""
    anew = {key: made[key] for key in _OF_THE_LINE}
    for name, value in fields:
        key = _keys[name]
        if key == _NO_KEY:
            if b"_" not in name or limits.header_map == "drop":
                continue
            if limits.header_map == "refuse":
                return Refused(400, "a header name with an underscore (--header-map refuse)")
            key = environ_key(name)  # X_Real_IP and X-Real-IP become one
            if key == "HTTP_TRANSFER_ENCODING":  # but no proxy takes Transfer_Encoding for framing
                continue
        text = value.decode("latin-1").strip(" \t")
        if key in anew:
            if key in _SINGLE:
                return Refused(400, f"more than one {name.decode('latin-1')}")
            text = anew[key] + ("; " if key == "HTTP_COOKIE" else ", ") + text  # RFC 9110 5.3, RFC 6265bis 5.8.3
        anew[key] = text
    return anew


def _method(method: bytes) -> str:
    """Empty if it is none."""
    return method.decode("latin-1") if _METHOD.fullmatch(method) else ""


def unquoted(path: str) -> str:
    """Percent-decoded, each byte a character."""
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), path.encode("latin-1")).decode("latin-1")


# --- rules


def _check_line(made: dict[str, str], host: str | None) -> Refused | None:
    """The request line and Host, where they are not as usual: 3 to 3.2."""
    protocol, method, target = made["SERVER_PROTOCOL"], made["REQUEST_METHOD"], made["RAW_URI"]
    if not protocol:
        return Refused(505, "HTTP version not supported")
    if host is None and protocol == "HTTP/1.1":
        return Refused(400, "no Host")
    if host and not is_host(host):
        return Refused(400, "bad Host")
    if not method or method == "CONNECT":
        return _check_method(method)
    if "#" in target:
        return Refused(400, "fragment in the request target")
    if target == "*" and method == "OPTIONS":
        made["PATH_INFO"] = ""  # the server as a whole: RFC 3875 4.1.5 lets a path be empty or begin with a slash
        return None
    if target.startswith("/"):
        return None
    return _take_absolute(made, target)


def _take_absolute(made: dict[str, str], target: str) -> Refused | None:
    """3.2.2: the target's host counts, not the Host field's."""
    absolute = _ABSOLUTE.fullmatch(target)
    if not absolute or absolute[1][:1] in ("", ":") or not is_host(absolute[1]):
        return Refused(400, "bad request target")
    path, _, query = absolute[2].partition("?")
    made["HTTP_HOST"], made["PATH_INFO"], made["QUERY_STRING"] = absolute[1], unquoted(path or "/"), query
    return None


def _check_method(method: str) -> Refused | None:
    """Of one that is not usual."""
    if not method:
        return Refused(400, "bad method")
    return Refused(405, "not a proxy") if method == "CONNECT" else None


@lru_cache(1024)
def is_host(host: str) -> bool:
    """Whether it is a host, with or without a port; also an empty one (3.2)."""
    return HOST.fullmatch(host) is not None


def _with_body(admitted: Admitted, limits: Limits) -> Admitted | Refused:
    """6.1 to 6.3, and RFC 9110 10.1.1."""
    made = admitted.variables
    coding = made.pop("HTTP_TRANSFER_ENCODING", None)  # it is undone before the app sees the body
    framed = _with_length(admitted, limits) if coding is None else _with_coding(admitted, coding)
    if framed is not None:
        return framed
    expects = made.get("HTTP_EXPECT")
    if expects is not None:
        if expects.lower() != "100-continue":
            return Refused(417, "expectation not known")
        admitted.expects_continue = not admitted.is_http10
    return admitted


def _is_chunked(fields: Fields) -> bool:
    """Whether that is the one coding (7)."""
    codings = [value for name, value in fields if _keys[name] == "HTTP_TRANSFER_ENCODING"]
    return len(codings) == 1 and codings[0].strip(b" \t").lower() == b"chunked"


def _with_coding(admitted: Admitted, coding: str) -> Refused | None:
    if "CONTENT_LENGTH" in admitted.variables:
        return Refused(400, "both Transfer-Encoding and Content-Length")
    if admitted.is_http10:
        return Refused(400, "Transfer-Encoding in HTTP/1.0")
    admitted.body = Body.CHUNKED
    return None


def _with_length(admitted: Admitted, limits: Limits) -> Refused | None:
    length = admitted.variables.get("CONTENT_LENGTH", "0")
    if not _LENGTH.fullmatch(length):
        return Refused(400, "bad Content-Length")
    admitted.body_bytes = int(length)
    if admitted.body_bytes > limits.body_bytes_max:
        return Refused(413, f"body over {limits.body_bytes_max} bytes")
    if admitted.body_bytes:
        admitted.body = Body.LENGTH
    return None


def _keep_alive(version: bytes, connection: str) -> bool:
    """9.3. HTTP/1.0 clients have to ask for it."""
    options = {option.strip(" \t").lower() for option in connection.split(",")}
    return "close" not in options and (version == b"1.1" or "keep-alive" in options)
