"""Who the client is, as trusted proxies tell it. Pure; used in a worker.

A list (X-Forwarded-For, Forwarded) grows to the right: each proxy appends whom it was called by. So it is read from
the right, and only as far as those who wrote it are trusted. What stands left of that may be the client's invention: it
neither wins nor takes anything away. What can't be read ends the walk, and what was read before it counts.

`*` says that whoever connects is a proxy, and nothing of those who connected to *it*: one hop, the rightmost entry.
Taking the leftmost (as uvicorn does) lets every client choose its address, as most proxies append to what they get. For
more hops name them, also beside it: `*,10.0.0.0/8`. A network of all addresses (`0.0.0.0/0`) is taken like `*`.

X-Forwarded-For, -Proto and -Host win over Forwarded: where one of them is believed and there, it isn't looked at.
Nearly all proxies set the former and pass the latter on as they got it; a mixture would describe no real request.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple, TypeAlias

from graceserve.options import FORWARDED_HEADERS
from graceserve.worker.http.policy import HOST
from graceserve.worker.proxyproto import IPV4, ipv6_text

Network: TypeAlias = IPv4Network | IPv6Network
Peer: TypeAlias = tuple[str, int]

_KEYS = {name: "HTTP_" + name.upper().replace("-", "_") for name in FORWARDED_HEADERS}
_USUAL = frozenset(("x-forwarded-for", "x-forwarded-proto"))
_UNUSUAL_KEYS = frozenset(key for name, key in _KEYS.items() if name not in _USUAL)
_AHEAD_OF_FORWARDED = _USUAL | {"x-forwarded-host"}
_WS = " \t"  # RFC 9110 5.6.3; str.strip() takes more
_CACHED = 2048  # entries of each cache here, and
_CACHED_CHARS_MAX = 200  # the longest header in one: 3 MB a worker at the worst

_ZONE = r"(?:%[A-Za-z0-9._-]{1,15})?"  # IFNAMSIZ; ipaddress takes anything
_V6 = r"[0-9A-Fa-f:.]{2,45}"
_PORT = r"(?::([0-9]{1,5}))?"
_ENTRY = re.compile(rf"({IPV4}){_PORT}|\[({_V6}{_ZONE})\]{_PORT}|({_V6}{_ZONE})")
_NODE = re.compile(rf"({IPV4}){_PORT}|\[({_V6})\]{_PORT}()")  # RFC 7239 6; () as a bare IPv6 address isn't one
_OBFUSCATED_PORT = re.compile(r":_[A-Za-z0-9._-]+\Z")  # RFC 7239 6.3

_PORT_NUMBER = re.compile(r"[1-9][0-9]{0,4}")
_PREFIX = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+;=:@-]+)+")  # no %: it would hide a / or a ..
_SCHEMES = {"https": "https", "wss": "https", "http": "http", "ws": "http"}

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_PAIR_REVERSED = re.compile(  # a `name=value` of RFC 7239 4 and what stands before it, both read from the right
    rf'[ \t]*+(?:(?:"((?:.\\|[^"\\])*)"|({_TOKEN}))=({_TOKEN})[ \t]*+)?([;,]|\Z)', re.DOTALL
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


# --- whom to believe -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)  # eq=False: compared and hashed by identity, as a key of the caches
class Trust:
    """Those who may speak for a client. Made once; `of` takes what `options.peers` has let pass."""

    everybody: bool
    unix: bool
    networks: tuple[Network, ...]

    @classmethod
    def of(cls, text: str) -> "Trust":
        """`text` as in --forwarded-allow-ips."""
        parts = [part.strip() for part in text.split(",") if part.strip()]
        networks = tuple(_network(part) for part in parts if part not in ("*", "unix"))
        return cls("*" in parts, "unix" in parts, networks)

    def covers(self, address: str) -> bool:
        """The peer of a connection; `address` is empty for a Unix socket's."""
        return self.everybody or _covers(self, address)

    def covers_hop(self, address: str) -> bool:
        """An address in a proxy's list: those who are only covered because all are, are no proxies."""
        return _covers_hop(self, address)


