"""Re-exec in place: the master goes on, with pid and children, as the serving release's own Python and graceserve.

Shell; master. The order of things:

1. `consider` sees that the promoted generation's interpreter or graceserve is not this image's (or SIGUSR2 asks).
2. A child of the new interpreter (`check`) is given a dump and all descriptors, and says whether it can load them.
3. `go` blocks all signals, dumps to a memfd, lets the descriptors be inherited and calls execve(2): children, the
   subreaper flag, the signal mask and pending signals survive it, descriptors do if they are not close-on-exec.
4. The new image (`resume`) loads the dump, installs its handlers, unblocks the signals and goes on.
   If it can't, it execs back into the old image, once.

Whoever waits for a reload's verdict gets it when that is over, so that the old release may be removed then.
"""

import fcntl
import json
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import graceserve
from graceserve.master.book import Child, Kind, Running
from graceserve.master.desk import Desk
from graceserve.master.ears import Ears
from graceserve.master.kernel import Spawn, module_argv
from graceserve.master.reloads import Reloads
from graceserve.master.signals import Signals
from graceserve.release import Launch
from graceserve.wire.channel import Channel
from graceserve.wire.messages import ResumeChecked

CHECK_TIMEOUT_S = 30.0
_FDS_SPARE = 32  # for what an interpreter opens while it starts
_PACKAGE = os.path.dirname(os.path.abspath(graceserve.__file__))
_BACK = "GRACESERVE_RESUME_BACK"  # how to exec the old image again; JSON
_WHY_BACK = "GRACESERVE_RESUME_FAILED"  # told to the old image


@dataclass(frozen=True, slots=True)
class Image:
    """A program that the master can be: how to exec it, and what tells it from another."""

    python: str
    flags: tuple[str, ...]
    safe_path: bool
    cwd: str  # where `python -m graceserve` finds the package, if `safe_path` is not set
    identity: tuple[str, ...]  # directory of the interpreter, its version, directory of the package, its version

    def argv(self, *words: str) -> list[str]:
        """The command line that runs graceserve with these words."""
        return module_argv(self.python, self.flags, self.safe_path, "graceserve", *words)

    @classmethod
    def own(cls, launch: Launch) -> "Image":
        """What this process runs. To be called while its files are still there."""
        return cls(
            sys.executable, launch.flags, bool(launch.script), launch.cwd,
            _identity(sys.executable, platform.python_version(), _PACKAGE, graceserve.__version__),
        )  # fmt: skip

    @classmethod
    def of(cls, running: Running, launch: Launch) -> "Image":
        """What a generation's template runs."""
        hello, pin = running.hello, running.pin
        return cls(
            hello.executable, pin.flags, bool(launch.script), pin.cwd,
            _identity(hello.executable, hello.python, hello.package, hello.graceserve),
        )  # fmt: skip


def _identity(executable: str, python: str, package: str, version: str) -> tuple[str, ...]:
    """Names by which an interpreter is called differ (python, python3); its directory does not."""
    return os.path.realpath(os.path.dirname(executable)), python, os.path.realpath(package), version


Snapshot: TypeAlias = tuple[dict[str, Any], list[int]]


class Step(Enum):
    """Where a re-exec is."""

    NONE = "none"
    CHECKING = "checking"


