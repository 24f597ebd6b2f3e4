"""Real workers with the test as their master: real sockets, real signals, no mocks."""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from graceserve.wire.channel import Channel, Inbox, close_all
from graceserve.wire.messages import (
    Accept,
    Drain,
    Leaving,
    Message,
    Ping,
    Pong,
    WorkerHello,
    WorkerReady,
)

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 30.0  # for what must happen; a loaded machine may take long
M = TypeVar("M", bound=Message)


def eventually(happened: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Poll until it is true. The one place where these tests wait without a message."""
    end = time.monotonic() + patience_s
    while not (value := happened()):
        assert time.monotonic() < end, f"not within {patience_s} s"
        time.sleep(0.01)
    return value


def passed(duration_s: float) -> None:
    """For what must *not* happen: let time go by."""
    began = time.monotonic()
    eventually(lambda: time.monotonic() - began > duration_s)


class Worker:
    """A worker process, and the master's end of its channel."""

    def __init__(
        self,
        app: str,
        listeners: list[tuple[str, socket.socket]],
        inbox: Inbox,
        *,
        generation: int = 7,
        **settings: Any,
    ) -> None:
        self.channel, theirs = Channel.pair()
        self.stacks = -1
        self.logs = b""
        told = {
            "settings": {"app": app, "log_level": "debug", **settings},
            "generation": generation,
            "worker": generation * 10,
            "channel": theirs.fileno(),
            "inbox": inbox.fds,
            "listeners": [(name, sock.fileno()) for name, sock in listeners],
        }
        fds = [theirs.fileno(), *inbox.fds, *(sock.fileno() for _, sock in listeners)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.http.worker_program", json.dumps(told)],
            cwd=REPOSITORY,
            pass_fds=fds,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONWARNINGS": "error"},
        )
        theirs.close()
        assert self.process.stderr is not None
        os.set_blocking(self.process.stderr.fileno(), False)
        hello = self.expect(WorkerHello)
        assert hello.pid == self.process.pid

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        log = self.log()
        assert self.process.stderr is not None
        self.process.stderr.close()
        self.channel.close()
        if self.stacks >= 0:
            os.close(self.stacks)
        if error is not None and log:
            sys.stderr.write(log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """All that it has written to stderr so far."""
        assert self.process.stderr is not None
        while data := self.process.stderr.read():
            self.logs += data
        return self.logs.decode()

    def expect(self, kind: type[M], patience_s: float = PATIENCE_S) -> M:
        """Its next message, which must be one of these."""
        poll = select.poll()
        poll.register(self.channel.fileno(), select.POLLIN)
        assert poll.poll(patience_s * 1000), f"no {kind.__name__} within {patience_s} s; log:\n{self.log()}"
        received = self.channel.receive()
        assert received is not None, f"end-of-file instead of {kind.__name__}; log:\n{self.log()}"
        message, fds = received
        if isinstance(message, WorkerHello):
            [self.stacks] = fds
        else:
            close_all(fds)
        assert isinstance(message, kind), f"{message} instead of {kind.__name__}; log:\n{self.log()}"
        return message

    def accept(self) -> "Worker":
        """Wait until it is ready, promote it, and wait until it accepts."""
        self.expect(WorkerReady)
        self.tell(Accept())
        self.ping()
        return self

    def ping(self) -> Pong:
        self.tell(Ping())
        return self.expect(Pong)

    def tell(self, message: Message, fds: tuple[int, ...] = ()) -> None:
        assert self.channel.send(message, fds)

    def drain(self, *, grace_s: float = 10.0, stop: bool = False) -> None:
        """As the master does it: terms first, then the order."""
        self.tell(Drain(grace_s, stop))
        self.term()

    def term(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def left(self) -> None:
        """It has said that it is leaving."""
        self.expect(Leaving)

    def ended(self, patience_s: float = PATIENCE_S) -> int:
        return self.process.wait(patience_s)


class Stage:
    """A listener and an inbox; workers of two generations come and go."""

    def __init__(self, unix_path: str = "") -> None:
        if unix_path:
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(unix_path)
            self.name = f"unix:{unix_path}"
        else:
            self.listener = socket.socket()
            self.listener.bind(("127.0.0.1", 0))
            self.name = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.listener.listen(1024)
        self.listener.setblocking(False)
        self.inbox = Inbox.new()

    def close(self) -> None:
        self.listener.close()
        self.inbox.close()

    def worker(self, app: str = "tests.http.apps:app", *, side: int = 0, **settings: Any) -> Worker:
        return Worker(app, [(self.name, self.listener)], self.inbox, generation=7 + side, **settings)

    def connect(self, timeout_s: float = PATIENCE_S) -> "Client":
        sock = socket.socket(self.listener.family)
        sock.settimeout(timeout_s)
        sock.connect(self.listener.getsockname())
        return Client(sock)

    def get(self, path: str = "/", **headers: str) -> "Response":
        """One request on a connection of its own."""
        with self.connect() as client:
            return client.get(path, **headers)


@contextmanager
def stage(unix_path: str = "") -> Iterator[Stage]:
    made = Stage(unix_path)
    try:
        yield made
    finally:
        made.close()


class Response:
    """A parsed response."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, complete: bool) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.complete = complete  # as its framing tells

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:80]!r} complete={self.complete}>"


class Client:
    """A raw HTTP client that can misbehave. Parses responses by itself, strictly."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def trickle(self, data: bytes) -> None:
        """Byte by byte, each in a segment of its own."""
        if self.sock.family != socket.AF_UNIX:
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            self.sock.sendall(bytes((byte,)))

    def reset(self) -> None:
        """Vanish: a plain close looks like a client that only sends no more."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def get(self, path: str = "/", **headers: str) -> Response:
        fields = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n{fields}\r\n".encode())
        return self.response()

    def closed(self) -> bool:
        """Whether the server has closed: waits for end-of-file, and is False if anything else comes."""
        try:
            return self.buffer == b"" and self.sock.recv(1) == b""
        except ConnectionError:
            return True

    def response(self, *, head: bool = False) -> Response:
        """The next one. `head`: the request was a HEAD."""
        raw = self._until(b"\r\n\r\n")
        assert raw is not None, f"no head, but {self.buffer!r}"
        lines = raw.decode("latin-1").split("\r\n")
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1", lines[0]
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines[1:-2])}
        code = int(status)
        if head or code < 200 or code in (204, 304):
            return Response(code, headers, b"", True)
        if headers.get("transfer-encoding") == "chunked":
            body, complete = self._chunks()
        elif "content-length" in headers:
            length = int(headers["content-length"])
            body = self._exactly(length)
            complete = len(body) == length
        else:
            body, complete = self._exactly(1 << 40), True
        return Response(code, headers, body, complete)

    def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while (line := self._until(b"\r\n")) is not None:
            size = int(line, 16)
            data = self._exactly(size + 2)
            if len(data) < size + 2:
                return body + data, False
            assert data.endswith(b"\r\n")
            if not size:
                return body, True
            body += data[:-2]
        return body, False

    def _until(self, end: bytes) -> bytes | None:
        while end not in self.buffer:
            if not self._more():
                return None
        line, self.buffer = self.buffer.split(end, 1)
        return line + end

    def _exactly(self, size: int) -> bytes:
        while len(self.buffer) < size and self._more():
            pass
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def _more(self) -> bool:
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)
