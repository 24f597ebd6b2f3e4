"""The proxies, each in a directory of its own, running the configurations from `examples/`. Shell; runs in pytest.

Each listens at two addresses: plain HTTP, and TLS. `upstream` is what graceserve's `--bind` has.
"""

import os
import re
import signal
import socket

from tests.process.components import missing, require
from tests.process.nginx import Nginx
from tests.process.procs import Nursery
from tests.process.stock import REPOSITORY, environ
from tests.process.waiting import eventually
from tests.process.web import connect, free_address
from tests.proxies.certificates import Certificate

EXAMPLE_SOCKET = "/run/app/app.sock"
UNBUFFERED = "proxy_buffering off; proxy_request_buffering off;"

HAPROXY_GLOBAL = """\
global
    stats socket {root}/stats.sock
"""

APACHE_MODULES = "/usr/lib/apache2/modules"
APACHE_MAIN = """\
ServerRoot {root}
DefaultRuntimeDir {root}
PidFile {root}/apache.pid
ErrorLog {root}/error.log
LogLevel info
ServerName localhost
User www-data
Group www-data
Listen {address}
Listen {tls_address} https
{load}
# one child: it has the one pool of kept connections
ServerLimit 1
StartServers 1
ThreadsPerChild 16
MaxRequestWorkers 16
Include {root}/plain.conf
Include {root}/tls.conf
"""
APACHE_LOADS = ("mpm_event", "authz_core", "headers", "proxy", "proxy_http", "ssl")


def example(name: str, *replaced: tuple[str, str]) -> str:
    """A file of `examples/`, with parts of it replaced that are there exactly once."""
    with open(os.path.join(REPOSITORY, "examples", name), encoding="utf-8") as file:
        text = file.read()
    for old, new in replaced:
        assert text.count(old) == 1, f"examples/{name} has not exactly one {old!r}"
        text = text.replace(old, new)
    return text


class NginxWithTls(Nginx):
    """As the process tests', and with TLS. `inside` are more lines for its location."""

    def __init__(self, nursery: Nursery, root: str, upstream: str, certificate: Certificate, inside: str = "") -> None:
        self.tls_address = free_address()
        self._tls = f"ssl_certificate {certificate.chain}; ssl_certificate_key {certificate.key};"
        self._inside = inside
        super().__init__(nursery, root, upstream)

    def _example(self, upstream: str, kept: int) -> str:
        text = super()._example(upstream, kept)
        for old, more in (
            (f"listen {self.address};", f"listen {self.tls_address} ssl; {self._tls}"),
            ("location / {", self._inside),
        ):
            assert text.count(old) == 1, old
            text = text.replace(old, f"{old} {more}")
        return text


class Proxy:
    """A process in a directory of its own, that is up once both addresses answer."""

    def __init__(self, nursery: Nursery, root: str) -> None:
        self.root = root
        self.address = free_address()
        self.tls_address = free_address()
        self._nursery = nursery
        os.makedirs(root, exist_ok=True)

    @property
    def log(self) -> str:
        """What it wrote to stderr and to its error log."""
        texts = []
        for name in ("stderr.log", "error.log"):
            if os.path.exists(self._path(name)):
                with open(self._path(name), encoding="utf-8", errors="replace") as file:
                    texts.append(file.read())
        return "".join(texts)

    def stop(self) -> None:
        """At once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)

    def _write(self, name: str, text: str) -> str:
        with open(self._path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self._path(name)

    def _run(self, *argv: str) -> None:
        with open(self._path("stderr.log"), "wb") as log:
            self.process = self._nursery.start(
                list(argv), env=environ(), stdout=log, stderr=log, start_new_session=True
            )
        eventually(self._answers, 10, f"{argv[0]} on {self.address}")

    def _answers(self) -> bool:
        if self.process.poll() is not None:  # not an `AssertionError`, which would mean "not yet"
            raise RuntimeError(f"the proxy exited with {self.process.returncode}: {self.log}")
        connect(self.address, 2).close()
        connect(self.tls_address, 2).close()
        return True


class Haproxy(Proxy):
    """`words` are added to the server's line."""

    def __init__(self, nursery: Nursery, root: str, upstream: str, certificate: Certificate, words: str = "") -> None:
        super().__init__(nursery, root)
        place = "unix@" + upstream.removeprefix("unix:") if upstream.startswith("unix:") else upstream
        reuse = "http-reuse never " if "send-proxy" in words else "http-reuse always"  # as the example says
        text = example(
            "haproxy/graceserve.cfg",
            ("http-reuse always", reuse),
            ("bind :80\n", f"bind {self.address}\n    bind {self.tls_address} ssl crt {certificate.both}\n"),
            (f"server app unix@{EXAMPLE_SOCKET} check", f"server app {place} check {words}"),
        )
        own = self._write("global.cfg", HAPROXY_GLOBAL.format(root=root))
        self._run(require("haproxy", "haproxy"), "-db", "-f", own, "-f", self._write("app.cfg", text))

    def health(self) -> dict[str, str]:
        """How the app's server is, by the columns of `show stat`: status, check_status, check_code ..."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(self._path("stats.sock"))
            sock.sendall(b"show stat\n")
            text = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        columns, *rows = text.removeprefix("# ").strip().splitlines()
        found = [dict(zip(columns.split(","), row.split(","), strict=True)) for row in rows]
        return next(row for row in found if (row["pxname"], row["svname"]) == ("app", "app"))


class Apache(Proxy):
    """Over TLS the same virtual host a second time."""

    def __init__(self, nursery: Nursery, root: str, upstream: str, certificate: Certificate) -> None:
        super().__init__(nursery, root)
        program = require("apache2", "apache2-bin")
        place = f"{upstream}|http://localhost/" if upstream.startswith("unix:") else f"http://{upstream}/"
        text = example(
            "apache/graceserve.conf",
            ("*:80", self.address),
            (f'"unix:{EXAMPLE_SOCKET}|http://localhost/"', f'"{place}"'),
        )
        files = f"SSLCertificateFile {certificate.chain}\n    SSLCertificateKeyFile {certificate.key}"
        tls = re.sub(r"(?<=<VirtualHost ).*>", f"{self.tls_address}>\n    SSLEngine on\n    {files}", text)
        self._write("plain.conf", text)
        self._write("tls.conf", tls)
        main = APACHE_MAIN.format(
            root=root, address=self.address, tls_address=self.tls_address, load="\n".join(map(_load, APACHE_LOADS))
        )
        self._run(program, "-f", self._write("main.conf", main), "-DFOREGROUND")


def _load(module: str) -> str:
    path = os.path.join(APACHE_MODULES, f"mod_{module}.so")
    if not os.path.exists(path):
        missing(f"{path} is not there (apt-get install apache2-bin)")
    return f"LoadModule {module}_module {path}"
