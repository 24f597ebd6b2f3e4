"""What stands between a client and graceserve: nothing, or a proxy. Shell; runs in pytest.

A front is named by its kind, by what leads from it to the server (tcp, unix), and by how the server runs the app
(inline, threads): `nginx-tcp-inline`. Servers and proxies start when they are first asked for, and serve the whole
package. Clients come from `CLIENT`, an address that neither the server nor a proxy has, so that it can't be mistaken.
"""

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TypeVar

import pytest

from tests.process.procs import Nursery
from tests.process.server import Launch, Server
from tests.process.stock import REPOSITORY
from tests.process.web import free_address
from tests.proxies.certificates import Certificate, self_signed
from tests.proxies.curl import Answer, curl
from tests.proxies.proxies import UNBUFFERED, Apache, Haproxy, NginxWithTls

K, V = TypeVar("K"), TypeVar("V")
CLIENT = "127.0.0.9"
FILE_BYTES = 3_000_000
# the servers' limits: where they are lower than the defaults, the proxies' own limits would else be met first
BODY_BYTES_MAX = 4_000_000
LINE_BYTES_MAX = 4094
FIELD_BYTES_MAX = 6000
FIELDS_MAX = 90
LIMITS = (
    "--limit-request-body", str(BODY_BYTES_MAX), "--limit-request-line", str(LINE_BYTES_MAX),
    "--limit-request-field_size", str(FIELD_BYTES_MAX), "--limit-request-fields", str(FIELDS_MAX),
)  # fmt: skip


class Tells(Enum):
    """How the server learns who the client is."""

    ITSELF = "the connection's own address"
    HEADERS = "X-Forwarded-*"
    PROXY = "the PROXY protocol"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of front. `protocol` is the server's --proxy-protocol."""

    tells: Tells
    args: tuple[str, ...] = ()  # for curl
    protocol: str = "off"
    tls: bool = False  # graceserve's own
    old: bool = False  # HTTP/1.0
    checks: bool = False  # the server's health
    shapes: bool = True  # is asked for requests of all shapes, and not only for those where it may differ


KINDS = {
    "curl": Kind(Tells.ITSELF),
    "curl10": Kind(Tells.ITSELF, ("--http1.0",), old=True),
    "curltls": Kind(Tells.ITSELF, tls=True),
    "nginx": Kind(Tells.HEADERS),
    "nginx_unbuffered": Kind(Tells.HEADERS),
    "haproxy": Kind(Tells.HEADERS, checks=True),
    "haproxy_v1": Kind(Tells.PROXY, protocol="v1", checks=True, shapes=False),
    "haproxy_v2": Kind(Tells.PROXY, protocol="v2", checks=True),
    "haproxy_tls": Kind(Tells.HEADERS, tls=True, checks=True, shapes=False),
    "apache": Kind(Tells.HEADERS),
}
# curl meets all four; the proxies, which differ in what they send and not in how the app runs, two
ROADS = ("tcp-inline", "unix-threads")
ALL_ROADS = (*ROADS, "tcp-threads", "unix-inline")
NAMES = tuple(f"{name}-{road}" for name in KINDS for road in (ALL_ROADS if name == "curl" else ROADS))


def through(passes: Callable[[Kind], bool] = lambda kind: kind.shapes) -> pytest.MarkDecorator:
    """A test's `front`s: all whose kind passes."""
    names = [name for name in NAMES if passes(KINDS[name.split("-")[0]])]
    return pytest.mark.parametrize("front", names, indirect=True)


@dataclass(frozen=True, slots=True)
class Front:
    """Where a client asks. `url` and `tls_url` end before the path; the latter is empty where there is none."""

    name: str
    kind: Kind
    url: str
    tls_url: str
    args: tuple[str, ...]
    unix: bool  # between it and the server
    server: Server
    proxy: NginxWithTls | Haproxy | Apache | None

    @property
    def proxied(self) -> bool:
        """Whether something stands between."""
        return self.proxy is not None

    def urls(self, *paths: str) -> list[str]:
        """For curl's command line."""
        return [self.url + path for path in paths]

    def ask(self, path: str, *args: str, body: bytes = b"") -> Answer:
        """One transfer, from `CLIENT`."""
        return self.ask_all((path,), *args, body=body)

    def ask_all(self, paths: tuple[str, ...], *args: str, body: bytes = b"") -> Answer:
        """Several, by one curl, which keeps its connections."""
        return curl(*self.args, *args, *self.urls(*paths), body=body)


def _once(made: dict[K, V | None], key: K, make: Callable[[], V]) -> V:
    """What was made for this key. What failed is not tried again; where a program is not there, each test that needs it
    is skipped."""
    if key not in made:
        made[key] = None
        try:
            made[key] = make()
        except pytest.skip.Exception:
            del made[key]
            raise
    found = made[key]
    assert found is not None, f"{key} did not start; an earlier test says why"
    return found


