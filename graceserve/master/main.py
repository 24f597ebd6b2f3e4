"""The master: one loop that hears, decides and acts, and never waits for anything else. Shell.

A turn of the loop: what children and clients say becomes events; the fleet (`graceserve.fleet`) turns events into
orders; `perform` carries them out. No thread, no asyncio, no wait but the one in `Poller`.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from setproctitle import setproctitle

import graceserve
from graceserve.config import Settings
from graceserve.errors import OperatorError
from graceserve.fleet.events import StopAsked, Tick, WorkersChanged
from graceserve.fleet.machine import Fleet
from graceserve.logs import Log
from graceserve.master import status as status_page
from graceserve.master.book import Book
from graceserve.master.control import Control, Door, Orders
from graceserve.master.desk import Desk
from graceserve.master.ears import Ears
from graceserve.master.kernel import Kernel
from graceserve.master.listeners import Listeners
from graceserve.master.notify import Notify
from graceserve.master.perform import Perform
from graceserve.master.pidfile import PidFile
from graceserve.master.privileges import drop, look_up
from graceserve.master.reexec import Reexec, Snapshot
from graceserve.master.reloads import Reloads
from graceserve.master.signals import OBEYED, Signals
from graceserve.priority import step_back
from graceserve.release import Launch, Pin
from graceserve.wire.channel import Channel, Inbox
from graceserve.wire.messages import Reopen

STOP_ECHO_S = 0.1  # timeout(1) signals the process and then its group: one TERM, not an impatient second
_BUGS_IN_A_ROW_MAX = 100  # turns that raised: the master goes on, but does not spin on a bug for ever


def serve(launch: Launch, settings: Settings, pin: Pin, environ: dict[str, str]) -> int:
    """Be a new master until it is stopped; its exit status. Raises `OperatorError` before anything is started."""
    signal.pthread_sigmask(signal.SIG_BLOCK, OBEYED)  # a TERM from here on waits for its handler, and is obeyed
    ids = look_up(settings.user, settings.group)
    desk = _desk(launch, environ, settings)
    if desk.log.problem:
        raise OperatorError(f"--log-file {settings.error_logfile}: {desk.log.problem}; choose a writable file")
    pidfile = PidFile.take(settings.pid) if settings.pid else None
    desk.started = desk.kernel.now()
    reloads = Reloads(desk)
    try:
        desk.adopted = desk.listeners.adopt(environ, os.getpid())
        reloads.begin(settings, pin)
        door = Door.open(settings.control_socket, os.getpid(), ids)
        if ids is not None:
            desk.log.chown(*ids)
            drop(*ids)
    except BaseException:
        desk.listeners.keep(())
        if pidfile is not None:
            pidfile.remove()
        raise
    desk.listeners.sealed = True
    master = Master(desk, reloads, pidfile)
    master.control = Control(desk, reloads, master.orders, door)
    for listener in desk.listeners.all():
        desk.log.info("listening", addr=listener.address)
    master.begin()
    return master.run()


def _desk(launch: Launch, environ: dict[str, str], settings: Settings) -> Desk:
    log = Log(json=settings.log_json, level=settings.log_level, path=settings.error_logfile)
    return Desk(launch, environ, settings, log, Kernel(), Notify(environ))


class Master:
    """The parts, and the loop that drives them."""

    control: Control

    def __init__(self, desk: Desk, reloads: Reloads, pidfile: PidFile | None) -> None:
        self._desk = desk
        self._reloads = reloads
        self._pidfile = pidfile
        self._signals = Signals()
        self._ears = Ears(desk, reloads)
        self._perform = Perform(desk, self._ears, reloads)
        self._reexec = Reexec(desk, self._ears, reloads, self._signals, self._snapshot)
        self._watchdog_due = desk.kernel.now()
        self._bugs = 0
        self._stop_asked: float | None = None
        self.orders = Orders(
            status=lambda asked: status_page.status(desk, reloads, asked), stop=self._stop, reopen=self._reopen
        )

    def begin(self, why_back: str = "") -> None:
        """Take the process over: title, directory, signals, descriptors. `why_back`: a re-exec that did not work."""
        desk = self._desk
        name = f" [{desk.settings.name}]" if desk.settings.name else ""
        setproctitle(f"graceserve: master{name}")
        step_back()  # and so does, to begin with, whatever it starts
        os.chdir("/")  # the release that it was started from may be removed
        if not desk.kernel.become_subreaper() and os.getpid() != 1:
            desk.log.warning("no-subreaper", text="prctl(2) refused; workers of a dead template will be lost")
        desk.poller.register(self._signals, lambda: None)  # waking up is all; `turn` takes them
        for child in desk.book.children:
            self._ears.attach(child)
        self.control.attach()
        self._signals.install()
        desk.log.info("master", pid=os.getpid(), version=graceserve.__version__, python=sys.executable)
        if why_back:
            desk.log.error("reexec-failed", reason=why_back)
        self._reloads.unpark(f"the master stays on {sys.executable}: {why_back}" if why_back else "")
        self._ears.reap()  # who died while there were no handlers

    def run(self) -> int:
        """Until no child is left; the exit status."""
        while self._desk.exit_code is None:
            try:
                self.turn()
                self._bugs = 0
            except Exception:
                self._bugs += 1
                self._desk.log.error("bug", detail=traceback.format_exc(), pid=os.getpid())
                if self._bugs > _BUGS_IN_A_ROW_MAX:
                    raise
        return self._end(self._desk.exit_code)

    def turn(self) -> None:
        """Hear, decide, act; once."""
        for call in self._desk.poller.wait(self._timeout_s()):
            call()
        for number in self._signals.take():
            self._signal(number)
        self._advance()
        self.control.turn()
        if self._perform.promoted:
            generation, self._perform.promoted = self._perform.promoted, 0
            self._reexec.consider(generation)
        self._reexec.turn()
        self._perform.send_unsent()

    def _advance(self) -> None:
        desk = self._desk
        wake = desk.fleet.wake_at()
        if wake is not None and wake <= desk.kernel.now():
            desk.tell(Tick())
        while desk.events:
            for action in desk.fleet.step(desk.events.pop(0), desk.kernel.now()):
                try:
                    self._perform(action)
                except Exception:  # a bug must not take the orders behind it along
                    desk.log.error("bug", detail=traceback.format_exc(), action=type(action).__name__)
        watchdog_s = desk.notify.watchdog_s
        if watchdog_s is not None and desk.kernel.now() >= self._watchdog_due:
            self._watchdog_due = desk.kernel.now() + watchdog_s
            desk.notify.watchdog()

    def _timeout_s(self) -> float | None:
        desk = self._desk
        if desk.events:
            return 0.0
        due = [desk.fleet.wake_at(), self._reexec.deadline, self.control.deadline]
        if desk.notify.watchdog_s is not None:
            due.append(self._watchdog_due)
        times = [time for time in due if time is not None]
        return min(times) - desk.kernel.now() if times else None

    def _signal(self, number: int) -> None:
        calls: Mapping[int, Callable[[], None]] = {
            signal.SIGTERM: lambda: self._stop(False),
            signal.SIGINT: lambda: self._stop(True),
            signal.SIGQUIT: lambda: self._stop(True),
            signal.SIGCHLD: self._ears.reap,
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: self._reopen,
            signal.SIGUSR2: self._reexec.ask,
            signal.SIGTTIN: lambda: self._desk.tell(WorkersChanged(1)),
            signal.SIGTTOU: lambda: self._desk.tell(WorkersChanged(-1)),
        }
        calls[number]()

    def _reload(self) -> None:
        self._desk.log.info("reload", by="SIGHUP")
        self._reloads.ask(None)

    def _stop(self, quick: bool) -> None:
        desk, now = self._desk, self._desk.kernel.now()
        if self._stop_asked is not None and not quick and now - self._stop_asked < STOP_ECHO_S:
            return
        self._stop_asked = now
        if not desk.fleet.stopping:
            desk.log.info("stopping", quick=quick)
            desk.notify.stopping()
            desk.listeners.keep(())  # workers empty the accept queue and close theirs: then nobody listens
        desk.tell(StopAsked(quick))

    def _reopen(self) -> None:
        desk = self._desk
        desk.log.reopen()
        for child in desk.book.children:
            if child.channel is not None:
                child.channel.send(Reopen())
        if desk.log.problem:
            desk.log.error("reopen-failed", path=desk.settings.error_logfile, reason=desk.log.problem)
        else:
            desk.log.info("reopened")

    def _end(self, code: int) -> int:
        self._desk.log.info("stopped", code=code)
        self._desk.listeners.keep(())
        if self._pidfile is not None:
            self._pidfile.remove()
        self.control.close()  # last: whoever waits for the end finds nothing left
        return code

    # --- over a re-exec -------------------------------------------------------------------------------------------

    def _snapshot(self) -> Snapshot:
        desk, pidfile = self._desk, self._pidfile
        self.control.turn(at_once=True)  # who waits for a status has it before the re-exec
        fds = [*desk.book.fds, *desk.inbox.fds, *self.control.fds, *(it.sock.fileno() for it in desk.listeners.all())]
        fds += [] if pidfile is None else [pidfile.fd]
        data = {
            "version": graceserve.__version__,
            "fds": fds,
            "launch": desk.launch.dump(),
            "environ": desk.environ,
            "settings": desk.settings.dump(),
            "started": desk.started,
            "adopted": list(desk.adopted),
            "fleet": desk.fleet.dump(),
            "book": desk.book.dump(),
            "inbox": desk.inbox.fds,
            "listeners": desk.listeners.dump(),
            "reloads": self._reloads.dump(),
            "control": self.control.dump(),
            "pidfile": None if pidfile is None else {"path": pidfile.path, "fd": pidfile.fd},
        }
        return data, fds

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Master":
        """The master of `_snapshot`, whose descriptors were inherited. Touches nothing but them."""
        desk = _desk(Launch.load(data["launch"]), data["environ"], Settings.load(data.get("settings", {})))
        desk.started = data.get("started", 0.0)
        desk.adopted = tuple(data.get("adopted", ()))
        desk.fleet = Fleet.load(data["fleet"])
        desk.book = Book.load(data["book"])
        desk.listeners = Listeners.load(data["listeners"])
        desk.inbox = Inbox(*(Channel.of_fd(fd) for fd in data["inbox"]))
        row = data.get("pidfile")
        reloads = Reloads(desk)
        master = cls(desk, reloads, PidFile(row["path"], row["fd"]) if row else None)
        master.control = Control.load(desk, reloads, master.orders, data["control"])
        reloads.load(data["reloads"], master.control.clients)
        for fd in data["fds"]:
            os.set_inheritable(fd, False)
        return master
