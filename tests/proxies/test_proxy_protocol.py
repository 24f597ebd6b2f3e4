"""The PROXY protocol by clients of our own: what no proxy sends, or not on demand."""

import array
import fcntl
import json
import socket
import ssl
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.http.harness import Client
from tests.process.server import Server
from tests.process.waiting import eventually
from tests.process.web import connect
from tests.proxies.curl import curl
from tests.proxies.fronts import CLIENT, Lab, unix_of

GET = b"GET /echo HTTP/1.1\r\nHost: shop.example\r\n\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V4 = socket.inet_aton("203.0.113.7") + socket.inet_aton("192.0.2.1")
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + socket.inet_pton(socket.AF_INET6, "2001:db8::1")


def v2(command: int, family: int, addresses: bytes) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", 0x20 | command, family, len(addresses)) + addresses


PORTS = struct.pack("!HH", 4711, 80)
V1_LINE = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"
V2_BLOCK = v2(1, 0x11, V4 + PORTS)
LOCAL = v2(0, 0, b"")

GOOD = {
    "v1": (V1_LINE, ("203.0.113.7", "4711")),
    "v1-ipv6": (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 80\r\n", ("2001:db8::7", "4711")),
    "v1-unknown": (b"PROXY UNKNOWN\r\n", None),
    "v2": (V2_BLOCK, ("203.0.113.7", "4711")),
    "v2-ipv6": (v2(1, 0x21, V6 + PORTS), ("2001:db8::7", "4711")),
    "v2-with-more": (v2(1, 0x11, V4 + PORTS + b"\x04\x00\x05extra"), ("203.0.113.7", "4711")),
    "v2-local": (LOCAL, None),
}
BAD = {
    "none": GET,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "v1-address": b"PROXY TCP4 203.0.113.777 192.0.2.1 4711 80\r\n",
    "v1-short": b"PROXY TCP4 203.0.113.7\r\n",
    "v1-port": b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 80\r\n",
    "v1-family": b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 80\r\n",
    "v1-endless": b"PROXY UNKNOWN " + b"x" * 100,
    "v2-version": SIGNATURE + b"\x31\x11\x00\x0c" + V4 + PORTS,
    "v2-length": v2(1, 0x11, V4),
}
MODES = ("inline", "threads")
ROADS = ("tcp", "unix")


def proxied(lab: Lab, mode: str) -> Server:
    """One that takes both versions."""
    return lab.server(mode, "auto")


def dialled(server: Server, road: str = "tcp", source: str = "") -> Client:
    """A raw connection."""
    if source:
        host, port = server.address.split(":")
        return Client(socket.create_connection((host, int(port)), 10, (source, 0)))
    return Client(connect(server.address if road == "tcp" else unix_of(server)))


def seen(client: Client) -> tuple[str, str | None]:
    """What the app says of the next response's client."""
    response = client.response()
    assert response.status == 200, response
    environ = json.loads(response.body)["environ"]
    return environ["REMOTE_ADDR"], environ.get("REMOTE_PORT")


def own(client: Client, road: str) -> tuple[str, str | None]:
    """What it says where nothing was told."""
    return ("", None) if road == "unix" else ("127.0.0.1", str(client.sock.getsockname()[1]))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GOOD)
def test_headers(lab: Lab, name: str, mode: str, road: str) -> None:
    """In one piece with the request, and byte by byte; the next request has none."""
    header, told = GOOD[name]
    for trickled in (False, True):
        with dialled(proxied(lab, mode), road) as client:
            if trickled:
                client.trickle(header)
                client.trickle(GET)
            else:
                client.send(header + GET + GET)
            assert seen(client) == (told or own(client, road))
            if trickled:
                client.send(GET)
            assert seen(client) == (told or own(client, road))


def is_read(client: Client) -> bool:
    """The server has taken all, so that what is sent next comes to it as another piece. Unix sockets only."""
    unread = array.array("i", [0])
    fcntl.ioctl(client.sock, termios.TIOCOUTQ, unread)
    return unread[0] == 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("header", [b"", V1_LINE, V2_BLOCK], ids=["none", "v1", "v2"])
def test_in_pieces(lab: Lab, header: bytes, mode: str) -> None:
    """Wherever it is cut: once in the PROXY header, and once in the request's head."""
    server = lab.server(mode, "auto" if header else "off")
    cuts = [(cut % len(header) if header else 0, cut) for cut in range(1, len(GET))]
    with ExitStack() as stack:
        clients = [stack.enter_context(dialled(server, "unix")) for _ in cuts]
        steps = (
            [header[:first] for first, _ in cuts],
            [header[first:] for first, _ in cuts],
            [GET[:second] for _, second in cuts],
            [GET[second:] for _, second in cuts],
        )
        for pieces in steps:
            for client, piece in zip(clients, pieces, strict=True):
                client.send(piece)
            eventually(lambda: all(map(is_read, clients)))
        for client, cut in zip(clients, cuts, strict=True):
            assert seen(client) == (("203.0.113.7", "4711") if header else ("", None)), f"cut at {cut}"


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BAD)
def test_malformed_headers(lab: Lab, name: str, mode: str, road: str) -> None:
    """Closed without a word to the peer, and with one to the operator."""
    server = proxied(lab, mode)
    before = len(server.log)
    with dialled(server, road) as client:
        client.send(BAD[name])
        assert client.closed()
    logged = eventually(lambda: [line for line in server.log[before:].splitlines() if "PROXY" in line])
    assert len(logged) == 1, logged
    assert "Traceback" not in server.log[before:]