def _network(part: str) -> Network:
    """IPv4-mapped ones as IPv4, which the addresses are compared as, too."""
    network = ip_network(part)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


@lru_cache(_CACHED)
def _covers(trust: Trust, address: str) -> bool:
    if not address:
        return trust.unix
    return any(_within(address, network) for network in trust.networks)


@lru_cache(_CACHED)
def _covers_hop(trust: Trust, address: str) -> bool:
    return any(_within(address, network) for network in trust.networks if network.prefixlen)


def _within(address: str, network: Network) -> bool:
    try:
        known = ip_address(address)
    except ValueError:
        return False
    if isinstance(known, IPv4Address):
        return known in network
    if isinstance(network, IPv6Network):  # an operator who names a scope means that link only
        return known in network and network.network_address.scope_id in (None, known.scope_id)
    return known.ipv4_mapped is not None and known.ipv4_mapped in network


# --- what they tell ------------------------------------------------------------------------------------------------


class Told(NamedTuple):  # no dataclass: one is made for each new client, and freezing costs more than the rest of it
    """What a trusted proxy told; None is what it didn't, and there the connection's own counts."""

    scheme: str | None = None  # http or https
    peer: Peer | None = None  # the client; port 0 is unknown
    host: str | None = None
    port: str | None = None
    prefix: str | None = None


NOTHING = Told()


def read(environ: Mapping[str, Any], believed: frozenset[str], trust: Trust) -> Told:
    """What the peer of this request's connection told. It is trusted: `Trust.covers` its address.

    `environ` holds the headers as HTTP_* texts, repeated ones joined by ", ". `believed` are header names out of
    `options.FORWARDED_HEADERS`.
    """
    listed, proto = environ.get("HTTP_X_FORWARDED_FOR", ""), environ.get("HTTP_X_FORWARDED_PROTO", "")
    if len(listed) <= _CACHED_CHARS_MAX and len(proto) <= _CACHED_CHARS_MAX:
        told = _usual(believed, trust, listed, proto)
    else:
        told = _usual_long(believed, trust, listed, proto)
    return told if believed <= _USUAL else _unusual(environ, believed, trust, told)


def client_of(listed: str, believed: frozenset[str], trust: Trust) -> Peer | None:
    """The client as `read` gives it, if X-Forwarded-For is all that is told."""
    return (_usual if len(listed) <= _CACHED_CHARS_MAX else _usual_long)(believed, trust, listed, "").peer


def _usual_long(believed: frozenset[str], trust: Trust, listed: str, proto: str) -> Told:
    """X-Forwarded-For and X-Forwarded-Proto."""
    return Told(
        _scheme(proto) if proto and "x-forwarded-proto" in believed else None,
        _client(trust, listed) if listed and "x-forwarded-for" in believed else None,
    )


_usual = lru_cache(_CACHED)(_usual_long)


def _unusual(environ: Mapping[str, Any], believed: frozenset[str], trust: Trust, told: Told) -> Told:
    if environ.keys().isdisjoint(_UNUSUAL_KEYS):
        return told
    said = {name: environ[key] for name, key in _KEYS.items() if name in believed and key in environ}
    if "forwarded" in said and _AHEAD_OF_FORWARDED.isdisjoint(said):
        value = said["forwarded"]
        told = (_forwarded if len(value) <= _CACHED_CHARS_MAX else _forwarded_long)(trust, value)
    if "x-forwarded-host" in said:
        told = told._replace(host=_host(_nearest(said["x-forwarded-host"])))
    port, prefix = _nearest(said.get("x-forwarded-port", "")), _nearest(said.get("x-forwarded-prefix", ""))
    return told._replace(port=_port(port), prefix=_prefix(prefix))


def _nearest(value: str) -> str:
    """What the nearest proxy said. If that is bad nothing is told: what others said before it may be the client's."""
    return value.rpartition(",")[2].strip(_WS)


