"""The servers that the benchmarks compare: how each is found, started, pinned and measured. Shell.

graceserve is the one of the interpreter that runs the benchmark. The others are looked for in `--peers-venv DIR`, or
else beside that interpreter and on PATH; what is not there is skipped, and said so:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install bjoern fastwsgi granian gunicorn uwsgi waitress flask django
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.process import web
from tests.process.procs import Nursery, become_subreaper, descendants, fd_count, kill, pss_bytes
from tests.process.stock import environ
from tests.process.waiting import eventually

APPS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "apps")
HOST = "127.0.0.1"
LOG_LINES = 12
OTHERS_MOST = 0.1  # of a core
SETTINGS = ("GRACESERVE_", "GRANIAN_", "GUNICORN_", "UWSGI_")  # variables that would change what is measured
CLOSES = "Connection: close"
SCHED_CLOCK = 2  # CPUCLOCK_SCHED, include/linux/posix-timers_types.h: nanoseconds, of all threads that were or are


@dataclass(frozen=True, slots=True)
class Plan:
    """A server as a benchmark runs it: its program, and the words of the command line after address and app."""

    name: str
    program: str
    words: tuple[str, ...] = ()


def _bjoern(program: str, app: str, port: int) -> list[str]:
    return [program, os.path.join(APPS, "run_bjoern.py"), app, HOST, str(port)]


def _fastwsgi(program: str, app: str, port: int) -> list[str]:
    return [program, app, "--host", HOST, "--port", str(port)]


def _graceserve(program: str, app: str, port: int) -> list[str]:
    return [program, app, "--bind", f"{HOST}:{port}"]


def _granian(program: str, app: str, port: int) -> list[str]:
    return [program, app, "--host", HOST, "--port", str(port), "--interface", "wsgi", "--no-ws"]


def _gunicorn(program: str, app: str, port: int) -> list[str]:
    return [program, app, "--bind", f"{HOST}:{port}"]


def _uwsgi(program: str, app: str, port: int) -> list[str]:
    home = os.path.dirname(os.path.dirname(program))
    venv = ["--home", home] if os.path.exists(os.path.join(home, "pyvenv.cfg")) else []
    # Its plain --http-socket closes after each response; --http11-socket is the one without a proxy process that does
    # not. A thread of it serves one connection until that is closed.
    address = ["--http11-socket", f"{HOST}:{port}"]
    return [program, *address, *venv, "--module", app, "--disable-logging", "--die-on-term"]


def _uwsgi_closing(program: str, app: str, port: int) -> list[str]:
    """It does not say by itself that it closes."""
    words = _uwsgi(program, app, port)
    return ["--http-socket" if word == "--http11-socket" else word for word in words] + ["--add-header", CLOSES]


def _waitress(program: str, app: str, port: int) -> list[str]:
    return [program, os.path.join(APPS, "run_waitress.py"), app, HOST, str(port)]


COMMANDS: dict[str, tuple[str, Callable[[str, str, int], list[str]]]] = {  # the program's file name, its command line
    "bjoern": ("python", _bjoern),
    "fastwsgi": ("fastwsgi", _fastwsgi),
    "graceserve": ("graceserve", _graceserve),
    "granian": ("granian", _granian),
    "gunicorn": ("gunicorn", _gunicorn),
    "uwsgi": ("uwsgi", _uwsgi),
    "uwsgi-closing": ("uwsgi", _uwsgi_closing),
    "waitress": ("python", _waitress),
}


class Failed(Exception):
    """A server did not start, or answered wrongly. `log` is the end of what it wrote."""

    def __init__(self, reason: str, log: str) -> None:
        super().__init__(reason)
        self.log = "\n".join(log.rstrip().splitlines()[-LOG_LINES:])


class Running:
    """A server that answers. All its processes are on the cores it was given."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log_path: str) -> None:
        self.process = process
        self.port = port
        self.log_path = log_path

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> str:
        """What it wrote so far."""
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def pids(self) -> list[int]:
        """The first process and all below it."""
        return sorted([self.process.pid, *(proc.pid for proc in descendants(self.process.pid) if proc.alive)])

    def wait_ready(self, timeout_s: float = 30.0) -> "Running":
        """Until it answers `/` with 200."""

        def ready() -> bool:
            if self.process.poll() is not None:
                raise Failed(f"it exited with {self.process.returncode}", self.log)
            return web.get(self.address, "/", 5.0).status == 200

        try:
            eventually(ready, timeout_s, "an answer of the server")
        except AssertionError as error:
            raise Failed(str(error), self.log) from error
        return self

    def cpu_s(self) -> float:
        """CPU seconds of all its processes so far."""
        return sum(time.clock_gettime((~pid << 3) | SCHED_CLOCK) for pid in self.pids())

    def rss_bytes(self) -> int:
        """Resident, summed over its processes."""
        return sum(_status_bytes(pid, "VmRSS") for pid in self.pids())

    def pss_bytes(self) -> int:
        """Shared pages counted once."""
        return sum(map(pss_bytes, self.pids()))

    def forget_peak(self) -> None:
        """`peak_rss_bytes` counts from here (proc(5), clear_refs)."""
        for pid in self.pids():
            with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
                file.write("5")

    def peak_rss_bytes(self) -> int:
        """The most that each process had resident since `forget_peak`, summed; no sampling, the kernel keeps it."""
        return sum(_status_bytes(pid, "VmHWM") for pid in self.pids())

    def fd_count(self) -> int:
        """Open descriptors of all its processes."""
        return sum(map(fd_count, self.pids()))

    def wait_fds(self, count: int, timeout_s: float, fewer: bool = False) -> int:
        """Until it has at least so many descriptors, or at most. How many it has when they came or the time was up."""
        seen = [0]

        def look() -> bool:
            seen[0] = self.fd_count()
            return seen[0] <= count if fewer else seen[0] >= count

        with contextlib.suppress(AssertionError):
            eventually(look, timeout_s)
        return seen[0]

    def stop(self) -> None:
        """TERM, and KILL after 10 seconds: some peers wait for idle connections."""
        pids = self.pids()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            for pid in pids:
                kill(pid)
            self.process.wait(10)