class Reexec:
    """Decides on it, checks it and does it. `snapshot` gives the dump and the descriptors that it names."""

    def __init__(  # the parts of the master that it freezes
        self, desk: Desk, ears: Ears, reloads: Reloads, signals: Signals, snapshot: Callable[[], Snapshot]
    ) -> None:
        self._desk = desk
        self._ears = ears
        self._reloads = reloads
        self._own = Image.own(desk.launch)
        self._signals = signals
        self._snapshot = snapshot
        self._step = Step.NONE
        self._target: Image | None = None
        self._wanted: Image | None = None  # the next one, while another is being checked
        self._check: Child | None = None
        self.deadline: float | None = None

    def consider(self, generation: int) -> None:
        """`generation` serves: become its image if it is another one."""
        running = self._desk.book.running.get(generation)
        if running is None:
            return
        image = Image.of(running, self._desk.launch)
        if image.identity != self._own.identity:
            self._want(image)

    def ask(self) -> None:
        """SIGUSR2: the serving generation's image, also if it is this one."""
        running = self._desk.book.running.get(self._desk.fleet.serving)
        known = running is not None and bool(running.hello.executable)
        self._want(Image.of(running, self._desk.launch) if running is not None and known else self._own)

    def turn(self) -> None:
        """Once a loop, when all events are told: go on with it."""
        if self._wanted is not None and self._step is Step.NONE:
            self._target, self._wanted = self._wanted, None
            self._begin_check(self._target)
        if self._step is not Step.CHECKING or self._target is None:
            return
        if self._desk.fleet.stopping:
            self._give_up("a stop was asked for")
        elif self._ears.checked == "" and self._wanted is not None:
            self._end_check()  # a newer image was asked for meanwhile
        elif self._ears.checked == "":
            self._go(self._target)
        elif self._ears.checked is not None:
            self._give_up(self._ears.checked)
        elif self.deadline is not None and self._desk.kernel.now() >= self.deadline:
            self._give_up(f"the new interpreter did not load the dump within {CHECK_TIMEOUT_S:g} s")

    def _want(self, image: Image) -> None:
        self._wanted = image
        self._reloads.hold = True

    def _begin_check(self, target: Image) -> None:
        self._ears.checked = None
        self._step, self.deadline = Step.CHECKING, self._desk.kernel.now() + CHECK_TIMEOUT_S
        child = Child(Kind.CHECK, 0)
        self._ears.checking = self._check = child
        try:
            self._spawn_check(target, child)
        except OSError as error:
            child.close()
            self._ears.checked = f"no process for the check: {error.strerror}"

    def _spawn_check(self, target: Image, child: Child) -> None:
        """Raises `OSError` when there are no descriptors or processes left."""
        desk = self._desk
        data, fds = self._snapshot()
        dump_fd = _memfd(data)
        try:
            child.output_fd = os.memfd_create("graceserve-check", os.MFD_CLOEXEC)
            say, child.channel = Channel.pair()
            words = ("--resume-check", str(dump_fd), str(say.fileno()))
            inherit = [dump_fd, say.fileno(), *fds]
            order = Spawn(
                target.argv(*words), desk.environ, target.cwd, inherit, say, child.output_fd, die_with_parent=True
            )
            child.pid = desk.kernel.spawn(order)
            say.close()
        finally:
            os.close(dump_fd)
        desk.book.children.append(child)
        self._ears.attach(child)

    def _end_check(self) -> None:
        self._step, self.deadline = Step.NONE, None
        child, self._check = self._check, None
        if self._ears.checked is None and child is not None and child.pid and child in self._desk.book.children:
            self._desk.kernel.kill(child.pid, signal.SIGKILL)  # one that has answered ends by itself

    def _give_up(self, reason: str) -> None:
        self._end_check()
        self._desk.log.error("reexec-failed", reason=reason, stays=self._own.python)
        if self._wanted is None:
            self._reloads.unpark(f"the master stays on {self._own.python}: {reason}")

    def _go(self, target: Image) -> None:
        """Does not return if all goes well. Puts it off for signals that came in this moment: they would be lost."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            if self._signals.pending:
                return
            self._desk.log.info("reexec", python=target.python, graceserve=target.identity[-1])
            reason = self._exec(target)
        except OSError as error:
            reason = f"{error.strerror} ({target.python})"
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._give_up(reason)

    def _exec(self, target: Image) -> str:
        """Why it can't be done. Raises `OSError`, and leaves everything as it was then."""
        data, fds = self._snapshot()
        soft_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if 2 * len(fds) + _FDS_SPARE > soft_limit:
            return f"twice {len(fds)} descriptors are needed, and RLIMIT_NOFILE is {soft_limit}: raise it (ulimit -n)"
        dump_fd = _memfd(data)
        try:
            for fd in [dump_fd, *fds]:
                os.set_inheritable(fd, True)
            back = {"argv": self._own.argv("--resume-fd", str(dump_fd)), "cwd": self._own.cwd}
            env = self._desk.environ | {_BACK: json.dumps(back)}
            os.chdir(target.cwd)
            os.execve(target.python, target.argv("--resume-fd", str(dump_fd)), env)
        finally:
            os.chdir("/")
            for fd in fds:
                os.set_inheritable(fd, False)
            os.close(dump_fd)


def _memfd(data: dict[str, Any]) -> int:
    fd = os.memfd_create("graceserve-master", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(json.dumps(data).encode())
    return fd


def _read(dump_fd: int) -> dict[str, Any]:
    with os.fdopen(os.dup(dump_fd), "rb") as file:
        file.seek(0)
        data = json.load(file)
    assert isinstance(data, dict)
    return data


def check(dump_fd: int, channel_fd: int) -> int:
    """`graceserve --resume-check`: load the dump as `resume` would, say how that went, leave everything as it is."""
    say = Channel.of_fd(channel_fd)
    try:
        from graceserve.master.main import Master  # noqa: PLC0415  # main imports this module

        Master.load(_read(dump_fd))
    except Exception as error:
        say.send(ResumeChecked(f"{type(error).__name__}: {error}"))
    else:
        say.send(ResumeChecked())
    os._exit(0)  # the descriptors are the master's; nothing here may be tidied up


def resume(dump_fd: int) -> int:
    """`graceserve --resume-fd`: be the master from here. Exit status; goes back to the old image if it can't begin."""
    back = os.environ.pop(_BACK, "")
    why_back = os.environ.pop(_WHY_BACK, "")
    spares: dict[int, int] = {}
    try:
        data = _read(dump_fd)
        # Copies, because what a half-done load has wrapped is closed when it is thrown away.
        spares = {fd: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0) for fd in data["fds"]}
        from graceserve.master.main import Master  # noqa: PLC0415  # main imports this module

        master = Master.load(data)
        master.begin(why_back)
    except BaseException as error:
        if not back:
            raise
        _go_back(json.loads(back), dump_fd, spares, f"{type(error).__name__}: {error}")
    for fd in [*spares.values(), dump_fd]:
        os.close(fd)
    return master.run()


def _go_back(back: dict[str, Any], dump_fd: int, spares: dict[int, int], why: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for fd, spare in spares.items():
        os.dup2(spare, fd, inheritable=True)
    os.set_inheritable(dump_fd, True)
    os.chdir(back["cwd"])
    os.execve(back["argv"][0], back["argv"], os.environ | {_WHY_BACK: why})