@pytest.mark.parametrize("mode", MODES)
def test_a_check_that_only_connects(lab: Lab, mode: str) -> None:
    """HAProxy's `check send-proxy` without `httpchk`, every two seconds: nothing for the operator to read."""
    server = proxied(lab, mode)
    before = len(server.log)
    for header in (b"PROXY UNKNOWN\r\n", LOCAL):
        with dialled(server) as client:
            client.send(header)
            client.sock.shutdown(socket.SHUT_WR)
            assert client.closed()
    assert server.log[before:] == ""


def test_only_the_version_that_was_chosen(lab: Lab) -> None:
    """The other one is malformed."""
    for protocol, good, bad in (("v1", V1_LINE, V2_BLOCK), ("v2", V2_BLOCK, V1_LINE)):
        server = lab.server("inline", protocol)
        with dialled(server) as client:
            client.send(good + GET)
            assert seen(client) == ("203.0.113.7", "4711")
        with dialled(server) as client:
            client.send(bad + GET)
            assert client.closed()


@pytest.mark.parametrize("mode", MODES)
def test_strangers_are_served_without(lab: Lab, mode: str) -> None:
    """An address that is not in --proxy-allow-from; a header of theirs is a bad request."""
    server = proxied(lab, mode)
    with dialled(server, source=CLIENT) as client:
        client.send(GET)
        assert seen(client) == (CLIENT, str(client.sock.getsockname()[1]))
    for header in (V1_LINE, V2_BLOCK):
        with dialled(server, source=CLIENT) as client:
            client.send(header + GET)
            assert client.response().status == 400


@pytest.fixture(scope="module")
def picky(lab: Lab) -> Iterator[Server]:
    """Takes the header from `CLIENT` only, and believes whoever it speaks for."""
    yield lab.start(
        "picky", "threads", "auto", False, "--proxy-allow-from", CLIENT, "--forwarded-allow-ips", "203.0.113.0/24"
    )


def test_who_may_send_it(picky: Server) -> None:
    """The operator's list takes the default's place."""
    with dialled(picky, source=CLIENT) as client:
        client.send(V1_LINE + GET)
        assert seen(client) == ("203.0.113.7", "4711")
    for road in ROADS:
        with dialled(picky, road) as client:
            client.send(GET)
            assert seen(client) == own(client, road)


def test_the_client_that_was_told_is_the_peer(picky: Server, lab: Lab) -> None:
    """Whether X-Forwarded-* is believed depends on whom the header names, not on who sent that."""
    forged = GET[:-2] + b"X-Forwarded-For: 198.51.100.1\r\n\r\n"
    with dialled(picky, source=CLIENT) as client:
        client.send(V1_LINE + forged)
        assert seen(client) == ("198.51.100.1", None)
    with dialled(proxied(lab, "threads")) as client:
        client.send(V1_LINE + forged)
        assert seen(client) == ("203.0.113.7", "4711")


def test_curl_sends_it(lab: Lab) -> None:
    """For itself, over both."""
    server = proxied(lab, "threads")
    tcp = curl("--haproxy-protocol", f"http://{server.address}/echo")
    assert tcp.json["environ"]["REMOTE_PORT"] == str(tcp.facts[0]["local_port"])
    unix = curl("--haproxy-protocol", "--unix-socket", unix_of(server)[5:], "http://localhost/echo")
    assert unix.json["environ"]["REMOTE_ADDR"] in ("", "127.0.0.1")


def test_the_peer_outlives_a_reload(lab: Lab) -> None:
    """A connection that is handed over keeps its client; the header does not come again."""
    server = lab.start("reloaded", "threads", "auto")
    with dialled(server) as first, dialled(server, "unix") as second:
        for client in (first, second):
            client.send(V2_BLOCK + GET)
            assert seen(client) == ("203.0.113.7", "4711")
        server.reload_ok()
        for client in (first, second):
            client.send(GET)
            assert seen(client) == ("203.0.113.7", "4711")


@pytest.mark.parametrize("mode", MODES)
def test_before_tls(lab: Lab, mode: str) -> None:
    """The header is plain, the handshake follows; also in one segment's worth and split."""
    server = lab.server(mode, "auto", True)
    told = curl("--haproxy-protocol", "--cacert", lab.certificate.chain, f"https://{server.address}/echo")
    assert (told.code, told.status) == (0, 200), told
    assert told.json["environ"]["REMOTE_PORT"] == str(told.facts[0]["local_port"])
    trust = ssl.create_default_context(cafile=lab.certificate.chain)
    for header in (V1_LINE, V2_BLOCK):
        with dialled(server) as raw:
            raw.trickle(header)
            with Client(trust.wrap_socket(raw.sock, server_hostname="localhost")) as client:
                client.send(GET)
                assert seen(client) == ("203.0.113.7", "4711")
