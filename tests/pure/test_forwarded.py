"""Who the client is: each rule as a table, spoofing attempts, and arbitrary values."""

import ipaddress
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceserve.options import FORWARDED_HEADERS, peers
from graceserve.worker.forwarded import NOTHING, Told, Trust, read

ALL = frozenset(FORWARDED_HEADERS)
USUAL = frozenset(("x-forwarded-for", "x-forwarded-proto"))
PROXIES = "127.0.0.1,::1,unix,10.0.0.0/8,fd00::/8"
TRUST = Trust.of(PROXIES)
Client = tuple[str, int] | None


def environ(**headers: str) -> dict[str, str]:
    """`x_forwarded_for=...`, among others that a request has."""
    return {"HTTP_HOST": "a", "REMOTE_ADDR": "127.0.0.1"} | {f"HTTP_{name.upper()}": v for name, v in headers.items()}


def told(peer: str = "127.0.0.1", trust: Trust = TRUST, /, **headers: str) -> Told:
    """As `Environs` asks."""
    return read(environ(**headers), ALL, trust) if trust.covers(peer) else NOTHING


# --- whom to believe -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "covered", "not_covered"),
    [
        ("127.0.0.1,::1,unix", ["127.0.0.1", "::1", "", "::ffff:127.0.0.1", "0:0::1"], ["127.0.0.2", "::2"]),
        ("", [], ["127.0.0.1", "::1", ""]),
        (" , ", [], ["127.0.0.1", ""]),
        ("unix", [""], ["127.0.0.1", "unix"]),
        ("*", ["127.0.0.1", "203.0.113.7", "2001:db8::1", "", "fe80::1%eth0"], []),
        ("10.0.0.0/8", ["10.0.0.1", "10.255.255.255", "::ffff:10.0.0.1", "::FFFF:a00:1"], ["11.0.0.1", "::10.0.0.1"]),
        (" 10.0.0.0/8 , unix ", ["10.0.0.1", ""], ["11.0.0.1"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.1", "::ffff:10.0.0.1"], ["11.0.0.1", "::1"]),
        ("::ffff:10.0.0.1", ["10.0.0.1", "::ffff:10.0.0.1"], ["10.0.0.2"]),
        ("fd00::/8", ["fd00::1", "FD00::1", "fd00::1%eth0"], ["fe00::1", "10.0.0.1"]),
        ("fe80::/10", ["fe80::1", "fe80::1%eth0"], ["fec0::1"]),
        ("fe80::1%eth0", ["fe80::1%eth0"], ["fe80::1", "fe80::1%eth1", "fe80::2%eth0"]),
        ("0.0.0.0/0", ["1.2.3.4", "::ffff:1.2.3.4"], ["2001:db8::1", ""]),
        ("::/0", ["2001:db8::1", "::ffff:1.2.3.4"], ["1.2.3.4", ""]),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.1 ", "0127.0.0.1", "localhost", "127.1", "127.0.0.1:80", "%"]),
    ],
)  # fmt: skip
def test_trust(text: str, covered: list[str], not_covered: list[str]) -> None:
    trust = Trust.of(peers(text))  # as the option lets it pass
    for _ in ("asked", "remembered"):
        assert [address for address in covered if not trust.covers(address)] == []
        assert [address for address in not_covered if trust.covers(address)] == []


def test_two_trusts_do_not_share_what_they_remember() -> None:
    some, none = Trust.of("10.0.0.1"), Trust.of("")
    assert some.covers("10.0.0.1") and not none.covers("10.0.0.1")
    assert some.covers_hop("10.0.0.1") and not none.covers_hop("10.0.0.1")


@pytest.mark.parametrize("text", ["*", "0.0.0.0/0,::/0", "*,0.0.0.0/0"])
def test_everybody_is_no_proxy_because_all_are_believed(text: str) -> None:
    trust = Trust.of(text)
    assert trust.covers("10.0.0.1") and not trust.covers_hop("10.0.0.1")


HEADERS = {
    "x_forwarded_for": "203.0.113.7",
    "x_forwarded_proto": "https",
    "x_forwarded_host": "shop.example",
    "x_forwarded_port": "8443",
    "x_forwarded_prefix": "/shop",
    "forwarded": "for=198.51.100.9;proto=http;host=other.example",
}
FULL = Told(scheme="https", peer=("203.0.113.7", 0), host="shop.example", port="8443", prefix="/shop")


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "", "10.1.2.3", "::ffff:10.1.2.3", "fd00::5%eth0"])
def test_a_trusted_peer_is_believed(peer: str) -> None:
    assert told(peer, **HEADERS) == FULL


