"""The messages between graceserve's processes, and their bytes. Pure; used in every process.

A message is one datagram of a `SOCK_SEQPACKET` pair: JSON `[protocol, name, {field: value}]`, with file descriptors
beside it where the class says so. Master, template and worker may be different graceserve versions, therefore

- every field has a default, so that an older sender's message still decodes,
- unknown fields are dropped, so that a newer sender's message still decodes,
- an unknown name decodes to `Unknown`, which the receiver logs and ignores.

Only an incompatible change raises `PROTOCOL`; the template's hello names its own, and the master refuses a release that
speaks another one.
"""

import json
from dataclasses import dataclass, field
from typing import TypeAlias

from graceserve import record
from graceserve.errors import WireError

PROTOCOL = 2
MESSAGE_BYTES_MAX = 180_000  # below net.core.wmem_default (212,992), which bounds one datagram
DETAIL_CHARS_MAX = 12_000  # of a traceback: the tail says what went wrong; JSON takes up to 12 bytes a character
REASON_CHARS_MAX = 1_000  # of a line for the operator

Json: TypeAlias = "bool | int | float | str | tuple[Json, ...] | list[Json] | dict[str, Json] | None"


# --- master -> template -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Boot:
    """First message to a template: what its generation is to run. `settings` is `Settings.dump()`."""

    generation: int = 0
    release: str = ""  # the resolved directory: working directory and sys.path[0]
    settings: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fork:
    """Fork a worker. Descriptors: its channel, the inbox (sending end, receiving end), then one a listener."""

    worker: int = 0
    slot: int = 0
    listeners: tuple[str, ...] = ()  # names, in the order of the descriptors: "127.0.0.1:8000", "unix:/run/app.sock"


@dataclass(frozen=True, slots=True)
class Retire:
    """The template has nothing to do any more: exit."""


# --- template -> master -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TemplateHello:
    """The template's interpreter is up, the app is not imported yet. Descriptor: the file its stack dumps go to."""

    protocol: int = 0
    graceserve: str = ""
    python: str = ""
    executable: str = ""  # sys.executable: what the master re-execs
    package: str = ""  # directory of the graceserve package it runs


@dataclass(frozen=True, slots=True)
class TemplateReady:
    """The template can fork (with `--preload`: the app is imported)."""

    import_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TemplateFailed:
    """The template can't go on (with `--preload`: the app did not import). It exits next."""

    reason: str = ""  # one line
    detail: str = ""  # traceback


@dataclass(frozen=True, slots=True)
class ForkFailed:
    """`Fork` could not be done; the template lives on."""

    worker: int = 0
    reason: str = ""


# --- worker -> master (on the worker's own channel) ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forked:
    """Said by the process between template and worker: the worker exists and has this pid."""

    pid: int = 0


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """The worker's first word, before any of the app's code runs. Descriptor: the file its stack dumps go to."""

    pid: int = 0


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """The app is imported, warm, and can serve. The worker does not accept before `Accept`."""

    import_s: float = 0.0
    warmup_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WorkerFailed:
    """The app did not import, or a warm-up request failed. The worker exits next."""

    reason: str = ""  # one line
    detail: str = ""  # traceback


@dataclass(frozen=True, slots=True)
class Leaving:
    """From here on the worker accepts no new connection: it drains (SIGTERM, by order or by hand) or recycles."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Pong:
    """Answer to `Ping`: the loop turns. `requests` is a total, `connections` and `busy` are what it holds now."""

    requests: int = 0
    connections: int = 0
    busy: int = 0


# --- master -> worker ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accept:
    """Begin to accept: the generation is promoted (or the worker replaces one of the serving generation)."""


@dataclass(frozen=True, slots=True)
class Outdated:
    """A newer generation was promoted: accept until the drain, but leave the inbox to the newer.

    A connection that came back would be handed over again, and answered by old code after the new.
    """


@dataclass(frozen=True, slots=True)
class Drain:
    """Travels ahead of the SIGTERM. `grace_s` seconds from now the worker is killed.

    `stop`: the whole service ends, and nobody takes the connections; else they go into the inbox.
    """

    grace_s: float = 0.0
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you stuck? Answer with `Pong` from the loop."""


@dataclass(frozen=True, slots=True)
class Reopen:
    """Open the log file again (SIGUSR1 at the master). Also sent to templates."""


