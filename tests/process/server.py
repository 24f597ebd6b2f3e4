"""A real graceserve under test: started as an operator starts it, asked over its control socket. Shell; runs in pytest.

Ready means that the master says so (its status names a serving generation with all its workers), not that time passed.
"""

import os
import select
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from graceserve.wire.channel import Channel
from graceserve.wire.control_name import abstract_name
from graceserve.wire.messages import AskStatus, Message, Status
from tests.process import web
from tests.process.procs import Nursery, Proc, descendants, fd_count
from tests.process.stock import REPOSITORY, environ
from tests.process.waiting import eventually

CLIENT_TIMEOUT_S = 60.0
OPTIONS = ("--workers", "2", "--graceful-timeout", "15")


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.out + self.err


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server. `argv` in full, the program first; `pwd` is the PWD variable, none if empty."""

    argv: tuple[str, ...]
    cwd: str
    pwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    address: str = ""  # where it will answer
    pass_fds: tuple[int, ...] = ()
    stdin: int = subprocess.DEVNULL


class Server:
    """A running master and all below it."""

    def __init__(self, nursery: Nursery, launch: Launch, log_path: str) -> None:
        self.nursery = nursery
        self.launch = launch
        self.address = launch.address
        self.log_path = log_path
        self._connections: list[web.Connection] = []
        env = {**environ(), **launch.env}
        if launch.pwd:
            env["PWD"] = launch.pwd
        with open(log_path, "ab") as log:
            self.process = nursery.start(
                list(launch.argv), cwd=launch.cwd, env=env, stdin=launch.stdin, stdout=log, stderr=log,
                start_new_session=True, pass_fds=launch.pass_fds,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    @property
    def log(self) -> str:
        """What it wrote to stderr so far."""
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    # --- asking it ---------------------------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """As `graceserve status --json`, over the control socket, without a process for it."""
        answer = ask(self.pid, AskStatus())
        assert isinstance(answer, Status), answer
        return dict(answer.status)

    def generations(self) -> list[dict[str, Any]]:
        """The living ones, oldest first."""
        return sorted(self.status()["generations"], key=lambda one: int(one["generation"]))

    def serving(self) -> dict[str, Any]:
        """The generation that serves. `AssertionError` while there is none."""
        found = [one for one in self.generations() if one["phase"] == "serving"]
        assert len(found) == 1, f"{len(found)} serving generations"
        return found[0]

    def candidate(self) -> dict[str, Any]:
        """The generation that is not promoted yet. `AssertionError` while there is none."""
        found = [one for one in self.generations() if one["phase"] not in ("serving", "retiring")]
        assert len(found) == 1, f"{len(found)} candidates"
        return found[0]

    def worker_pids(self) -> list[int]:
        """Of the serving generation, by slot."""
        workers = sorted(self.serving()["workers"], key=lambda worker: int(worker["slot"]))
        return [int(worker["pid"]) for worker in workers]

    def template_pid(self) -> int:
        """Of the serving generation."""
        return int(self.serving()["template_pid"])

    def processes(self) -> list[Proc]:
        """All living ones below the master, but for the keepers."""
        return [proc for proc in descendants(self.pid) if proc.alive and not _is_keeper(proc)]

    def keepers(self) -> list[Proc]:
        """The workers' keepers: one beside each of them."""
        return [proc for proc in descendants(self.pid) if proc.alive and _is_keeper(proc)]

    def get(self, path: str = "/version") -> web.Response:
        """One request on a connection of its own."""
        return web.get(self.address, path)

    def dial(self) -> web.Connection:
        """A keep-alive connection, made by its first request; closed at the end of the test."""
        self._connections.append(web.Connection(self.address))
        return self._connections[-1]

    def hang_up(self) -> None:
        """Close all that `dial` gave."""
        for connection in self._connections:
            connection.close()

    def version(self) -> dict[str, Any]:
        """What the test app says of itself."""
        found: dict[str, Any] = self.get("/version").json
        return found

    # --- waiting for it ----------------------------------------------------------------------------------------

    def wait_ready(self, timeout_s: float = 20.0) -> "Server":
        """Until a generation serves, and all is at rest."""
        self.wait_whole(0, timeout_s)
        return self

    def wait_whole(
        self, generation: int = 0, timeout_s: float = 20.0, without: Collection[int] = ()
    ) -> dict[str, Any]:
        """Until exactly one generation lives, serves with all wanted workers, and is at least `generation`.

        `without`: pids that are dead, which the master has to have noticed.
        """

        def whole() -> dict[str, Any]:
            self._must_live()
            status = self.status()
            assert len(status["generations"]) == 1, status
            only: dict[str, Any] = status["generations"][0]
            accepting = [worker for worker in only["workers"] if worker["phase"] in ACCEPTING]
            assert only["phase"] == "serving" and int(only["generation"]) >= generation, status
            assert len(accepting) == len(only["workers"]) == status["workers_wanted"] and only["template_pid"], status
            assert not {only["template_pid"], *(worker["pid"] for worker in only["workers"])} & set(without), status
            return only

        return eventually(whole, timeout_s, "one whole generation")

    def _must_live(self) -> None:
        """Not an `AssertionError`, which `eventually` would take for "not yet"."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the master exited with {self.process.returncode}: {self.log[-3000:]}")

    def wait_exit(self, timeout_s: float = 20.0) -> int:
        """Until the master is gone; its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the master did not end within {timeout_s} s: {self.log[-3000:]}") from None

    def wait_log(self, text: str, timeout_s: float = 15.0) -> str:
        """Until the log has `text` in it; the log."""
        eventually(lambda: text in self.log, timeout_s, f"{text!r} in the log")
        return self.log

    # --- telling it --------------------------------------------------------------------------------------------

    def send(self, number: signal.Signals) -> None:
        """To the master only."""
        os.kill(self.pid, number)

    def send_group(self, number: signal.Signals) -> None:
        """To the whole process group, as a terminal or `dumb-init` does."""
        os.killpg(self.pid, number)

    def begin(self, *argv: str) -> "subprocess.Popen[bytes]":
        """Start a graceserve command about this server in the background."""
        return self.nursery.start(
            [sys.executable, "-m", "graceserve", *argv, "--pid", str(self.pid)], cwd=REPOSITORY, env=environ(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def command(self, *argv: str) -> Finished:
        """A graceserve command about this server, to its end."""
        return finish(self.begin(*argv))

    def reload(self) -> Finished:
        """`graceserve reload`."""
        return self.command("reload")

    def reload_ok(self) -> Finished:
        """A reload that must switch, and is over: no older generation is left."""
        before = int(self.serving()["generation"])
        done = self.reload()
        assert done.code == 0, f"{done}\n{self.log[-3000:]}"
        self.wait_whole(before + 1)
        return done

    def stop(self) -> None:
        """TERM, and all must be well with it."""
        self.send(signal.SIGTERM)
        code = self.wait_exit()
        assert code == 0, f"exit {code}: {self.log[-3000:]}"


def _is_keeper(proc: Proc) -> bool:
    return proc.title.startswith("graceserve: keeper ")


ACCEPTING = ("accepting",)  # worker phases in the status


def finish(process: "subprocess.Popen[bytes]", timeout_s: float = CLIENT_TIMEOUT_S) -> Finished:
    """Wait for a command; a hung one is killed and is a failure."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"{shlex.join(map(str, process.args))} hung; it said {out!r} {err!r}") from None  # type: ignore[arg-type]
    return Finished(process.returncode, out.decode(), err.decode())


def ask(pid: int, message: Message, timeout_s: float = 5.0) -> Message:
    """One question to a master's control socket. Raises `OSError` if it can't be reached or hangs up."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with sock:
        sock.connect(abstract_name(pid))
        channel = Channel(sock)
        if not channel.send(message):
            raise ConnectionResetError("the master did not take the question")
        ready = select.select([sock], [], [], timeout_s)[0]
        if not ready:
            raise TimeoutError(f"no answer from the master {pid} within {timeout_s} s")
        answer = channel.receive()
        if answer is None:
            raise ConnectionResetError("the master hung up")
        return answer[0]


def counted(server: Server) -> int:
    """Descriptors of the master at rest (a control connection that has ended may take a turn to go)."""
    seen = [-1, -1, -1]

    def steady() -> bool:
        seen.append(fd_count(server.pid))
        return len(set(seen[-3:])) == 1

    eventually(steady, what="a steady number of descriptors")
    return seen[-1]


def script_launch(current: str, address: str, *options: str, app: str = "app:application", **env: str) -> Launch:
    """As most will start it: the console script through the link, in the directory behind the link."""
    argv = (os.path.join(current, "venv/bin/graceserve"), app, "--bind", address, *OPTIONS, *options)
    return Launch(argv, cwd=current, pwd=current, env=env, address=address)