@pytest.mark.parametrize("peer", ["203.0.113.1", "::2", "::ffff:203.0.113.1", "garbage"])
def test_no_other_is(peer: str) -> None:
    assert told(peer, **HEADERS) == NOTHING == Told(None, None, None, None, None)


def test_nobody_is_trusted() -> None:
    for peer in ("127.0.0.1", "::1", ""):
        assert told(peer, Trust.of(""), **HEADERS) == NOTHING


def test_a_unix_socket_s_peer_only_where_it_is_named() -> None:
    assert told("", Trust.of("127.0.0.1"), **HEADERS) == NOTHING
    assert told("", Trust.of("unix"), **HEADERS) == FULL


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x-forwarded-for", Told(peer=("203.0.113.7", 0))),
        ("x-forwarded-proto", Told(scheme="https")),
        ("x-forwarded-host", Told(host="shop.example")),
        ("x-forwarded-port", Told(port="8443")),
        ("x-forwarded-prefix", Told(prefix="/shop")),
        ("forwarded", Told(scheme="http", peer=("198.51.100.9", 0), host="other.example")),
    ],
)
def test_only_what_is_believed(name: str, expected: Told) -> None:
    assert read(environ(**HEADERS), frozenset((name,)), TRUST) == expected


def test_nothing_is_believed() -> None:
    assert read(environ(**HEADERS), frozenset(), TRUST) == NOTHING


@pytest.mark.parametrize("believed", [ALL, USUAL, frozenset(("forwarded",))])
def test_nothing_is_told(believed: frozenset[str]) -> None:
    assert read(environ(), believed, TRUST) == NOTHING
    empty = environ(**dict.fromkeys(HEADERS, ""))
    assert read(empty, believed, TRUST) == NOTHING


def test_every_header_of_the_option_is_looked_at() -> None:
    assert {f"HTTP_{name.upper()}" for name in HEADERS} == {
        "HTTP_" + name.upper().replace("-", "_") for name in FORWARDED_HEADERS
    }


# --- X-Forwarded-For -----------------------------------------------------------------------------------------------

