"""A small HTTP client on purpose: it never retries and never hides a closed connection. Shell; runs in pytest.

Addresses are what `-b` takes: "127.0.0.1:8000", "[::1]:8000", "unix:/run/app.sock".
"""

import http.client
import json
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TIMEOUT_S = 15.0


@dataclass(frozen=True, slots=True)
class Response:
    """A whole response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class Connection(http.client.HTTPConnection):
    """A keep-alive connection to an address."""

    def __init__(self, address: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self.address = address

    def connect(self) -> None:
        """Connect; raises OSError at once if nobody listens."""
        self.sock = connect(self.address, self.timeout or TIMEOUT_S)

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """One request and its response on this connection. Raises if the server closed it before."""
        if self.sock is None:
            self.connect()
        self.auto_open = 0  # a connection that was closed must show
        self.request(method, path, body, dict(headers or {}))
        return read(self.getresponse())

    def begin(self, path: str) -> None:
        """Send a request; `finish` reads its response."""
        if self.sock is None:
            self.connect()
        self.request("GET", path)

    def finish(self) -> Response:
        """The response to `begin`."""
        return read(self.getresponse())


def connect(address: str, timeout_s: float = TIMEOUT_S) -> socket.socket:
    """A connected stream socket."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(timeout_s)
        try:
            sock.connect(address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host.strip("[]"), int(port)), timeout_s)


def read(answer: http.client.HTTPResponse) -> Response:
    """The whole of it."""
    body = answer.read()
    return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, body)


def get(address: str, path: str = "/version", timeout_s: float = TIMEOUT_S) -> Response:
    """One request on a connection of its own."""
    connection = Connection(address, timeout_s)
    try:
        return connection.ask(path)
    finally:
        connection.close()


def free_port() -> int:
    """A port that is free now, below the range that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(15000, 32000)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def free_address() -> str:
    """A TCP address on loopback."""
    return f"127.0.0.1:{free_port()}"


def refused(address: str) -> bool:
    """Whether nobody listens there."""
    try:
        connect(address, 2.0).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False
