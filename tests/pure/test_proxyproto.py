"""The PROXY protocol: headers of real proxies, every cut of them, hostile ones, and arbitrary bytes."""

import ipaddress
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from graceserve.options import BY_FIELD
from graceserve.worker.proxyproto import (
    HEADER_BYTES_MAX,
    LINE_BYTES_MAX,
    Found,
    Incomplete,
    Malformed,
    Mode,
    Scan,
    crc32c,
    scan,
)

Endpoint = tuple[str, int]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
INET = bytes((203, 0, 113, 7, 198, 51, 100, 1)) + (56324).to_bytes(2, "big") + (443).to_bytes(2, "big")
INET_PEER, INET_LOCAL = ("203.0.113.7", 56324), ("198.51.100.1", 443)
V4 = b"PROXY TCP4 203.0.113.7 198.51.100.1 56324 443\r\n"


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes((command, family)) + len(block).to_bytes(2, "big") + block


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def checked(family: int, block: bytes, after: bytes = b"", spare_bytes: int = 0) -> bytes:
    """With a checksum, and `after` it more TLVs. `spare_bytes` make it longer than a checksum is."""
    blank = v2(0x21, family, block + tlv(3, bytes(4 + spare_bytes)) + after)
    at = 16 + len(block) + 3
    return blank[:at] + crc32c(blank).to_bytes(4, "big") + blank[at + 4 :]


VALID_V1: dict[str, tuple[bytes, Endpoint | None, Endpoint | None]] = {
    "tcp4": (V4, INET_PEER, INET_LOCAL),
    "tcp4 longest": (
        b"PROXY TCP4 255.255.255.255 255.255.255.254 65535 65535\r\n",
        ("255.255.255.255", 65535),
        ("255.255.255.254", 65535),
    ),
    "tcp4 shortest": (b"PROXY TCP4 0.0.0.0 1.1.1.1 0 0\r\n", ("0.0.0.0", 0), ("1.1.1.1", 0)),
    "tcp6": (b"PROXY TCP6 2001:db8::1 ::1 1 80\r\n", ("2001:db8::1", 1), ("::1", 80)),
    "tcp6 written out": (
        b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:0001 FFFF:FFFF:FFFF:FFFF:FFFF:FFFF:FFFF:FFFF 65535 65535\r\n",
        ("2001:db8::1", 65535),
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
    ),
    "HAProxy 2.6, IPv4-mapped": (
        b"PROXY TCP6 ::ffff:127.0.0.1 ::ffff:127.0.0.1 40662 18475\r\n",
        ("::ffff:127.0.0.1", 40662),
        ("::ffff:127.0.0.1", 18475),
    ),
    "unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "unknown with a space": (b"PROXY UNKNOWN \r\n", None, None),
    "unknown, ignored": (b"PROXY UNKNOWN what \0 \xff ever\r\n", None, None),
    "unknown longest": (
        b"PROXY UNKNOWN " + 2 * b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff " + b"65535 65535\r\n",
        None,
        None,
    ),
}
VALID_V2: dict[str, tuple[bytes, Endpoint | None, Endpoint | None]] = {
    "inet": (v2(0x21, 0x11, INET), INET_PEER, INET_LOCAL),
    "inet6": (
        v2(0x21, 0x21, bytes.fromhex("20010db8") + bytes(11) + b"\x01" + bytes(15) + b"\x01" + b"\x00\x01\x00\x50"),
        ("2001:db8::1", 1),
        ("::1", 80),
    ),
    "inet6, IPv4-mapped": (
        v2(0x21, 0x21, (bytes(10) + b"\xff\xff\x0a\x00\x00\x01") * 2 + b"\x00\x01\x00\x50"),
        ("::ffff:10.0.0.1", 1),
        ("::ffff:10.0.0.1", 80),
    ),
    "unix": (v2(0x21, 0x31, b"/run/a".ljust(216, b"\0")), None, None),
    "unix datagrams": (v2(0x21, 0x32, bytes(216)), None, None),
    "udp": (v2(0x21, 0x12, INET), None, None),
    "inet, transport not told": (v2(0x21, 0x10, INET), None, None),
    "unspec": (v2(0x21, 0x00, b""), None, None),
    "unspec with something": (v2(0x21, 0x00, b"whatever"), None, None),
    "local": (v2(0x20, 0x00, b""), None, None),
    "local with addresses": (v2(0x20, 0x11, INET), None, None),
    "local, its family is ignored": (v2(0x20, 0xFF, b"x"), None, None),
    "tlvs": (v2(0x21, 0x11, INET + tlv(4, b"") + tlv(0xEA, b"vpce-1") + tlv(0x20, bytes(300))), INET_PEER, INET_LOCAL),
    "as long as may be": (
        v2(0x21, 0x11, INET + tlv(4, bytes(HEADER_BYTES_MAX - 16 - 12 - 3))),
        INET_PEER,
        INET_LOCAL,
    ),
    "checksum": (checked(0x11, INET), INET_PEER, INET_LOCAL),
    "checksum between others": (checked(0x11, INET + tlv(2, b"a.example"), tlv(4, b"\0")), INET_PEER, INET_LOCAL),
    "HAProxy 2.6, health check": (b"\r\n\r\n\x00\r\nQUIT\n \x00\x00\x00", None, None),
    "HAProxy 2.6, client on a Unix socket": (
        b"\r\n\r\n\x00\r\nQUIT\n \x00\x00\x07\x03\x00\x04\xa9\xb8~\x8f",
        None,
        None,
    ),
    "HAProxy 2.6, IPv6 and checksum": (
        b"\r\n\r\n\x00\r\nQUIT\n!!\x00+" + (bytes(15) + b"\x01") * 2 + b"\xaa|H*\x03\x00\x04[\xc2\x15\xbe",
        ("::1", 43644),
        ("::1", 18474),
    ),
    "HAProxy 2.6, TLS and checksum": (
        b"\r\n\r\n\x00\r\nQUIT\n!\x11\x00a\x7f\x00\x00\x01\x7f\x00\x00\x01\xd3>H)\x03\x00\x04/\x05.\xca"
        b"\x02\x00\tlocalhost \x00?\x01\x00\x00\x00\x00!\x00\x07TLSv1.3%\x00\x07RSA2048$\x00\nRSA-SHA256"
        b"#\x00\x16TLS_AES_256_GCM_SHA384",
        ("127.0.0.1", 54078),
        ("127.0.0.1", 18473),
    ),
}
VALID = [(Mode.V1, *row) for row in VALID_V1.values()] + [(Mode.V2, *row) for row in VALID_V2.values()]
IDS = [*VALID_V1, *VALID_V2]
each_valid = pytest.mark.parametrize(("mode", "raw", "peer", "local"), VALID, ids=IDS)