def _client(trust: Trust, value: str) -> Peer | None:
    """X-Forwarded-For: the first from the right that is no trusted proxy, or the leftmost."""
    if "," not in value:
        return _entry(value.strip(_WS))
    found, left = None, value.split(",")
    while left:
        entry = _entry(left.pop().strip(_WS))
        if entry is None:
            break
        found = entry
        if left and not trust.covers_hop(entry[0]):
            break
    return found


def _scheme(value: str) -> str | None:
    """X-Forwarded-Proto: https if the nearest proxy says so, and none before it says otherwise."""
    if value in _SCHEMES:
        return _SCHEMES[value]
    said = [_SCHEMES.get(word.strip(_WS).lower()) for word in value.split(",")]
    if said[-1] is None:
        return None
    return "https" if all(word == "https" for word in said) else "http"


def _host(text: str) -> str | None:
    """As the policy has it of Host, but not without a name."""
    return text if HOST.fullmatch(text) and text[:1] not in ("", ":") else None


def _port(text: str) -> str | None:
    return text if _PORT_NUMBER.fullmatch(text) and int(text) <= 65535 else None


def _prefix(text: str) -> str | None:
    """It becomes the beginning of links and redirects: a `//` or a `\\` could lead to another host."""
    return text if _PREFIX.fullmatch(text) else None


# --- one address ---------------------------------------------------------------------------------------------------


def _entry(text: str) -> Peer | None:
    """An entry of X-Forwarded-For: `1.2.3.4`, `1.2.3.4:5678`, `::1`, `[::1]` or `[::1]:80`."""
    return _address(_ENTRY, text)


def _node(text: str) -> Peer | None:
    """A node of RFC 7239 6 that is an address: `1.2.3.4`, `1.2.3.4:5678`, `[::1]`, `[::1]:80`, `[::1]:_hidden`."""
    return _address(_NODE, _OBFUSCATED_PORT.sub("", text))


def _address(form: re.Pattern[str], text: str) -> Peer | None:
    match = form.fullmatch(text)
    if not match:
        return None
    v4, v4_port, bracketed, v6_port, bare = match.groups()
    port = int(v4_port or v6_port or 0)
    if port > 65535:
        return None
    if v4:
        return v4, port
    try:
        return ipv6_text(IPv6Address(bracketed or bare)), port
    except ValueError:
        return None


# --- RFC 7239 ------------------------------------------------------------------------------------------------------


def _forwarded_long(trust: Trust, value: str) -> Told:
    """`Forwarded`: the element of the last trusted proxy, seen from here, and the client that it tells."""
    peer: Peer | None = None
    chosen: dict[str, str] = {}
    for element in _elements_from_the_right(value):
        if not element:  # a proxy that tells nothing
            break
        chosen = element
        node = _node(element.get("for", ""))
        if node is None:  # unknown or obfuscated (6.2, 6.3)
            break
        peer = node
        if not trust.covers_hop(node[0]):
            break
    return Told(_SCHEMES.get(chosen.get("proto", "").lower()), peer, _host(chosen.get("host", "")))


_forwarded = lru_cache(_CACHED)(_forwarded_long)


def _elements_from_the_right(value: str) -> Iterator[dict[str, str]]:
    """The elements (4), names in lower case, up to the first that is malformed.

    Read from the right, as a quote that a client opens and never closes would take what the proxy appended along. The
    other way there is but one reading: from its end, a well-formed element says where it began, whatever is before it.
    """
    text, at = value[::-1], 0
    element: dict[str, str] = {}
    while match := _PAIR_REVERSED.match(text, at):
        quoted, token, name, before = match.groups()
        if name is not None:
            name = name[::-1].lower()
            if name in element:  # 4: not twice in an element
                return
            element[name] = token[::-1] if quoted is None else _ESCAPED.sub(r"\1", quoted[::-1])
        if before != ";":
            yield element
            element = {}
        if not before:
            return
        at = match.end()
