"""What the fleet is told. Pure data.

Generations are numbered from 1 upwards by the fleet, workers by a serial number that is unique in the life of the
master (also over its re-exec). Reasons are one line each, for the operator.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Terms:
    """What a generation is started with; durations in seconds."""

    workers: int = 1
    surge: int = 0  # extra workers at a time during a roll; 0 is 100%: as many as there are workers
    startup_timeout_s: float = 60.0  # extended while `Probed` shows progress, up to STARTUP_TIMES_MAX times this
    graceful_timeout_s: float = 30.0
    stuck_timeout_s: float = 30.0  # a serving worker that does not answer a ping for this long; 0 is off
    prepare: bool = False  # run the operator's prepare command before the template


@dataclass(frozen=True, slots=True)
class ReloadAsked:
    """Start a generation (the first, too). `ticket` names the caller; its verdict carries it. Tickets are unique."""

    ticket: int
    terms: Terms


@dataclass(frozen=True, slots=True)
class WorkersChanged:
    """TTIN (+1) or TTOU (-1). Kept over reloads as an offset to `Terms.workers`, never below one worker."""

    delta: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """TERM (`quick=False`), INT or QUIT (`quick=True`). A second stop of either kind is quick."""

    quick: bool


@dataclass(frozen=True, slots=True)
class PrepareEnded:
    """The prepare command exited. `reason` is empty if it succeeded."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class TemplateReady:
    """Its hello was acceptable, and with `--preload` the app is imported: it can fork."""

    generation: int


@dataclass(frozen=True, slots=True)
class TemplateFailed:
    """Said by the template itself (import error under `--preload`), or its hello was refused. It may still run."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class TemplateExited:
    """It is gone (reaped), or it could not be spawned in the first place."""

    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """It has imported and warmed the app; it does not accept yet."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """Said by the worker itself: import or warm-up failed. It may still run."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class WorkerLeaving:
    """It has stopped accepting, by order or because somebody sent it a SIGTERM by hand."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerPonged:
    """Its loop turns."""

    worker: int


@dataclass(frozen=True, slots=True)
class WorkerExited:
    """It is gone (reaped), or it never came to be: no fork, or the order could not be delivered."""

    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class Probed:
    """Answer to `Probe`: whether the generation's starting processes used CPU or read files since the last one."""

    generation: int
    moved: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened but time: `wake_at()` has come."""


Event: TypeAlias = (
    ReloadAsked | WorkersChanged | StopAsked | PrepareEnded | TemplateReady | TemplateFailed | TemplateExited
    | WorkerReady | WorkerFailed | WorkerLeaving | WorkerPonged | WorkerExited | Probed | Tick
)  # fmt: skip