# --- good ones -----------------------------------------------------------------------------------------------------


@each_valid
def test_a_header_is_found(mode: Mode, raw: bytes, peer: Endpoint | None, local: Endpoint | None) -> None:
    assert scan(raw, mode) == scan(raw, Mode.AUTO) == Found(len(raw), peer, local)


@each_valid
@pytest.mark.parametrize("rest", [REQUEST, b"\r\n", b"\n", b"\0", V4, v2(0x20, 0, b"")])
def test_what_follows_is_not_the_header_s(
    mode: Mode, raw: bytes, peer: Endpoint | None, local: Endpoint | None, rest: bytes
) -> None:
    assert scan(raw + rest, mode) == scan(raw + rest, Mode.AUTO) == Found(len(raw), peer, local)


@each_valid
def test_a_part_of_it_is_incomplete(mode: Mode, raw: bytes, peer: Endpoint | None, local: Endpoint | None) -> None:
    for length in range(len(raw)):
        for result in (scan(raw[:length], mode), scan(raw[:length], Mode.AUTO)):
            assert isinstance(result, Incomplete), raw[:length]
            assert 1 <= result.wanted_bytes <= len(raw) - length, "beyond its end the request begins"


@each_valid
@pytest.mark.parametrize("auto", [False, True])
def test_reading_what_is_wanted_ends_with_the_header(
    mode: Mode, raw: bytes, peer: Endpoint | None, local: Endpoint | None, auto: bool
) -> None:
    sent, at = raw + REQUEST, 0
    while isinstance(result := scan(sent[:at], Mode.AUTO if auto else mode), Incomplete):
        at += result.wanted_bytes
    assert result == Found(len(raw), peer, local)
    assert at == len(raw)