CLIENTS: list[tuple[str, Client]] = [
    # one entry
    ("203.0.113.7", ("203.0.113.7", 0)),
    (" 203.0.113.7\t", ("203.0.113.7", 0)),
    ("203.0.113.7:5678", ("203.0.113.7", 5678)),
    ("203.0.113.7:0", ("203.0.113.7", 0)),
    ("203.0.113.7:65535", ("203.0.113.7", 65535)),
    ("2001:db8::1", ("2001:db8::1", 0)),
    ("2001:DB8:0:0::1", ("2001:db8::1", 0)),
    ("[2001:db8::1]", ("2001:db8::1", 0)),
    ("[2001:db8::1]:80", ("2001:db8::1", 80)),
    ("::ffff:203.0.113.7", ("::ffff:203.0.113.7", 0)),
    ("::ffff:cb00:7107", ("::ffff:203.0.113.7", 0)),
    ("fe80::1%eth0", ("fe80::1%eth0", 0)),
    ("[fe80::1%eth0.5]:80", ("fe80::1%eth0.5", 80)),
    ("10.0.0.1", ("10.0.0.1", 0)),  # a proxy of ours is itself the client, as in a health check
    # no address
    ("", None),
    (" ", None),
    (",", None),
    ("unknown", None),
    ("_hidden", None),
    ("unix:", None),
    ("localhost", None),
    ("203.0.113.7:", None),
    ("203.0.113.7:65536", None),
    ("203.0.113.7:-1", None),
    ("203.0.113.7:+1", None),
    ("203.0.113.7:\N{ARABIC-INDIC DIGIT ONE}", None),
    ("203.0.113.7:80:80", None),
    ("203.0.113.007", None),
    ("203.0.113", None),
    ("203.0.113.7.1", None),
    ("203.0.113.256", None),
    ("203.0.113.7/32", None),
    ("203.0.113.7 203.0.113.8", None),
    ("203.0.113.7\xa0", None),
    ("203.0.113.7\n", None),
    ("3405803783", None),
    ("0x7f.0.0.1", None),
    ('"203.0.113.7"', None),
    ("[203.0.113.7]", None),
    ("[203.0.113.7]:80", None),
    ("2001:db8::1::", None),
    ("[2001:db8::1", None),
    ("2001:db8::1]", None),
    ("[2001:db8::1]80", None),
    ("[2001:db8::1]:", None),
    ("[2001:db8::1]:99999", None),
    ("[]", None),
    (":", None),
    ("::", ("::", 0)),
    ("fe80::1%", None),
    ("fe80::1%<script>", None),
    ("fe80::1%averyveryverylongname", None),
    ("<script>", None),
    # lists, read from the right through the proxies that are trusted
    ("203.0.113.7, 10.0.0.1", ("203.0.113.7", 0)),
    ("203.0.113.7,10.0.0.1", ("203.0.113.7", 0)),
    ("203.0.113.7:1234, 10.0.0.1:80", ("203.0.113.7", 1234)),
    ("2001:db8::1, 10.0.0.1, fd00::1, ::ffff:10.0.0.2, [fd00::2]:80", ("2001:db8::1", 0)),
    ("10.0.0.3, 10.0.0.2, 10.0.0.1", ("10.0.0.3", 0)),  # all are trusted
    ("198.51.100.1, 203.0.113.7", ("203.0.113.7", 0)),
    ("198.51.100.1, 203.0.113.7, 10.0.0.1", ("203.0.113.7", 0)),
    ("10.0.0.5, 203.0.113.7, 10.0.0.1", ("203.0.113.7", 0)),
    ("127.0.0.1, 203.0.113.7", ("203.0.113.7", 0)),
    ("garbage, 203.0.113.7", ("203.0.113.7", 0)),
    (", 203.0.113.7", ("203.0.113.7", 0)),
    ("x\0y, 203.0.113.7", ("203.0.113.7", 0)),
    # what is no address ends the walk
    ("198.51.100.1, unknown", None),
    ("198.51.100.1, unknown, 10.0.0.1", ("10.0.0.1", 0)),
    ("198.51.100.1, _hidden, 10.0.0.2, 10.0.0.1", ("10.0.0.2", 0)),
    ("198.51.100.1, , 10.0.0.1", ("10.0.0.1", 0)),
    ("198.51.100.1,", None),
    ("198.51.100.1, 10.0.0.1:x", None),
    ("198.51.100.1; 10.0.0.1", None),
]


@pytest.mark.parametrize(("value", "client"), CLIENTS)
@pytest.mark.parametrize("believed", [USUAL, ALL])
def test_x_forwarded_for(value: str, client: Client, believed: frozenset[str]) -> None:
    for _ in ("read", "remembered"):
        assert read(environ(x_forwarded_for=value), believed, TRUST) == Told(peer=client)


def test_a_long_list() -> None:
    """Too long to be remembered, and the same in the end."""
    hops = ", ".join(f"10.0.{third}.{fourth}" for third in range(50) for fourth in range(10))
    assert told(x_forwarded_for=f"198.51.100.1, 203.0.113.7, {hops}").peer == ("203.0.113.7", 0)
    assert told(x_forwarded_for=f"{hops}, 203.0.113.7").peer == ("203.0.113.7", 0)


