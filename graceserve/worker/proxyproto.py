"""The PROXY protocol, versions 1 and 2: who a TCP proxy connects for. Pure; used in a worker.

`scan` looks at the bytes that begin a connection. It never guesses whether a header is there: whoever is configured to
send one and doesn't is `Malformed`. Sections named below are those of HAProxy's doc/proxy-protocol.txt (2020/03/05).
"""

import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from ipaddress import IPv6Address
from typing import TypeAlias

LINE_BYTES_MAX = 107  # 2.1, with CRLF
HEADER_BYTES_MAX = 4096  # nginx's limit; 2 asks for at most 536, but a client's certificate in a TLV takes 2 kB
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"  # no leading zeros: they could be octal
IPV4 = _OCTET + r"(?:\." + _OCTET + r"){3}"


class Mode(Enum):
    """Which versions may come; the values are those of `--proxy-protocol`."""

    V1 = "v1"
    V2 = "v2"
    AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Found:
    """A header of so many bytes. None: the connection's own addresses count (a health check, a Unix socket)."""

    length_bytes: int
    peer: tuple[str, int] | None
    local: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Incomplete:
    """All bytes so far are the header's. At least `wanted_bytes` are missing: so many can't reach beyond its end."""

    wanted_bytes: int


@dataclass(frozen=True, slots=True)
class Malformed:
    """No header that may come here; the connection has to be closed. `reason` is one line of plain ASCII."""

    reason: str


Scan: TypeAlias = Found | Incomplete | Malformed

_PREFIX = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = 16  # signature, version and command, family and transport, length
_V1_SHORTEST = len(b"PROXY UNKNOWN\r\n")
_PORT = rb"(0|[1-9][0-9]{0,4})"
_LINE = re.compile(rb"PROXY (TCP[46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) " + _PORT + rb" " + _PORT)
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?", re.DOTALL)  # 2.1: what follows is ignored
_IPV4_ONLY = re.compile(IPV4)

_ADDRESS_BYTES = {0: 0, 1: 12, 2: 36, 3: 216}  # 2.2: UNSPEC, INET, INET6, UNIX
_LOCAL, _PROXY = 0, 1
_STREAM = 1
_CRC32C = 3  # PP2_TYPE_CRC32C


def scan(data: bytes, mode: Mode) -> Scan:
    """What `data`, from the connection's first byte on, says. The rest of a connection may follow the header."""
    match mode:
        case Mode.V1:
            return _scan_v1(data)
        case Mode.V2:
            return _scan_v2(data)
    if not data:
        return Incomplete(min(_V1_SHORTEST, _V2_FIXED))
    return _scan_v2(data) if data[:1] == _SIGNATURE[:1] else _scan_v1(data)


def ipv6_text(address: IPv6Address) -> str:
    """As the kernel's addresses are written; Python before 3.13 writes an IPv4-mapped one in hexadecimal."""
    mapped = address.ipv4_mapped
    return f"::ffff:{mapped}" if mapped else str(address)


# --- version 1 -----------------------------------------------------------------------------------------------------


def _scan_v1(data: bytes) -> Scan:
    if not _begins(data, _PREFIX):
        return _absent(data)
    end = data.find(b"\r\n", 0, LINE_BYTES_MAX)
    line = data[:end] if end >= 0 else data[:LINE_BYTES_MAX]
    inner = line if end >= 0 else line.removesuffix(b"\r")
    if b"\r" in inner or b"\n" in inner:  # 2.1: must not be tolerated
        return Malformed("PROXY v1: a CR or LF that is no CRLF")
    if end >= 0:
        return _parse_line(line, end + 2)
    ending = 1 if line.endswith(b"\r") else 2
    if len(data) + ending > LINE_BYTES_MAX:
        return Malformed(f"PROXY v1: no CRLF in the first {LINE_BYTES_MAX} bytes")
    return Incomplete(max(ending, _V1_SHORTEST - len(data)))


def _parse_line(line: bytes, length_bytes: int) -> Scan:
    match = _LINE.fullmatch(line)
    if not match:
        if _UNKNOWN.fullmatch(line):
            return Found(length_bytes, None, None)
        return Malformed(f"PROXY v1: bad line {line!a}")
    family, source, destination, source_port, destination_port = (group.decode("ascii") for group in match.groups())
    peer = _endpoint(family, source, source_port)
    local = _endpoint(family, destination, destination_port)
    if peer is None or local is None:
        return Malformed(f"PROXY v1: bad address or port in {line!a}")
    return Found(length_bytes, peer, local)


def _endpoint(family: str, address: str, port: str) -> tuple[str, int] | None:
    if int(port) > 65535:
        return None
    if family == "TCP4":
        return (address, int(port)) if _IPV4_ONLY.fullmatch(address) else None
    try:
        return ipv6_text(IPv6Address(address)), int(port)
    except ValueError:
        return None