@dataclass
class Lab:
    """All servers and proxies of the package. `root` is a directory of its own."""

    nursery: Nursery
    root: str
    # None: tried, and failed. The second test that needs it fails at once.
    _servers: dict[tuple[str, str, bool], Server | None] = field(default_factory=dict)
    _fronts: dict[str, Front | None] = field(default_factory=dict)
    _started: list[Server] = field(default_factory=list)

    @cached_property
    def content(self) -> bytes:
        """What `/file` has."""
        return random.Random(3).randbytes(FILE_BYTES)

    @cached_property
    def certificate(self) -> Certificate:
        """The one that proxies and servers have."""
        return self_signed(self.root, "site")

    def path(self, *names: str) -> str:
        """A path of the lab."""
        return os.path.join(self.root, *names)

    def front(self, name: str) -> Front:
        """By its name."""
        return _once(self._fronts, name, lambda: self._made(name))

    def server(self, mode: str, protocol: str = "off", tls: bool = False) -> Server:
        """One that listens on TCP, at `address`, and at a Unix socket, `unix_of`."""
        key = (mode, protocol, tls)
        return _once(self._servers, key, lambda: self.start(f"server-{len(self._servers)}", mode, protocol, tls))

    def start(self, name: str, mode: str, protocol: str = "off", tls: bool = False, *more: str) -> Server:
        """A server of its own, ready."""
        if not os.path.exists(self.path("file")):
            with open(self.path("file"), "wb") as file:
                file.write(self.content)
        address = free_address()
        options = ["--workers", "1", "--threads", {"inline": "1", "threads": "4"}[mode], "--graceful-timeout", "5"]
        options += ["--proxy-protocol", protocol, *LIMITS, *more]
        if tls:
            options += ["--certfile", self.certificate.chain, "--keyfile", self.certificate.key]
        argv = (
            sys.executable, "-m", "graceserve", "tests.proxies.app:app", "--bind", address,
            "--bind", f"unix:{self.path(name)}.sock", *options,
        )  # fmt: skip
        launch = Launch(argv, cwd=REPOSITORY, address=address, env={"PROXIES_FILE": self.path("file")})
        self._started.append(Server(self.nursery, launch, self.path(f"{name}.log")))
        return self._started[-1].wait_ready()

    def close(self) -> None:
        """End all; a server that does not end well is a failure."""
        for front in self._fronts.values():
            if front is not None and front.proxy is not None:
                front.proxy.stop()
        for server in self._started:
            server.process.terminate()
        for server in self._started:
            code = server.wait_exit()
            assert code == 0, f"exit {code}: {server.log[-3000:]}"

    def _made(self, name: str) -> Front:
        word, family, mode = name.split("-")
        kind = KINDS[word]
        protocol = kind.protocol if mode == "inline" or kind.protocol == "off" else "auto"
        server = self.server(mode, protocol, kind.tls)
        if word in PROXIES:
            upstream = unix_of(server) if family == "unix" else server.address
            proxy = PROXIES[word](self, self.path(name), upstream)
            urls = f"http://{proxy.address}", f"https://{proxy.tls_address}"
            args = (*kind.args, "--interface", CLIENT, "--cacert", self.certificate.chain)
            return Front(name, kind, *urls, args, family == "unix", server, proxy)
        url = ("https" if kind.tls else "http") + "://" + ("localhost" if family == "unix" else server.address)
        args = (*kind.args, *(("--cacert", self.certificate.chain) if kind.tls else ()))
        road = ("--unix-socket", unix_of(server)[5:]) if family == "unix" else ("--interface", CLIENT)
        return Front(name, kind, url, "", (*args, *road), family == "unix", server, None)


def unix_of(server: Server) -> str:
    """Its other address, as `--bind` has it."""
    argv = server.launch.argv
    return argv[argv.index("--bind", argv.index("--bind") + 1) + 1]


PROXIES: dict[str, Callable[[Lab, str, str], NginxWithTls | Haproxy | Apache]] = {
    "nginx": lambda lab, root, to: NginxWithTls(lab.nursery, root, to, lab.certificate),
    "nginx_unbuffered": lambda lab, root, to: NginxWithTls(lab.nursery, root, to, lab.certificate, UNBUFFERED),
    "haproxy": lambda lab, root, to: Haproxy(lab.nursery, root, to, lab.certificate),
    "haproxy_v1": lambda lab, root, to: Haproxy(lab.nursery, root, to, lab.certificate, "send-proxy"),
    "haproxy_v2": lambda lab, root, to: Haproxy(lab.nursery, root, to, lab.certificate, "send-proxy-v2"),
    "haproxy_tls": lambda lab, root, to: Haproxy(lab.nursery, root, to, lab.certificate, "ssl verify none"),
    "apache": lambda lab, root, to: Apache(lab.nursery, root, to, lab.certificate),
}