EVERYBODY: list[tuple[str, str, Client]] = [
    ("*", "203.0.113.7", ("203.0.113.7", 0)),
    ("*", "198.51.100.1, 203.0.113.7", ("203.0.113.7", 0)),  # not the leftmost: that one the client has made up
    ("*", "127.0.0.1, 203.0.113.7", ("203.0.113.7", 0)),
    ("*", "203.0.113.7, 10.0.0.1", ("10.0.0.1", 0)),  # a second proxy has to be named
    ("*,10.0.0.0/8", "198.51.100.1, 203.0.113.7, 10.0.0.1", ("203.0.113.7", 0)),
    ("0.0.0.0/0", "198.51.100.1, 203.0.113.7", ("203.0.113.7", 0)),
    ("*", "198.51.100.1, unknown", None),
]


@pytest.mark.parametrize(("text", "value", "client"), EVERYBODY)
def test_everybody_means_one_hop(text: str, value: str, client: Client) -> None:
    assert told("192.0.2.1", Trust.of(text), x_forwarded_for=value).peer == client
    if client:
        elements = ", ".join(f"for={entry.strip()}" for entry in value.split(","))
        assert told("192.0.2.1", Trust.of(text), forwarded=elements).peer == client


# --- X-Forwarded-Proto, -Host, -Port, -Prefix ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "scheme"),
    [
        ("https", "https"), ("http", "http"), ("HTTPS", "https"), (" https\t", "https"), ("wss", "https"),
        ("ws", "http"), ("WSS", "https"),
        ("https, https", "https"), ("https,wss", "https"), ("http, http", "http"),
        ("https, http", "http"),  # the client has said https, the proxy that appends http
        ("http, https", "http"),  # http up to a proxy that then speaks TLS: the client's cookies went in the clear
        ("junk, https", "http"), ("junk, http", "http"), (", https", "http"),
        ("https, junk", None), ("https,", None), ("https, on", None),
        ("", None), ("on", None), ("ftp", None), ("https;", None), ("https://", None),
        ("http\N{LATIN SMALL LETTER LONG S}", None),
    ],
)  # fmt: skip
def test_x_forwarded_proto(value: str, scheme: str | None) -> None:
    assert told(x_forwarded_proto=value) == Told(scheme=scheme)


@pytest.mark.parametrize(
    ("value", "host"),
    [
        ("shop.example", "shop.example"), ("shop.example:8443", "shop.example:8443"), ("[::1]:80", "[::1]:80"),
        (" shop.example ", "shop.example"),
        ("evil.example, shop.example", "shop.example"),
        ("evil.example,shop.example", "shop.example"),
        ("evil.example, ", None), ("evil.example, a/b", None), ("evil.example, :80", None),
        ("", None), (":80", None), ("a/b", None), ("a b", None), ("user@a", None), ("a?b", None), ("a#b", None),
        ("a\\b", None), ('a"b', None), ("<a>", None), ("a\tb", None), ("a\0", None), ("a:b", None), ("a:123456", None),
        ("a\n", None), ("ä", None), ("[::1", None), ("::1", None),
    ],
)  # fmt: skip
def test_x_forwarded_host(value: str, host: str | None) -> None:
    assert told(x_forwarded_host=value) == Told(host=host)


@pytest.mark.parametrize(
    ("value", "port"),
    [
        ("443", "443"), ("1", "1"), ("65535", "65535"), (" 80 ", "80"), ("22, 443", "443"),
        ("0", None), ("65536", None), ("99999", None), ("100000", None), ("0443", None), ("+443", None), ("-1", None),
        ("4 3", None), ("443, ", None), ("443, x", None), ("", None), ("https", None), ("²", None), ("44३", None),
        ("443\n", None),
    ],
)  # fmt: skip
def test_x_forwarded_port(value: str, port: str | None) -> None:
    assert told(x_forwarded_port=value) == Told(port=port)


