"""Scripted clients on real workers whose connections move at random moments. Shell; runs in pytest, or as a program:

    python -m tests.http.scripts --seeds 100 [--first 0] [--only hand-over|queue|reload|surge] [--threads 3]

What is claimed: each byte that a client hears is what its session predicts, and no connection is closed but by its
session. The app runs once for each request that was answered, at most once for one whose client vanished behind its
last byte, and never for one that was not sent in full. The seed decides what is said, and when; what the machine makes
of it differs from run to run.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from graceserve.wire.messages import Accept, WorkerReady
from tests.http.harness import REPOSITORY, Stage, Worker, passed, stage
from tests.http.players import Address, Clients
from tests.http.sessions import Taste
from tests.process.kept import reload
from tests.process.procs import Nursery, become_subreaper
from tests.process.server import Launch, Server
from tests.process.web import free_address

COMPLAINTS = ("ERROR", "WARNING", "worker-bug", "Traceback")

QUICK = Taste("quick", 0.0, (0.0, 0.0), 0.4, 0.003, 6, (0.0, 0.0, 0.0, 0.001, 0.003))
SLOW = Taste("slow", 0.2, (0.01, 0.03), 0.4, 0.01, 6, (0.0, 0.0, 0.001, 0.005, 0.02))
LARGE = Taste("large", 0.05, (0.001, 0.01), 0.7, 0.15, 3, (0.0, 0.0, 0.001, 0.01))
DEEP = Taste("deep", 0.02, (0.002, 0.006), 0.2, 0.0, 6, (0.0, 0.0, 0.0, 0.0, 0.002))
TASTES = (QUICK, SLOW, LARGE, DEEP)


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tried with a seed."""

    seed: int
    how: str  # hand-over: one worker behind the other; queue, reload, surge: a server with three
    threads: int
    kind: str  # tcp, unix
    parser: str
    taste: Taste
    clients: int = 16
    turns: int = 5
    seconds: float = 3.0  # if there are no turns
    forgiven: str = ""  # in a log line that is no complaint then: a fault that is known

    @classmethod
    def of(cls, seed: int, only: str = "", forgiven: str = "") -> "Trial":
        """A random one."""
        random = Random(f"trial {seed}")
        return cls(
            seed=seed,
            how=only or random.choice(("hand-over", "queue", "reload", "surge")),
            threads=random.choice((1, 1, 3)),
            kind=random.choice(("tcp", "tcp", "unix")),
            parser=random.choice(("httptools", "httptools", "h11")),
            taste=random.choice(TASTES),
            clients=random.choice((4, 12, 24)),
            forgiven=forgiven,
        )

    @property
    def short(self) -> str:
        """The most of it."""
        return f"{self.how} threads={self.threads} {self.kind} {self.parser} {self.taste.name} clients={self.clients}"

    def run(self) -> Clients:
        """Raises `AssertionError` with the seed."""
        try:
            with tempfile.TemporaryDirectory(prefix="gs-scripts-") as room:
                return self._on_stage(room) if self.how == "hand-over" else self._on_server(room)
        except Exception as error:
            raise AssertionError(f"{self}: {error}") from error

    def _clients(self, address: Address, room: str) -> Clients:
        record = f"{room}/record"
        Path(record).touch()
        return Clients(address, record, self.seed, self.clients, self.taste)

    # --- workers, one generation behind the other

    def _on_stage(self, room: str) -> Clients:
        random = Random(f"moments {self.seed}")
        with stage(f"{room}/s" if self.kind == "unix" else "") as at, ExitStack() as workers:
            serving = self._worker(at, workers, 0).accept()
            old: list[Worker] = []
            with self._clients(at.listener.getsockname(), room) as clients:
                for turn in range(self.turns):
                    new = self._worker(at, workers, 1 - turn % 2)
                    new.expect(WorkerReady)
                    passed(random.uniform(0, 0.3))
                    _switch(serving, new, random)
                    old.append(serving)
                    serving = new
                    if clients.over.is_set():
                        break
                passed(random.uniform(0, 0.2))
            for worker in old:
                worker.left()
                self._ended_well(worker)
            serving.drain(stop=True)
            self._ended_well(serving)
            clients.check_record()
            return clients

    def _worker(self, at: Stage, workers: ExitStack, side: int) -> Worker:
        return workers.enter_context(at.worker(side=side, threads=self.threads, http=self.parser))

    # --- a whole server

    def _on_server(self, room: str) -> Clients:
        random = Random(f"moments {self.seed}")
        address = f"unix:{room}/s" if self.kind == "unix" else free_address()
        options = ["--threads", str(self.threads), "--http", self.parser]
        options += ["--reload-surge", "1"] if self.how == "surge" else []
        with _server(address, room, *options) as server:
            host, _, port = address.partition(":")
            with self._clients(port if host == "unix" else (host, int(port)), room) as clients:
                self._disturb(server, clients, random)
            server.stop()
            clients.check_record()
            self._no_complaints(server.log)
            return clients

    def _disturb(self, server: Server, clients: Clients, random: Random) -> None:
        """By reloads at random moments, or not at all: then only long calls make connections move."""
        if self.how == "queue":
            clients.over.wait(self.seconds)
            return
        for _ in range(self.turns):
            if clients.over.wait(random.uniform(0, 0.3)):
                return
            reload(server)

    # --- both

    def _ended_well(self, worker: Worker) -> None:
        code = worker.ended()
        log = worker.log()
        assert code == 0, f"exit {code}: {log}"
        self._no_complaints(log)

    def _no_complaints(self, log: str) -> None:
        for line in log.splitlines():
            if any(word in line for word in COMPLAINTS) and not (self.forgiven and self.forgiven in line):
                raise AssertionError(line)


def _switch(old: Worker, new: Worker, random: Random) -> None:
    """Between the two moments nobody accepts, or both do."""
    if random.random() < 0.5:
        old.drain()
        passed(random.choice((0, 0, random.uniform(0, 0.05))))
        new.tell(Accept())
    else:
        new.tell(Accept())
        passed(random.choice((0, 0, random.uniform(0, 0.05))))
        old.drain()


@contextmanager
def _server(address: str, room: str, *options: str) -> Iterator[Server]:
    """From this repository, with three workers; stopped by the test, if all goes well."""
    argv = (sys.executable, "-m", "graceserve", "tests.http.apps:app", "--bind", address, "--workers", "3")
    become_subreaper()
    nursery = Nursery()
    server = Server(nursery, Launch((*argv, *options), str(REPOSITORY), address=address), f"{room}/log")
    try:
        yield server.wait_ready()
        server.wait_exit()
    except BaseException:
        sys.stderr.write(server.log)
        server.process.kill()
        raise
    finally:
        left = nursery.close()
        assert not left, f"processes were left behind: {left}"


def main() -> None:
    """Try many seeds; the first failure ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--forgive", default="", help="a known fault: what a log line may have in it")
    told = parser.parse_args()
    for seed in range(told.first, told.first + told.seeds):
        trial = Trial.of(seed, told.only, told.forgive)
        trial = replace(trial, threads=told.threads or trial.threads)
        began = time.monotonic()
        seen = trial.run()
        print(f"{time.monotonic() - began:5.1f} s, seed {seed} {trial.short}: {seen}", flush=True)


if __name__ == "__main__":
    main()