# --- version 2 -----------------------------------------------------------------------------------------------------


def _scan_v2(data: bytes) -> Scan:
    if not _begins(data, _SIGNATURE):
        return _absent(data)
    if problem := _fixed_problem(data[:_V2_FIXED]):
        return Malformed(f"PROXY v2: {problem}")
    if len(data) < _V2_FIXED:
        return Incomplete(_V2_FIXED - len(data))
    length_bytes = _V2_FIXED + int.from_bytes(data[14:16], "big")
    if len(data) < length_bytes:
        return Incomplete(length_bytes - len(data))
    return _parse_block(data[:length_bytes])


def _fixed_problem(fixed: bytes) -> str:
    """What is wrong with the first 16 bytes, as far as they are there; 2.2: the sender should notice at once."""
    if len(fixed) > 12 and fixed[12] not in (0x20 | _LOCAL, 0x20 | _PROXY):
        return f"neither LOCAL nor PROXY of version 2, but 0x{fixed[12]:02x}"
    proxied = len(fixed) > 12 and fixed[12] & 0xF == _PROXY  # 2.2: LOCAL's family is ignored
    if proxied and len(fixed) > 13 and (fixed[13] >> 4 not in _ADDRESS_BYTES or fixed[13] & 0xF > 2):
        return f"family and transport not known, 0x{fixed[13]:02x}"
    if len(fixed) == _V2_FIXED:
        size = int.from_bytes(fixed[14:16], "big")
        if _V2_FIXED + size > HEADER_BYTES_MAX:
            return f"header of {_V2_FIXED + size} bytes, more than {HEADER_BYTES_MAX}"
        if proxied and size < _ADDRESS_BYTES[fixed[13] >> 4]:
            return f"{size} bytes are too short for the family 0x{fixed[13]:02x}"
    return ""


def _parse_block(header: bytes) -> Found | Malformed:
    """A header that is complete, and whose first 16 bytes are good."""
    family, transport = header[13] >> 4, header[13] & 0xF
    if header[12] & 0xF == _LOCAL or family == 0:
        return Found(len(header), None, None)  # 2.2: whatever is in the block is ignored
    if problem := _tlv_problem(header, _V2_FIXED + _ADDRESS_BYTES[family]):
        return Malformed(f"PROXY v2: {problem}")
    if transport != _STREAM or family not in (1, 2):  # 2.2: what is not supported counts as UNSPEC
        return Found(len(header), None, None)
    each = 4 if family == 1 else 16
    addresses, ports = header[16 : 16 + 2 * each], header[16 + 2 * each : 20 + 2 * each]
    return Found(
        len(header),
        (_written(addresses[:each]), int.from_bytes(ports[:2], "big")),
        (_written(addresses[each:]), int.from_bytes(ports[2:], "big")),
    )


def _written(packed: bytes) -> str:
    return ".".join(map(str, packed)) if len(packed) == 4 else ipv6_text(IPv6Address(packed))


def _tlv_problem(header: bytes, at: int) -> str:
    """2.2: TLVs fill the header to its end; of them only the checksum (2.2.3) is looked at."""
    checksums = 0
    while at < len(header):
        value = at + 3
        following = value + int.from_bytes(header[at + 1 : value], "big")
        if following > len(header):
            return "a TLV reaches beyond the header"
        if header[at] == _CRC32C:
            checksums += 1
            if checksums > 1:  # each would cost the reading of the whole header
                return "more than one checksum"
            if not _sums_up(header, value, following):
                return "wrong checksum"
        at = following
    return ""


def _sums_up(header: bytes, start: int, end: int) -> bool:
    """Whether the checksum that is there is that of the header with zeros in its place."""
    zeroed = header[:start] + bytes(4) + header[end:]
    return header[start:end] == crc32c(zeroed).to_bytes(4, "big")


def crc32c(data: bytes) -> int:
    """CRC32c (RFC 9260 Appendix A, before that RFC 4960 Appendix B)."""
    table, crc = _crc32c_table(), 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@lru_cache(1)
def _crc32c_table() -> tuple[int, ...]:
    """Made at the first checksum: most proxies send none."""
    table = []
    for entry in range(256):
        for _ in range(8):
            entry = (entry >> 1) ^ (0x82F63B78 if entry & 1 else 0)  # noqa: PLW2901  # the polynomial, bits reversed
        table.append(entry)
    return tuple(table)


# --- both ----------------------------------------------------------------------------------------------------------


def _begins(data: bytes, start: bytes) -> bool:
    """As far as `data` goes."""
    return data[: len(start)] == start[: len(data)]


def _absent(data: bytes) -> Malformed:
    """Most often somebody who speaks HTTP or TLS without it."""
    return Malformed(f"no PROXY header, the connection begins with {data[:16]!a}")