@pytest.mark.parametrize(
    ("value", "prefix"),
    [
        ("/shop", "/shop"), ("/a/b-c_d~e/f.g", "/a/b-c_d~e/f.g"), (" /shop ", "/shop"), ("/v1.0", "/v1.0"),
        ("/..a", "/..a"), ("/a..", "/a.."), ("/...", "/..."), ("/@a;b=c:d", "/@a;b=c:d"), ("/evil, /shop", "/shop"),
        ("", None), ("/", None), ("shop", None), ("/shop/", None), ("//evil.example", None), ("/a//b", None),
        ("/..", None), ("/../a", None), ("/a/..", None), ("/a/../b", None), ("/.", None), ("/a/./b", None),
        ("/%2e%2e", None), ("/a%2fb", None), ("/\\evil.example", None), ("/a\\b", None), ("/a b", None),
        ("/a\tb", None),
        ("/a\0", None), ("/a\r\nX: y", None), ("/a\n", None), ("/a?b", None), ("/a#b", None), ("/<b>", None),
        ('/"', None), ("/ä", None), ("http://evil.example", None), ("/evil, ", None), ("/evil, ..", None),
    ],
)  # fmt: skip
def test_x_forwarded_prefix(value: str, prefix: str | None) -> None:
    assert told(x_forwarded_prefix=value) == Told(prefix=prefix)


# --- Forwarded (RFC 7239) ------------------------------------------------------------------------------------------