# --- worker -> worker (through the inbox) ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HandOver:
    """A client connection with no request that has begun.

    Descriptors: the connection, and a file with what was read of it and not served, if there is anything.
    """

    listener: str = ""  # name of the listener that accepted it
    peer: str = ""  # REMOTE_ADDR
    peer_port: int = 0
    requests: int = 0  # that it has carried so far
    waited_s: float = 0.0  # for the client: since the last response, or since the first byte of half a head
    continued: bool = False  # the request that is being read was answered with 100 Continue
    fresh: bool = False  # what comes next is what a listener's connections begin with: a PROXY header
    deaths: int = 0  # of workers that had it, since it was answered something
    waits: bool = False  # something of a request has come, as far as is known
    read_bytes: int = -1  # that the server's end ever read of it; -1: not counted
    written_bytes: int = -1


# --- control client <-> master --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AskReload:
    """Reload; progress and the verdict come back on this connection."""


@dataclass(frozen=True, slots=True)
class AskRollback:
    """Reload, but into the release that the previous generation ran."""


@dataclass(frozen=True, slots=True)
class AskStatus:
    """One `Status` comes back."""


@dataclass(frozen=True, slots=True)
class AskStop:
    """Stop; the connection's end-of-file says that the master is gone."""

    quick: bool = False


@dataclass(frozen=True, slots=True)
class AskReopen:
    """As SIGUSR1; `Done` comes back."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A line for the person who waits."""

    text: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """The verdict on a reload. `outcome`: "switched", "failed", "superseded" or "stopped"."""

    outcome: str = ""
    generation: int = 0
    release: str = ""
    reason: str = ""
    detail: str = ""
    superseded_by: int = 0
    phases: dict[str, float] = field(default_factory=dict)  # phase -> seconds


@dataclass(frozen=True, slots=True)
class Status:
    """What `graceserve status` prints."""

    status: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """Asked and done."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Not done, and why, in one line."""

    reason: str = ""


# --- resume check -> master -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ResumeChecked:
    """A child of the new interpreter has loaded the master's dump; `reason` is empty if it could."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class ExecFailed:
    """Said by a forked child of the master whose `execve` failed; it exits at once."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message that this version does not know."""

    name: str = ""


Message: TypeAlias = (
    Boot | Fork | Retire | TemplateHello | TemplateReady | TemplateFailed | ForkFailed | Forked | WorkerHello
    | WorkerReady | WorkerFailed | Leaving | Pong | Accept | Outdated | Drain | Ping | Reopen | HandOver | AskReload
    | AskRollback | AskStatus | AskStop | AskReopen | Progress | Told | Status | Done | Refused | ResumeChecked
    | ExecFailed | Unknown
)  # fmt: skip

_to_json = json.JSONEncoder(separators=(",", ":")).encode  # `json.dumps` makes one each time
_of_json = json.JSONDecoder().decode
_CLASSES: dict[str, type[Message]] = {cls.__name__: cls for cls in Message.__args__}


def encode(message: Message) -> bytes:
    """One datagram. Raises `WireError` over `MESSAGE_BYTES_MAX`."""
    cls = type(message)
    values = {name: getattr(message, name) for name in record.names(cls)}
    data = _to_json([PROTOCOL, cls.__name__, values]).encode()
    if len(data) > MESSAGE_BYTES_MAX:
        raise WireError(f"{type(message).__name__} of {len(data)} bytes is over {MESSAGE_BYTES_MAX}")
    return data


def decode(data: bytes) -> Message:
    """The message in one datagram. Raises `WireError` if it is none."""
    try:
        protocol, name, values = _of_json(data.decode())
    except (ValueError, TypeError, RecursionError) as error:  # bad JSON or UTF-8, too deep, no array of three
        raise WireError(f"not a message: {data[:80]!r} ({error})") from None
    if not (isinstance(protocol, int) and isinstance(name, str) and isinstance(values, dict)):
        raise WireError(f"not a message: {data[:80]!r}")
    cls = _CLASSES.get(name)
    if cls is None:
        return Unknown(name)
    return record.load(cls, values)


def line(text: str) -> str:
    """`text` on one line, cut to what a message carries of a reason."""
    flat = " ".join(text.split())
    return flat if len(flat) <= REASON_CHARS_MAX else flat[: REASON_CHARS_MAX - 3] + "..."


def tail(text: str) -> str:
    """`text`, cut at the front to what a message carries of a traceback."""
    return text if len(text) <= DETAIL_CHARS_MAX else "..." + text[3 - DETAIL_CHARS_MAX :]