@pytest.mark.parametrize("raw", [row[0] for row in VALID_V1.values()], ids=list(VALID_V1))
def test_version_1_where_2_is_asked_for(raw: bytes) -> None:
    assert isinstance(scan(raw, Mode.V2), Malformed)


@pytest.mark.parametrize("raw", [row[0] for row in VALID_V2.values()], ids=list(VALID_V2))
def test_version_2_where_1_is_asked_for(raw: bytes) -> None:
    assert isinstance(scan(raw, Mode.V1), Malformed)


def test_the_modes_are_the_option_s() -> None:
    for mode in Mode:
        assert BY_FIELD["proxy_protocol"].parse(mode.value) == mode.value


def test_the_checksum_is_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720 B.4
    assert crc32c(b"") == 0


# --- bad ones ------------------------------------------------------------------------------------------------------

LONG = b"PROXY UNKNOWN " + b"x" * (LINE_BYTES_MAX - 16)
assert len(LONG + b"\r\n") == LINE_BYTES_MAX

MALFORMED_V1: dict[str, bytes] = {
    "HTTP": REQUEST,
    "TLS": b"\x16\x03\x01",
    "lower case": b"proxy TCP4",
    "no space": b"PROXYTCP4",
    "tab": b"PROXY\tTCP4",
    "two spaces": b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "two spaces further on": b"PROXY TCP4 1.2.3.4  1.2.3.4 1 1\r\n",
    "trailing space": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n",
    "leading space": b" PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "nothing more": b"PROXY \r\n",
    "lower-case family": b"PROXY tcp4 1.2.3.4 1.2.3.4 1 1\r\n",
    "lower-case unknown": b"PROXY unknown\r\n",
    "unknown family": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
    "unknown run on": b"PROXY UNKNOWNx\r\n",
    "wrong family 4": b"PROXY TCP4 ::1 ::1 1 1\r\n",
    "wrong family 6": b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n",
    "mixed families": b"PROXY TCP6 ::1 1.2.3.4 1 1\r\n",
    "an address too few": b"PROXY TCP4 1.2.3.4 1 1\r\n",
    "a port too few": b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
    "a field too many": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 1\r\n",
    "three octets": b"PROXY TCP4 1.2.3 1.2.3.4 1 1\r\n",
    "five octets": b"PROXY TCP4 1.2.3.4.5 1.2.3.4 1 1\r\n",
    "octet too big": b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n",
    "octal": b"PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n",
    "hexadecimal": b"PROXY TCP4 0x7f.0.0.1 1.2.3.4 1 1\r\n",
    "one number": b"PROXY TCP4 16909060 1.2.3.4 1 1\r\n",
    "two double colons": b"PROXY TCP6 1::2::3 ::1 1 1\r\n",
    "nine groups": b"PROXY TCP6 1:2:3:4:5:6:7:8:9 ::1 1 1\r\n",
    "five digits": b"PROXY TCP6 12345::1 ::1 1 1\r\n",
    "scope": b"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
    "brackets": b"PROXY TCP6 [::1] ::1 1 1\r\n",
    "port too big": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n",
    "local port too big": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 99999\r\n",
    "port with a zero": b"PROXY TCP4 1.2.3.4 1.2.3.4 080 1\r\n",
    "port 00": b"PROXY TCP4 1.2.3.4 1.2.3.4 00 1\r\n",
    "plus": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n",
    "minus": b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
    "no digits": b"PROXY TCP4 1.2.3.4 1.2.3.4 http 1\r\n",
    "other digits": "PROXY TCP4 1.2.3.4 1.2.3.4 \N{ARABIC-INDIC DIGIT ONE} 1\r\n".encode(),
    "LF": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n",
    "LF, then the rest": b"PROXY UNKNOWN\n" + REQUEST,
    "CR": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\rX",
    "CR CR LF": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\r\n",
    "CR CR LF after unknown": b"PROXY UNKNOWN a\r\r\n",
    "CR within unknown": b"PROXY UNKNOWN a\rb\r\n",
    "NUL": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\0\r\n",
    "a byte too long": LONG + b"x\r\n",
    "no end": LONG + b"x",
    "no end, a CR only": LONG + b"x\r",
}
MALFORMED_V2: dict[str, bytes] = {
    "signature": SIGNATURE[:-1] + b"\r",
    "signature, early": SIGNATURE[:5] + b"X",
    "an empty request line": b"\r\nGET",
    "version 1": SIGNATURE + b"\x11",
    "version 3": SIGNATURE + b"\x31",
    "command 2": SIGNATURE + b"\x22",
    "family 4": SIGNATURE + b"\x21\x41",
    "transport 3": SIGNATURE + b"\x21\x13",
    "inet too short": SIGNATURE + b"\x21\x11\x00\x0b",
    "inet6 too short": SIGNATURE + b"\x21\x21\x00\x23",
    "unix too short": SIGNATURE + b"\x21\x31\x00\xd7",
    "too long": SIGNATURE + b"\x21\x11" + (HEADER_BYTES_MAX - 15).to_bytes(2, "big"),
    "far too long": SIGNATURE + b"\x21\x11\xff\xff",
    "local too long": SIGNATURE + b"\x20\x00\xff\xff",
    "a byte after the addresses": v2(0x21, 0x11, INET + b"\x04"),
    "half a TLV head": v2(0x21, 0x11, INET + b"\x04\x00"),
    "TLV beyond the end": v2(0x21, 0x11, INET + b"\x04\x00\x01"),
    "second TLV beyond the end": v2(0x21, 0x11, INET + tlv(4, b"") + b"\x04\xff\xff"),
    "wrong checksum": v2(0x21, 0x11, INET + tlv(3, bytes(4))),
    "short checksum": v2(0x21, 0x11, INET + tlv(3, b"")),
    "long checksum": checked(0x11, INET, spare_bytes=1),
    "two checksums": checked(0x11, INET, tlv(3, bytes(4))),
}