FORWARDED: dict[str, tuple[str, Told]] = {
    # 4, 6 and 7: examples
    "obfuscated": ('for="_gazonk"', NOTHING),
    "IPv6 and port": ('For="[2001:db8:cafe::17]:4711"', Told(peer=("2001:db8:cafe::17", 4711))),
    "pairs": ("for=192.0.2.60;proto=http;by=203.0.113.43", Told(scheme="http", peer=("192.0.2.60", 0))),
    "a list": ("for=192.0.2.43, for=198.51.100.17", Told(peer=("198.51.100.17", 0))),
    "a list with a trusted one": ('for=192.0.2.43, for="[fd00::1]"', Told(peer=("192.0.2.43", 0))),
    "obfuscated, then ours": ("for=_hidden, for=_SEVKISEK", NOTHING),
    # the elements' syntax
    "all": (
        'for="203.0.113.7:5678";proto=https;host="shop.example:8443";by=_a',
        Told("https", ("203.0.113.7", 5678), "shop.example:8443"),
    ),
    "names in any case": (
        "FOR=203.0.113.7;Proto=HTTPS;hOSt=shop.example",
        Told("https", ("203.0.113.7", 0), "shop.example"),
    ),
    "spaces around": ("  for=203.0.113.7 \t", Told(peer=("203.0.113.7", 0))),
    "spaces between pairs": ("for=203.0.113.7 ; proto=https", Told("https", ("203.0.113.7", 0))),
    "empty pairs": (";for=203.0.113.7;;proto=https;", Told("https", ("203.0.113.7", 0))),
    "quoted token": ('for="203.0.113.7";proto="https"', Told("https", ("203.0.113.7", 0))),
    "quoted pairs": (r'for="20\3.0.113\.7"', Told(peer=("203.0.113.7", 0))),
    "a name that is not known": ('secret="a,b;c=\\"d\\\\";for=203.0.113.7', Told(peer=("203.0.113.7", 0))),
    "no for": ("proto=https;host=shop.example", Told("https", None, "shop.example")),
    "unknown": ("for=unknown;proto=https", Told("https")),
    "unknown with a port": ('for="unknown:80";proto=https', Told("https")),
    "obfuscated port": ('for="203.0.113.7:_p.o-r_t"', Told(peer=("203.0.113.7", 0))),
    "obfuscated port, IPv6": ('for="[2001:db8::1]:_x"', Told(peer=("2001:db8::1", 0))),
    "websocket": ("for=203.0.113.7;proto=wss", Told("https", ("203.0.113.7", 0))),
    "scheme not known": ("for=203.0.113.7;proto=ftp", Told(peer=("203.0.113.7", 0))),
    "bad host": ('for=203.0.113.7;host="a/b"', Told(peer=("203.0.113.7", 0))),
    "empty host": ('for=203.0.113.7;host=""', Told(peer=("203.0.113.7", 0))),
    # no node (6)
    "IPv6 without brackets": ('for="2001:db8::1"', NOTHING),
    "IPv4 in brackets": ('for="[203.0.113.7]"', NOTHING),
    "a scope": ('for="[fe80::1%eth0]"', NOTHING),
    "port too big": ('for="203.0.113.7:65536"', NOTHING),
    "a name": ("for=localhost", NOTHING),
    "empty node": ('for=""', NOTHING),
    "a space in it": ('for=" 203.0.113.7"', NOTHING),
    # malformed (4): nothing of the element is believed
    "empty": ("", NOTHING),
    "a comma": (",", NOTHING),
    "no value": ("for=;proto=https", NOTHING),
    "no name": ("=203.0.113.7", NOTHING),
    "no pair": ("203.0.113.7", NOTHING),
    "two of a name": ("for=203.0.113.7;proto=https;for=203.0.113.8", NOTHING),
    "two of a name, in another case": ("for=203.0.113.7;FOR=203.0.113.7", NOTHING),
    "a space before =": ("for =203.0.113.7", NOTHING),
    "a space after =": ("for= 203.0.113.7", NOTHING),
    "no ; between": ("for=203.0.113.7 proto=https", NOTHING),
    "port not quoted": ("for=203.0.113.7:80;proto=https", NOTHING),
    "IPv6 not quoted": ("for=[2001:db8::1];proto=https", NOTHING),
    "quote not opened": ('for=203.0.113.7";proto=https', NOTHING),
    "quote not closed": ('proto=https;for="203.0.113.7', NOTHING),
    "after the quote": ('for="203.0.113.7"x', NOTHING),
    "quote within": ('for="203.0"113.7"', NOTHING),
    "escaped end": ('for="203.0.113.7\\"', NOTHING),
    "a malformed one behind": ("for=203.0.113.7;proto=https, for==", NOTHING),
    # lists: the element of the last proxy that is trusted, seen from here
    "two proxies": (
        "for=203.0.113.7;proto=https;host=shop.example, for=10.0.0.1;proto=http;host=inner",
        Told("https", ("203.0.113.7", 0), "shop.example"),
    ),
    "nothing is mixed": ("for=203.0.113.7, for=10.0.0.1;proto=https;host=inner", Told(peer=("203.0.113.7", 0))),
    "all are trusted": ("for=10.0.0.3;proto=https, for=10.0.0.2, for=10.0.0.1", Told("https", ("10.0.0.3", 0))),
    "unknown behind a trusted one": (
        "for=198.51.100.1, for=unknown;proto=https, for=10.0.0.1;proto=http",
        Told("https", ("10.0.0.1", 0)),
    ),
    "nothing from an empty one": (", for=10.0.0.1;proto=https", Told("https", ("10.0.0.1", 0))),
    # spoofing: what is left of an untrusted client
    "spoofed": (
        "for=127.0.0.1;proto=https;host=evil.example, for=203.0.113.7;proto=http;host=shop.example",
        Told("http", ("203.0.113.7", 0), "shop.example"),
    ),
    "spoofed with a trusted one between": (
        "for=198.51.100.1, for=10.0.0.9, for=203.0.113.7",
        Told(peer=("203.0.113.7", 0)),
    ),
    "garbage before": ('=;"\\, for=203.0.113.7;proto=https', Told("https", ("203.0.113.7", 0))),
    "a quote that is left open": (
        'for="198.51.100.1, for=203.0.113.7;proto=https',
        Told("https", ("203.0.113.7", 0)),
    ),
    "a quote that is left open, before a quoted one": (
        'for="198.51.100.1, for="[2001:db8::1]:80"',
        Told(peer=("2001:db8::1", 80)),
    ),
    "a quote that would swallow": (
        'for=198.51.100.1;x=", for="[2001:db8::1]";by="_a"',
        Told(peer=("2001:db8::1", 0)),
    ),
    "an element within a quote": (
        'for=203.0.113.7;host="x, for=127.0.0.1"',
        Told(peer=("203.0.113.7", 0)),
    ),
    "an element within a quote with quotes": (
        r'for=203.0.113.7;x="\", for=127.0.0.1;y=\""',
        Told(peer=("203.0.113.7", 0)),
    ),
    "backslashes before a quote": (
        r'for=203.0.113.7;x="\\\\\", for=127.0.0.1;y=\\\""',
        Told(peer=("203.0.113.7", 0)),
    ),
}


