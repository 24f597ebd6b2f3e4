"""What the fleet orders. Pure data. Each is carried out once, at once, in order; what fails comes back as an event."""

from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


class Part(Enum):
    """A process of a generation that is not a worker."""

    PREPARE = "prepare"
    TEMPLATE = "template"


class Outcome(Enum):
    """The verdict on a reload."""

    SWITCHED = "switched"  # the new generation serves and no older one accepts any more
    FAILED = "failed"  # nothing changed
    SUPERSEDED = "superseded"  # a newer reload took its place
    STOPPED = "stopped"  # a stop was asked for first


@dataclass(frozen=True, slots=True)
class Prepare:
    """Run the prepare command. Answer: `PrepareEnded`."""

    generation: int


@dataclass(frozen=True, slots=True)
class StartTemplate:
    """Exec the generation's template. Answers: `TemplateReady`, `TemplateFailed`, `TemplateExited`.

    `repair_of`: not 0 if nobody asked for this generation: it replaces that one (whose template died) from the same
    pinned release.
    """

    generation: int
    repair_of: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Have the template fork a worker. Answers: `WorkerReady`, `WorkerFailed`, `WorkerExited`."""

    generation: int
    worker: int
    slot: int


@dataclass(frozen=True, slots=True)
class Probe:
    """Look whether the generation's starting processes make progress. Answer: `Probed`."""

    generation: int


@dataclass(frozen=True, slots=True)
class Promote:
    """From here `generation` serves. `previous` is 0 at the first start."""

    generation: int
    previous: int


@dataclass(frozen=True, slots=True)
class Accept:
    """Let the worker accept connections."""

    worker: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop accepting, finish, exit within `grace_s`. `successor` is the generation that takes over, 0 at a stop."""

    worker: int
    grace_s: float
    successor: int


@dataclass(frozen=True, slots=True)
class Quit:
    """End the worker now: SIGQUIT. It is killed soon if it does not obey."""

    worker: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask for `WorkerPonged`."""

    worker: int


@dataclass(frozen=True, slots=True)
class DumpStack:
    """Have the worker (or, with worker 0, the generation's template) write the stacks of its threads, and log them.

    `reason` says why, for the log. A kill follows.
    """

    generation: int
    worker: int
    reason: str


@dataclass(frozen=True, slots=True)
class KillWorker:
    """SIGKILL. Answer: `WorkerExited`."""

    worker: int


@dataclass(frozen=True, slots=True)
class KillPart:
    """SIGKILL (the whole process group for the prepare command). Answer: `TemplateExited`, `PrepareEnded`."""

    generation: int
    part: Part


@dataclass(frozen=True, slots=True)
class RetireTemplate:
    """Ask the template to exit; it holds nothing, so it is killed soon if it does not. Answer: `TemplateExited`."""

    generation: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the reload with this ticket. `generation` is the one it was given, 0 if it never started one."""

    ticket: int
    outcome: Outcome
    generation: int
    reason: str
    superseded_by: int  # generation, for SUPERSEDED


@dataclass(frozen=True, slots=True)
class Gone:
    """No process of the generation is left: forget it."""

    generation: int


@dataclass(frozen=True, slots=True)
class Note:
    """Something for the log that is not said by another action: a worker that died and when it is replaced, ..."""

    generation: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """No child is left: exit with this code (0 after a stop, 1 if the first generation never served)."""

    code: int


Action: TypeAlias = (
    Prepare | StartTemplate | Fork | Probe | Promote | Accept | Drain | Quit | Ping | DumpStack | KillWorker
    | KillPart | RetireTemplate | Verdict | Gone | Note | Finish
)  # fmt: skip
