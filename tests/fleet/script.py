"""Transcripts: a script of what happens, and beneath each line what the fleet orders.

A line at the margin happens; the indented lines under it are the orders. Lines with `#` are for the reader.

    reload 1 workers=2 startup=60      ReloadAsked; also surge=, grace=, stuck= (default 0: off), prepare=yes
    ttin | ttou | stop | quit          WorkersChanged, StopAsked
    prepare 2 ok | failed REASON       PrepareEnded
    template 1 ready | failed REASON | exited REASON
    worker 3 ready | failed REASON | leaving | ponged | exited REASON
    probes still | moved               how each Probe is answered from here on
    at 12.5                            let the time come; ticks go in whenever the fleet wants to wake
    reexec                             go on with load(dump())
    status                             what `graceserve status` would see
"""

from collections.abc import Callable
from dataclasses import fields
from enum import Enum
from typing import Any

from graceserve.fleet.actions import Action, Probe
from graceserve.fleet.events import (
    Event,
    PrepareEnded,
    Probed,
    ReloadAsked,
    StopAsked,
    TemplateExited,
    TemplateFailed,
    TemplateReady,
    Terms,
    Tick,
    WorkerExited,
    WorkerFailed,
    WorkerLeaving,
    WorkerPonged,
    WorkerReady,
    WorkersChanged,
)
from tests.fleet.rules import Watched

TERMS = {"workers": "workers", "surge": "surge", "startup": "startup_timeout_s", "grace": "graceful_timeout_s",
         "stuck": "stuck_timeout_s"}  # fmt: skip
SAID: dict[tuple[str, str], Callable[[int], Event]] = {
    ("template", "ready"): TemplateReady,
    ("worker", "ready"): WorkerReady,
    ("worker", "leaving"): WorkerLeaving,
    ("worker", "ponged"): WorkerPonged,
}
TOLD_WHY: dict[tuple[str, str], Callable[[int, str], Event]] = {
    ("template", "failed"): TemplateFailed,
    ("template", "exited"): TemplateExited,
    ("worker", "failed"): WorkerFailed,
    ("worker", "exited"): WorkerExited,
}
SILENT = ("superseded_by", "repair_of")  # not shown when 0


def event_of(line: str) -> Event:
    """`worker 3 failed ImportError: x` and so on."""
    words = line.split(maxsplit=3)
    what, number = words[0], int(words[1]) if len(words) > 1 else 0
    reason = words[3] if len(words) > 3 else ""
    match what, words[2] if len(words) > 2 else "":
        case "reload", _:
            return ReloadAsked(number, terms_of(line.split()[2:]))
        case "ttin" | "ttou", _:
            return WorkersChanged(1 if what == "ttin" else -1)
        case "stop" | "quit", _:
            return StopAsked(what == "quit")
        case "prepare", outcome:
            return PrepareEnded(number, "" if outcome == "ok" else reason)
        case said if said in SAID:
            return SAID[said](number)
        case told if told in TOLD_WHY:
            return TOLD_WHY[told](number, reason)
    raise ValueError(f"not a line of a script: {line!r}")


def terms_of(pairs: list[str]) -> Terms:
    given = dict(pair.split("=") for pair in pairs)
    prepare = given.pop("prepare", "no") == "yes"
    numbers: dict[str, Any] = {"stuck_timeout_s": 0.0}
    for key, value in given.items():
        numbers[TERMS[key]] = (int if key in ("workers", "surge") else float)(value)
    return Terms(**numbers, prepare=prepare)


def show(action: Action) -> str:
    parts = [type(action).__name__]
    for field in fields(action):
        value = getattr(action, field.name)
        value = value.value if isinstance(value, Enum) else value
        if value != "" and not (field.name in SILENT and value == 0):
            text = f'"{value}"' if isinstance(value, str) and " " in value else f"{value}"
            parts.append(f"{field.name}={text.removesuffix('.0')}")
    return " ".join(parts)


class Script:
    """Runs one transcript and gives it back as it should be."""

    def __init__(self) -> None:
        self.watched = Watched()
        self.now = 0.0
        self.moved = False
        self.out: list[str] = []

    def run(self, text: str) -> str:
        for line in text.splitlines():
            if line.startswith(" "):
                continue  # what was ordered the last time
            self.out.append(line)
            if line and not line.startswith("#"):
                self.do(line)
        return "\n".join(self.out) + "\n"

    def do(self, line: str) -> None:
        match line.split():
            case ["probes", how]:
                self.moved = how == "moved"
            case ["at", time]:
                self.advance(float(time))
            case ["reexec"]:
                self.watched.reload()
            case ["status"]:
                self.status()
            case _:
                self.give(event_of(line), "")

    def give(self, event: Event, prefix: str) -> None:
        actions = self.watched.step(event, self.now)
        for action in actions:
            self.out.append(f"  {prefix}{show(action)}")
        for action in actions:
            if isinstance(action, Probe):
                self.give(Probed(action.generation, self.moved), prefix)

    def advance(self, end: float) -> None:
        while (wake := self.watched.fleet.wake_at()) is not None and wake <= end:
            self.now = wake
            self.give(Tick(), f"{wake:g}: ")
        self.now = end

    def status(self) -> None:
        fleet = self.watched.fleet
        wake = fleet.wake_at()
        self.out.append(
            f"  serving={fleet.serving} candidate={fleet.candidate} wanted={fleet.worker_count} "
            f"wake={'never' if wake is None else f'{wake:g}'}"
        )
        for g in fleet.generations.values():
            self.out.append(f"  generation {g.number} {g.phase.value}, template {g.template.phase.value}")
        for w in fleet.workers.values():
            self.out.append(f"  worker {w.serial} generation {w.generation} slot {w.slot} {w.phase.value}")