def _status_bytes(pid: int, name: str) -> int:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next((int(line.split()[1]) * 1024 for line in file if line.startswith(name + ":")), 0)


@dataclass(frozen=True, slots=True)
class Arena:
    """Where servers run: a temporary directory, a nursery for all processes, and the cores of server and load."""

    room: str
    nursery: Nursery
    peers_venv: str
    server_core: int
    load_core: int
    programs: dict[str, str | None] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)  # by server: why it could not be measured

    def find(self, name: str) -> str | None:
        """The path of that server's program, None where it is not installed."""
        if name not in self.programs:
            self.programs[name] = self._look_for(name)
        return self.programs[name]

    def _look_for(self, name: str) -> str | None:
        file_name = COMMANDS[name][0]
        own = os.path.dirname(sys.executable)
        if name == "graceserve":
            return shutil.which(file_name, path=own)
        path = os.path.join(self.peers_venv, "bin") if self.peers_venv else f"{own}:{os.environ.get('PATH', '')}"
        found = shutil.which(file_name, path=path)
        return None if found and file_name == "python" and not self._version(found, name) else found

    @staticmethod
    def _version(program: str, name: str) -> str:
        """Of the package beside the program, empty if it is not there."""
        argv = [
            os.path.join(os.path.dirname(program), "python"), "-c",
            f"import importlib.metadata as metadata; print(metadata.version({name!r}))",
        ]  # fmt: skip
        return subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, text=True
        ).stdout.strip()

    def version(self, name: str) -> str:
        """Of an installed server, as "granian 2.8.7"."""
        found = self.find(name)
        assert found, name
        package = name.partition("-")[0]
        return f"{package} {self._version(found, package) or '(version unknown)'}"

    def command(self, plan: Plan, app: str, port: int) -> list[str]:
        """The command line of an installed server."""
        program = self.find(plan.program)
        assert program, plan
        return [*COMMANDS[plan.program][1](program, app, port), *plan.words]

    @contextlib.contextmanager
    def serve(self, plan: Plan, app: str, env: Mapping[str, str] | None = None) -> Iterator[Running]:
        """The server, ready, until the end of the block. It is installed, `installed` said so."""
        port = web.free_port()
        log_path = os.path.join(self.room, f"{port}.log")
        process = self._start(plan, app, port, log_path, env or {})
        server = Running(process, port, log_path)
        try:
            yield server.wait_ready()
        finally:
            server.stop()

    def start_again(self, server: Running, plan: Plan, app: str, env: Mapping[str, str] | None = None) -> None:
        """On the same port. The one of before has ended; nobody waits for the new one."""
        server.process = self._start(plan, app, server.port, server.log_path, env or {})

    def _start(
        self, plan: Plan, app: str, port: int, log_path: str, env: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        argv = ["taskset", "-c", str(self.server_core), *self.command(plan, app, port)]
        clean = {name: value for name, value in environ().items() if not name.startswith(SETTINGS)}
        with open(log_path, "ab") as log:
            return self.nursery.start(
                argv, cwd=APPS, env={**clean, "PYTHONPATH": APPS, **env}, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    def broke(self, plan: Plan, error: Exception) -> None:
        """Note and tell that this server could not be measured; the others are."""
        self.broken[plan.name] = str(error)
        print(f"{plan.name}: {error}\n{getattr(error, 'log', '')}")

    def announce(self, plan: Plan) -> None:
        """Its version and what it was told."""
        print(f"{plan.name}: {self.version(plan.program)} {' '.join(plan.words)}")

    def installed(self, plans: Iterable[Plan], only: Collection[str] = ()) -> list[Plan]:
        """Those of them that are asked for and can run; says which are skipped."""
        wanted = [plan for plan in plans if not only or plan.name in only or plan.program in only]
        for plan in wanted:
            if self.find(plan.program) is None:
                print(f"{plan.name}: not installed: skipped")
        return [plan for plan in wanted if self.find(plan.program) is not None]

    def chosen(self, plans: Iterable[Plan], options: argparse.Namespace) -> list[Plan]:
        """`installed`, as the options say, and all of them announced."""
        found = self.installed(plans, names(options))
        for plan in found:
            self.announce(plan)
        return found


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """With the options that all comparing benchmarks have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-venv", metavar="DIR", default="", help="a venv with the other servers")
    parser.add_argument("--only", metavar="NAMES", default="", help="comma-separated names of servers or programs")
    parser.add_argument("--json", metavar="FILE", default="", help="write the rows there, too")
    parser.add_argument("--server-core", type=int, default=0)
    parser.add_argument("--load-core", type=int, default=1, help="where this script and its load run")
    return parser


def names(options: argparse.Namespace) -> set[str]:
    """What `--only` names."""
    return {name.strip() for name in options.only.split(",") if name.strip()}


@contextlib.contextmanager
def arena(options: argparse.Namespace) -> Iterator[Arena]:
    """Set it up, and leave nothing behind. This process moves to the load's core."""
    become_subreaper()
    os.sched_setaffinity(0, {options.load_core})
    room = tempfile.mkdtemp(prefix="gs-bench-")
    nursery = Nursery()
    try:
        yield Arena(room, nursery, os.path.abspath(options.peers_venv) if options.peers_venv else "",
                    options.server_core, options.load_core)  # fmt: skip
    finally:
        left = nursery.close(2.0)
        shutil.rmtree(room)
        if left:
            print(f"had to kill {len(left)} processes at the end: {left}")


def raise_fd_limit(count: int) -> None:
    """So many open files for this process and all that it starts. Above the hard limit only root may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, max(hard, count)))
        except ValueError:
            raise SystemExit(
                f"needs {count} open files and may have {hard}: raise it with ulimit -Hn, as root"
            ) from None


@dataclass(frozen=True, slots=True)
class Used:
    """Between two readings of a meter. `others` is what neither the server nor this script used, in cores."""

    wall_s: float
    cpu_s: float
    others: float


@dataclass(frozen=True, slots=True)
class _Reading:
    at: float
    server_cpu_s: float
    outside_s: float  # of all processes but this one and its finished children

    @classmethod
    def of(cls, server: Running) -> "_Reading":
        return cls(time.monotonic(), server.cpu_s(), _machine_cpu_s() - sum(os.times()[:4]))


class Meter:
    """What a server uses from here on, and how quiet the machine is meanwhile."""

    def __init__(self, server: Running) -> None:
        self._server = server
        self._began = _Reading.of(server)

    def read(self) -> Used:
        """Since the meter was made. Processes of the load are finished, or their CPU counts as that of others."""
        now = _Reading.of(self._server)
        wall_s, cpu_s = now.at - self._began.at, now.server_cpu_s - self._began.server_cpu_s
        outside_s = now.outside_s - self._began.outside_s
        return Used(wall_s, cpu_s, max(outside_s - cpu_s, 0.0) / wall_s)


def tell_quiet(others: Iterable[float]) -> None:
    """How quiet the machine was: `Used.others` of all measurements."""
    shares = sorted(others) or [0.0]
    note = "; NOT QUIET, do not believe these numbers" if shares[len(shares) // 2] > OTHERS_MOST else ""
    print(f"other processes used {shares[len(shares) // 2]:.0%} of a core (median), {shares[-1]:.0%} (most){note}")


def _machine_cpu_s() -> float:
    """CPU seconds that all cores have worked, and what a hypervisor took away (in steps of 10 ms)."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def progress(text: str) -> None:
    """One line that is written over, for who watches a terminal."""
    if sys.stderr.isatty():
        print(f"\r{text:79}", end="" if text else "\r", file=sys.stderr, flush=True)


def print_table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as they must be, the first one to the left and the others to the right."""
    lines = [heads, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:]]).rstrip())


def write_json(path: str, rows: object) -> None:
    """For other programs, if a file is asked for."""
    if path:
        with open(path, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)
            file.write("\n")
