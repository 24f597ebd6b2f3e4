"""A real nginx in a directory of its own, running the configuration from `examples/nginx`. Shell; runs in pytest."""

import os
import re
import signal

from tests.process.components import require
from tests.process.procs import Nursery
from tests.process.stock import REPOSITORY, environ
from tests.process.waiting import eventually
from tests.process.web import connect, free_address

MAIN = """\
daemon off;
{user}
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/error.log info;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    {kept}
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    proxy_next_upstream off;  # a request that the upstream loses must show
    include {root}/app.conf;
}}
"""
KEPT = "keepalive_requests 1000000; keepalive_timeout 3600s;"  # nginx closes no connection by itself
LOSSES = re.compile(r"prematurely closed|\w+\(\) .*failed|\bupstream (timed|sent)|\[(crit|alert)")


class Nginx:
    """nginx on `address`, passing to `upstream` over kept connections.

    `kept`: how many it keeps, for good, and its clients' as well; 0: as the example has it.
    """

    def __init__(self, nursery: Nursery, root: str, upstream: str, kept: int = 0) -> None:
        self.address = free_address()
        self.root = root
        os.makedirs(root, exist_ok=True)
        user = "user root;" if os.getuid() == 0 else ""
        self._write("nginx.conf", MAIN.format(root=root, user=user, kept=KEPT if kept else ""))
        self._write("app.conf", self._example(upstream, kept))
        program = require("nginx", "nginx-light")
        argv = [program, "-p", root, "-c", os.path.join(root, "nginx.conf"), "-e", os.path.join(root, "error.log")]
        with open(os.path.join(root, "stderr.log"), "wb") as log:
            self.process = nursery.start(argv, env=environ(), stdout=log, stderr=log, start_new_session=True)
        eventually(self._answers, 10, f"nginx on {self.address}: {self.error_log}")

    @property
    def error_log(self) -> str:
        """All of it."""
        try:
            with open(os.path.join(self.root, "error.log"), encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def losses(self) -> list[str]:
        """Lines of the error log that speak of trouble with the upstream."""
        return [line for line in self.error_log.splitlines() if LOSSES.search(line)]

    def stop(self) -> None:
        """At once."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(10)

    def _example(self, upstream: str, kept: int) -> str:
        with open(os.path.join(REPOSITORY, "examples/nginx/graceserve.conf"), encoding="utf-8") as file:
            text = file.read()
        replaced = [("unix:/run/app/app.sock", upstream), ("listen 80;", f"listen {self.address};")]
        if kept:
            replaced += [("keepalive 32;", f"keepalive {kept};"), ("keepalive_timeout 60s;", KEPT)]
        for old, new in replaced:
            assert text.count(old) == 1, f"the example has no {old!r}"
            text = text.replace(old, new)
        return text

    def _answers(self) -> bool:
        assert self.process.poll() is None, f"nginx exited with {self.process.returncode}"
        connect(self.address, 2).close()
        return True

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.root, name), "w", encoding="utf-8") as file:
            file.write(text)