def malformed(raw: bytes, mode: Mode) -> Malformed:
    result = scan(raw, mode)
    assert isinstance(result, Malformed), result
    assert result.reason.isascii() and result.reason.isprintable(), "the log has one line for it"
    return result


@pytest.mark.parametrize("raw", MALFORMED_V1.values(), ids=list(MALFORMED_V1))
def test_a_malformed_line(raw: bytes) -> None:
    malformed(raw, Mode.V1)
    malformed(raw, Mode.AUTO)
    malformed(raw + REQUEST, Mode.V1)


@pytest.mark.parametrize("raw", MALFORMED_V2.values(), ids=list(MALFORMED_V2))
def test_a_malformed_block(raw: bytes) -> None:
    malformed(raw, Mode.V2)
    malformed(raw, Mode.AUTO)
    malformed(raw + REQUEST, Mode.V2)


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (REQUEST, "no PROXY header, the connection begins with b'GET / HTTP/1.1"),
        (b"PROXY TCP4 1.2.3.256 1.2.3.4 1 1\r\n", "PROXY v1: bad address or port in b'PROXY TCP4 1.2.3.256 1"),
        (b"PROXY \xff\r\n", r"PROXY v1: bad line b'PROXY \xff'"),
        (MALFORMED_V2["version 1"], "PROXY v2: neither LOCAL nor PROXY of version 2, but 0x11"),
        (MALFORMED_V2["far too long"], "PROXY v2: header of 65551 bytes, more than 4096"),
        (MALFORMED_V2["wrong checksum"], "PROXY v2: wrong checksum"),
        (MALFORMED_V2["two checksums"], "PROXY v2: more than one checksum"),
    ],
)
def test_the_reason_says_what_is_wrong(raw: bytes, part: str) -> None:
    assert malformed(raw, Mode.AUTO).reason.startswith(part)