@pytest.mark.parametrize(("value", "expected"), FORWARDED.values(), ids=list(FORWARDED))
def test_forwarded(value: str, expected: Told) -> None:
    assert told(forwarded=value) == expected


@pytest.mark.parametrize(
    "piece", [" ", "\t", "\\", '"', ";", ",", "a", '=""', "a=", '\\"', "a=a;", "for=10.0.0.1,", '"\\']
)
def test_a_long_value_costs_no_quadratic_time(piece: str) -> None:
    """A million characters; a regular expression that goes back and forth over them would outlast the test's limit."""
    value = piece * (1_000_000 // len(piece))
    assert told(forwarded=value + "!", x_forwarded_prefix="/" + value + "?") == NOTHING
    assert told(forwarded="!" + value).peer in (None, ("10.0.0.1", 0))
    assert told(forwarded=value + ", for=203.0.113.7").peer == ("203.0.113.7", 0)
    assert told(forwarded='for="' + value.replace('"', "").replace("\\", "") + '"') == NOTHING


@pytest.mark.parametrize(
    "headers",
    [{"x_forwarded_for": "203.0.113.7"}, {"x_forwarded_proto": "https"}, {"x_forwarded_host": "a.example"},
     {"x_forwarded_for": "garbage"}, {"x_forwarded_for": ""}],
)  # fmt: skip
def test_x_forwarded_wins_over_forwarded(headers: dict[str, str]) -> None:
    """Its own words and nothing else, also where they are worth nothing."""
    mixed = told(forwarded="for=127.0.0.1;proto=https;host=evil.example", **headers)
    assert mixed == told(**headers)


def test_port_and_prefix_go_with_forwarded() -> None:
    """It has no words for them."""
    expected = Told("https", ("203.0.113.7", 0), "a", "444", "/shop")
    assert told(forwarded="for=203.0.113.7;proto=https;host=a", x_forwarded_port="444", x_forwarded_prefix="/shop") == (
        expected
    )


def test_what_is_not_believed_does_not_keep_forwarded_away() -> None:
    only = frozenset(("forwarded", "x-forwarded-proto"))
    headers = environ(forwarded="for=203.0.113.7", x_forwarded_for="127.0.0.1", x_forwarded_host="evil.example")
    assert read(headers, only, TRUST) == Told(peer=("203.0.113.7", 0))


# --- properties ----------------------------------------------------------------------------------------------------

UNTRUSTED = st.ip_addresses().filter(lambda ip: not TRUST.covers_hop(str(ip)))
TRUSTED = st.sampled_from(("10.0.0.1", "10.9.8.7", "fd00::1", "127.0.0.1", "::ffff:10.0.0.1"))
PIECES = st.sampled_from(
    ["for", "proto", "host", "by", "=", ";", ",", " ", '"', "\\", "[", "]", ":", "::1", "10.0.0.1", "203.0.113.7", "80",
     "https", "unknown", "_x", "%", "/", "..", "*", "\t", "\0", "ä"]
)  # fmt: skip
VALUES = st.text() | st.lists(PIECES).map("".join)
TRUSTS = st.sampled_from([TRUST, Trust.of("*"), Trust.of("unix"), Trust.of("0.0.0.0/0,::/0")])
LEFT = VALUES | st.lists(st.ip_addresses().map(str)).map(", ".join)


@given(
    st.dictionaries(st.sampled_from(["HTTP_" + name.upper().replace("-", "_") for name in FORWARDED_HEADERS]), VALUES),
    st.frozensets(st.sampled_from(FORWARDED_HEADERS)), TRUSTS,
)  # fmt: skip
def test_any_values_tell_something_valid_or_nothing(
    headers: Mapping[str, str], believed: frozenset[str], trust: Trust
) -> None:
    result = read(headers, believed, trust)
    assert result.scheme in (None, "http", "https")
    if result.peer:
        ipaddress.ip_address(result.peer[0])
        assert 0 <= result.peer[1] <= 65535
    for text in (result.host, result.port, result.prefix):
        assert text is None or (text and text.isascii() and text.isprintable() and " " not in text)
    if result.prefix:
        assert result.prefix[0] == "/" and not set(result.prefix.split("/")[1:]) & {"", ".", ".."}


def entry(address: str, port: int, bracket: bool) -> str:
    text = f"[{address}]" if ":" in address and (bracket or port) else address
    return f"{text}:{port}" if port else text


@given(LEFT, UNTRUSTED, st.integers(0, 65535), st.booleans(), st.lists(TRUSTED, max_size=3))
def test_what_a_client_sends_never_hides_it(
    left: str, client: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, bracket: bool, hops: list[str]
) -> None:
    """Whatever it begins X-Forwarded-For and Forwarded with: what the trusted proxies append to it is what counts."""
    listed = [entry(str(client), port, bracket), *hops]
    elements = [f'for="{entry(address, 0, True)}";proto=http' for address in hops]
    element = f'for="{entry(str(client), port, True)}";proto=https;host=shop.example'
    by_list = told(x_forwarded_for=", ".join([left, *listed]), x_forwarded_proto="https")
    by_element = told(forwarded=", ".join([left, element, *elements]))
    for result in (by_list, by_element):
        assert result.peer
        assert (ipaddress.ip_address(result.peer[0]), result.peer[1]) == (client, port)
        assert result.scheme == "https"
    assert by_element.host == "shop.example"


TOKENS = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=5)
QUOTED = st.text(st.characters(codec="latin-1"), max_size=8)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(LEFT, st.dictionaries(TOKENS.filter(lambda name: name.lower() not in ("for", "host")), QUOTED), QUOTED)
def test_a_well_formed_element_is_read_whatever_is_before_it(left: str, others: dict[str, str], host: str) -> None:
    """Its extensions hold anything, commas, quotes and backslashes too, and end nothing."""
    pairs = [f"{name}={quoted(value)}" for name, value in {name.lower(): v for name, v in others.items()}.items()]
    value = ";".join(["for=203.0.113.7", *pairs, f"host={quoted(host)}"])
    alone = told(forwarded=value)
    assert alone.peer == ("203.0.113.7", 0)
    assert told(forwarded=f"{left}, {value}") == alone


@given(LEFT, st.sampled_from(("a.example", "a.example:80")))
def test_the_nearest_host_wins(left: str, host: str) -> None:
    assert told(x_forwarded_host=f"{left}, {host}").host == host
    assert told(x_forwarded_host=f"{left}, a/b").host is None


@given(LEFT)
def test_https_is_never_the_client_s_word(left: str) -> None:
    assert told(x_forwarded_proto=f"{left}, http").scheme == "http"
    assert told(x_forwarded_proto=f"{left}, https").scheme in ("http", "https")
    assert told(x_forwarded_proto=f"{left}, ftp").scheme is None
