"""Reloads from the caller's side: what was asked, what it is to run, and the verdict. Shell; master."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graceserve.config import Settings, restart_needed
from graceserve.envfile import parse as parse_env
from graceserve.errors import OperatorError
from graceserve.files import RealFiles
from graceserve.fleet.actions import Outcome, Verdict
from graceserve.fleet.events import ReloadAsked, Terms
from graceserve.master.book import Running
from graceserve.master.desk import Desk
from graceserve.record import dump as dump_record
from graceserve.record import load as load_record
from graceserve.release import Pin, read_release, verify
from graceserve.wire.channel import Channel
from graceserve.wire.messages import Progress, Told

HISTORY_MAX = 20  # verdicts kept for `status`
PHASES = ("prepare", "template", "workers", "promote", "switch")  # in the order in which they are over
_NOT_FOR_THE_APP = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


@dataclass(slots=True)
class Ask:
    """One reload that waits for its verdict."""

    ticket: int
    pin: Pin
    settings: Settings
    env: dict[str, str]
    listeners: tuple[str, ...]
    asked: float  # monotonic
    generation: int = 0
    client: Channel | None = None  # who waits, if anybody does

    def dump(self) -> dict[str, Any]:
        """For the re-exec."""
        return {
            "ticket": self.ticket, "pin": self.pin.dump(), "settings": self.settings.dump(), "env": self.env,
            "listeners": list(self.listeners), "asked": self.asked, "generation": self.generation,
            "client_fd": -1 if self.client is None or self.client.closed else self.client.fileno(),
        }  # fmt: skip

    @classmethod
    def load(cls, row: Mapping[str, Any], clients: Mapping[int, Channel]) -> "Ask":
        """The ask of `dump`. `clients` are the control connections that were inherited, by descriptor."""
        return cls(
            ticket=row["ticket"], pin=Pin.load(row["pin"]), settings=Settings.load(row["settings"]),
            env=row.get("env", {}), listeners=tuple(row.get("listeners", ())), asked=row.get("asked", 0.0),
            generation=row.get("generation", 0), client=clients.get(row.get("client_fd", -1)),
        )  # fmt: skip


class Reloads:
    """Every ask gets one verdict: in the log, in the history, and on the connection of who waits for it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.asks: dict[int, Ask] = {}
        self.history: list[dict[str, Any]] = []
        self.parked: list[tuple[Ask, Told]] = []  # switched, but the master is about to re-exec itself
        self.hold = False  # park verdicts: set while a re-exec is on its way
        self._next_ticket = 1
        self._way_back: dict[str, Any] | None = None  # what `rollback` goes back to: a pin and its settings

    def begin(self, settings: Settings, pin: Pin) -> None:
        """The first start. Raises `OperatorError`."""
        self._file(self._ask(settings, pin, None))

    def ask(self, client: Channel | None) -> None:
        """A reload of what the link says now. What is wrong with it becomes its verdict."""
        if self._refused(client):
            return
        try:
            settings, pin = read_release(self._desk.launch, self._desk.environ, RealFiles())
            self._check_restart(settings)
            ask = self._ask(settings, pin, client)
        except (OperatorError, OSError, ValueError) as error:  # the last two: no descriptor left, a path that is none
            self._reject(str(error), client)
        else:
            self._file(ask)

    def ask_back(self, client: Channel | None) -> None:
        """A reload of what the generation before the serving one ran."""
        if self._refused(client):
            return
        try:
            if self._way_back is None:
                raise OperatorError("there is no other release that served before")
            pin = Pin.load(self._way_back["pin"])
            verify(pin, RealFiles())
            ask = self._ask(Settings.load(self._way_back["settings"]), pin, client)
        except (OperatorError, OSError, ValueError) as error:
            self._reject(str(error), client)
        else:
            self._file(ask)
            self._tell_link(ask)

    def promoted(self, before: Running, now: Running) -> None:
        """`before` served until now: a rollback goes there, if it is another release."""
        if before.pin.release == now.pin.release:
            return
        self._way_back = {"pin": before.pin.dump(), "settings": before.settings.dump()}

    def _tell_link(self, ask: Ask) -> None:
        """After a rollback the link still names what the operator went back from."""
        link = ask.pin.link
        if ask.client is not None and link and os.path.realpath(link) != ask.pin.release:
            ask.client.send(Progress(f"{link} names another release still: flip it back before the next reload"))

    def of_generation(self, generation: int) -> Ask | None:
        """The newest ask that was given this generation."""
        return next((ask for ask in reversed(self.asks.values()) if ask.generation == generation), None)

    def progress(self, generation: int, text: str) -> None:
        """A line for whoever waits for this generation."""
        ask = self.of_generation(generation)
        if ask is not None and ask.client is not None:
            ask.client.send(Progress(text))

    def verdict(self, action: Verdict) -> None:
        """Log it, keep it, and tell (or park it while the master re-execs itself)."""
        ask = self.asks.pop(action.ticket, None)
        if ask is None:
            return
        told = self._told(action, ask)
        self._record(told)
        if self.hold and action.outcome is Outcome.SWITCHED:
            self.parked.append((ask, told))
        else:
            self._tell(ask.client, told)

    def unpark(self, note: str = "") -> None:
        """The re-exec is over (or off): tell who waited for it."""
        self.hold = False
        parked, self.parked = self.parked, []
        for ask, told in parked:
            if note and ask.client is not None:
                ask.client.send(Progress(note))
            self._tell(ask.client, told)

    def forget_client(self, client: Channel) -> None:
        """It hung up."""
        for ask in [*self.asks.values(), *(ask for ask, _ in self.parked)]:
            if ask.client is client:
                ask.client = None

    def used_listeners(self) -> set[str]:
        """Names of the listeners that an ask was promised."""
        return {name for ask in self.asks.values() for name in ask.listeners}

    def dump(self) -> dict[str, Any]:
        """For the re-exec."""
        return {
            "asks": [ask.dump() for ask in self.asks.values()],
            "parked": [[ask.dump(), dump_record(told)] for ask, told in self.parked],
            "history": self.history,
            "next_ticket": self._next_ticket,
            "way_back": self._way_back,
        }

    def load(self, data: Mapping[str, Any], clients: Mapping[int, Channel]) -> None:
        """Take over what `dump` gave."""
        self.asks = {row["ticket"]: Ask.load(row, clients) for row in data.get("asks", ())}
        self.parked = [(Ask.load(row, clients), load_record(Told, told)) for row, told in data.get("parked", ())]
        self.history = list(data.get("history", ()))
        self._next_ticket = data.get("next_ticket", 1 + max(self.asks, default=0))
        self._way_back = data.get("way_back")

    def _ask(self, settings: Settings, pin: Pin, client: Channel | None) -> Ask:
        env = _environment(self._desk.environ, settings, pin)
        names = self._desk.adopted or self._desk.listeners.open(settings.bind, settings.umask)
        ticket = self._next_ticket
        self._next_ticket += 1
        return Ask(ticket, pin, settings, env, names, self._desk.kernel.now(), client=client)

    def _file(self, ask: Ask) -> None:
        settings = ask.settings
        if self._desk.fleet.serving:
            self._desk.notify.reloading(f"reloading into {ask.pin.title}")
        self.asks[ask.ticket] = ask
        self._desk.tell(
            ReloadAsked(
                ask.ticket,
                Terms(
                    workers=settings.workers,
                    surge=settings.reload_surge,
                    startup_timeout_s=settings.startup_timeout,
                    graceful_timeout_s=settings.graceful_timeout,
                    stuck_timeout_s=settings.timeout,
                    prepare=bool(settings.prepare),
                ),
            )
        )

    def _check_restart(self, settings: Settings) -> None:
        serving = self._desk.book.running.get(self._desk.fleet.serving)
        changed = restart_needed(serving.settings, settings) if serving else []
        if changed:
            raise OperatorError(f"{', '.join(changed)} changed, which a reload can't do: stop and start the server")

    def _refused(self, client: Channel | None) -> bool:
        """Nothing is begun, and above all nothing bound, once a stop was asked for."""
        if self._desk.fleet.stopping and client is not None:
            client.send(Told(outcome=Outcome.STOPPED.value, reason="a stop was asked for"))
        return self._desk.fleet.stopping

    def _reject(self, reason: str, client: Channel | None) -> None:
        told = Told(outcome=Outcome.FAILED.value, reason=reason)
        self._record(told)
        self._tell(client, told)

    def _told(self, action: Verdict, ask: Ask) -> Told:
        running = self._desk.book.running.get(action.generation)
        return Told(
            outcome=action.outcome.value,
            generation=action.generation,
            release=ask.pin.title,
            reason=action.reason,
            detail=running.detail if running and action.outcome is Outcome.FAILED else "",
            superseded_by=action.superseded_by,
            phases=self._phases(ask, running.marks if running else {}),
        )

    def _phases(self, ask: Ask, marks: Mapping[str, float]) -> dict[str, float]:
        """Seconds that each phase took, and `total`."""
        phases, before = {}, ask.asked
        for phase in PHASES:
            if phase in marks:
                phases[phase] = round(marks[phase] - before, 4)
                before = marks[phase]
        phases["total"] = round(self._desk.kernel.now() - ask.asked, 4)
        return phases

    def _record(self, told: Told) -> None:
        row = {key: value for key, value in dump_record(told).items() if value} | {"at": self._desk.kernel.now()}
        self.history = [*self.history[1 - HISTORY_MAX :], row]
        log = self._desk.log.error if told.outcome == Outcome.FAILED.value else self._desk.log.info
        shown = {"reason": told.reason, "superseded_by": told.superseded_by, "release": told.release}
        log(
            "verdict", detail=told.detail, gen=told.generation, outcome=told.outcome,
            **{key: value for key, value in shown.items() if value},
            **{f"{phase}_s": seconds for phase, seconds in told.phases.items()},
        )  # fmt: skip

    def _tell(self, client: Channel | None, told: Told) -> None:
        desk = self._desk
        status = f"generation {desk.fleet.serving} serves; last reload: {told.outcome}"
        if desk.fleet.serving and not desk.fleet.stopping and not self.asks:
            desk.notify.ready(f"{status} ({told.reason})" if told.reason else status)
        if client is not None:
            client.send(told)


def _environment(environ: Mapping[str, str], settings: Settings, pin: Pin) -> dict[str, str]:
    """The environment of a generation: the master's own, `--env-file` (read now), then `--env`."""
    env = {key: value for key, value in environ.items() if key not in _NOT_FOR_THE_APP}
    if settings.env_file:
        path = os.path.join(pin.cwd, settings.env_file)
        try:
            env |= parse_env(RealFiles().read_text(path), path)
        except OSError as error:
            raise OperatorError(f"--env-file {path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise OperatorError(f"--env-file {path}: not UTF-8") from None
    env |= dict(pair.split("=", 1) for pair in settings.env)
    env["PWD"] = pin.cwd
    return env