def test_a_flipped_bit_does_not_pass_a_checksum() -> None:
    raw = checked(0x11, INET + tlv(2, b"a.example"))
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        result = scan(bytes(changed), Mode.V2)
        told_nothing = not isinstance(result, Found) or result.peer is None  # LOCAL and UNSPEC are not looked into
        kind_of_the_checksum = bit // 8 == len(raw) - 7
        assert told_nothing or kind_of_the_checksum, (bit // 8, result)


# --- properties ----------------------------------------------------------------------------------------------------

MODES = st.sampled_from(Mode)
PORTS = st.integers(0, 65535)
IPS = st.ip_addresses(v=4) | st.ip_addresses(v=6)
VALID_RAW = st.sampled_from([row[1] for row in VALID])
FIXED = st.builds(
    lambda command, family, size, rest: SIGNATURE + bytes((command, family)) + size.to_bytes(2, "big") + rest,
    st.sampled_from((0x20, 0x21)), st.sampled_from((0x00, 0x11, 0x21, 0x31)), st.integers(0, 300), st.binary(),
)  # fmt: skip
BYTES = st.one_of(
    st.binary(),
    st.builds(bytes.__add__, VALID_RAW, st.binary()),
    st.builds(lambda raw, cut, rest: raw[: cut % (len(raw) + 1)] + rest, VALID_RAW, st.integers(0), st.binary()),
    st.builds(lambda rest: b"PROXY " + rest, st.binary()),
    st.from_regex(rb"PROXY (TCP4|TCP6|UNKNOWN)( [0-9a-f:.]{0,16}){0,5}\r?\n?", fullmatch=True),
    FIXED,
)


def check(result: Scan, data: bytes) -> None:
    match result:
        case Found():
            assert 0 < result.length_bytes <= len(data)
            assert (result.peer is None) == (result.local is None)
            for endpoint in filter(None, (result.peer, result.local)):
                ipaddress.ip_address(endpoint[0])
                assert 0 <= endpoint[1] <= 65535
        case Incomplete():
            assert 0 < result.wanted_bytes <= HEADER_BYTES_MAX - len(data)
        case Malformed():
            assert result.reason.isascii() and result.reason.isprintable() and len(result.reason) < 500


@given(BYTES, MODES)
@example(b"", Mode.AUTO)
def test_any_bytes_are_one_of_three(data: bytes, mode: Mode) -> None:
    check(scan(data, mode), data)


@given(BYTES, MODES)
def test_byte_by_byte_is_as_whole(data: bytes, mode: Mode) -> None:
    """Once it is found or malformed, more bytes change nothing; what is incomplete becomes so only by more bytes."""
    whole = scan(data, mode)
    for length in range(len(data) + 1):
        result = scan(data[:length], mode)
        if isinstance(result, Found):
            assert result == whole
            return
        if isinstance(result, Malformed):
            assert isinstance(whole, Malformed)
            return
    assert isinstance(whole, Incomplete)


@given(IPS, st.data(), PORTS, PORTS, st.binary(max_size=40))
def test_what_is_written_is_read(
    source: ipaddress.IPv4Address | ipaddress.IPv6Address, data: st.DataObject, peer_port: int, port: int, rest: bytes
) -> None:
    destination = data.draw(st.ip_addresses(v=source.version))
    family = {4: (b"TCP4", 0x11), 6: (b"TCP6", 0x21)}[source.version]
    packed = source.packed + destination.packed + peer_port.to_bytes(2, "big") + port.to_bytes(2, "big")
    line = b"PROXY %s %s %s %d %d\r\n" % (family[0], str(source).encode(), str(destination).encode(), peer_port, port)
    blocks = (packed, packed + tlv(4, rest))
    for raw in (line, *(v2(0x21, family[1], block) for block in blocks), checked(family[1], packed)):
        result = scan(raw + rest, Mode.AUTO)
        assert isinstance(result, Found) and result.peer and result.local
        assert result.length_bytes == len(raw)
        assert (ipaddress.ip_address(result.peer[0]), result.peer[1]) == (source, peer_port)
        assert (ipaddress.ip_address(result.local[0]), result.local[1]) == (destination, port)


@given(st.ip_addresses(v=6) | st.ip_addresses(v=4).map(lambda ip: ipaddress.IPv6Address(f"::ffff:{ip}")))
def test_addresses_are_written_as_the_kernel_s(address: ipaddress.IPv6Address) -> None:
    result = scan(v2(0x21, 0x21, address.packed * 2 + bytes(4)), Mode.V2)
    assert isinstance(result, Found) and result.peer
    if int(address) >> 32:  # but for the long obsolete ::1.2.3.4
        assert result.peer[0] == socket.inet_ntop(socket.AF_INET6, address.packed)
