"""The master's book: which process is which, and what each generation runs. Shell; master.

Records and their look-up, with no syscall of their own but closing what they own. The fleet speaks of generations and
workers, the book knows pids and descriptors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from graceserve.config import Settings
from graceserve.release import Pin
from graceserve.wire.channel import Channel, close_all
from graceserve.wire.messages import Pong, TemplateHello


class Kind(Enum):
    """What a child of the master is."""

    PREPARE = "prepare"
    TEMPLATE = "template"
    WORKER = "worker"
    CHECK = "check"  # the new interpreter, trying whether it can take the master over


@dataclass(slots=True)
class Child:
    """One process. `pid` is 0 while it is not known (a worker whose fork is on its way)."""

    kind: Kind
    generation: int
    worker: int = 0
    slot: int = 0
    pid: int = 0
    channel: Channel | None = None
    unsent: Channel | None = None  # a worker's own end, while its template has no room for the order to fork it
    stacks_fd: int = -1  # where it writes its stacks
    output_fd: int = -1  # where the prepare command writes, and a template before its hello
    kill_wanted: bool = False  # by us; carried out as soon as the pid is known
    dead: bool = False  # reaped: its pid may be somebody else's by now
    ready: bool = False
    said: str = ""  # why it says that it failed
    pong: Pong = field(default_factory=Pong)
    pong_at: float = 0.0  # monotonic

    @property
    def fds(self) -> list[int]:
        """Descriptors it owns here."""
        ends = [_fd(self.channel), _fd(self.unsent)]
        return [fd for fd in (*ends, self.stacks_fd, self.output_fd) if fd >= 0]

    def close(self) -> None:
        """It is gone."""
        for end in (self.channel, self.unsent):
            if end is not None:
                end.close()
        close_all([fd for fd in (self.stacks_fd, self.output_fd) if fd >= 0])
        self.stacks_fd = self.output_fd = -1

    def dump(self) -> dict[str, Any]:
        """For the re-exec."""
        return {
            "kind": self.kind.value, "generation": self.generation, "worker": self.worker, "slot": self.slot,
            "pid": self.pid, "stacks_fd": self.stacks_fd, "output_fd": self.output_fd, "said": self.said,
            "kill_wanted": self.kill_wanted, "ready": self.ready,
            "channel_fd": _fd(self.channel), "unsent_fd": _fd(self.unsent),
        }  # fmt: skip

    @classmethod
    def load(cls, row: Mapping[str, Any]) -> "Child":
        """The child of `dump`; its descriptors were inherited."""
        return cls(
            kind=Kind(row["kind"]), generation=row["generation"], worker=row.get("worker", 0),
            slot=row.get("slot", 0), pid=row.get("pid", 0), stacks_fd=row.get("stacks_fd", -1),
            output_fd=row.get("output_fd", -1), said=row.get("said", ""),
            kill_wanted=row.get("kill_wanted", False), ready=row.get("ready", False),
            channel=_channel(row.get("channel_fd", -1)), unsent=_channel(row.get("unsent_fd", -1)),
        )  # fmt: skip


@dataclass(slots=True)
class Running:
    """A generation as the shell knows it: what it runs."""

    generation: int
    pin: Pin
    settings: Settings
    env: dict[str, str]
    listeners: tuple[str, ...]
    hello: TemplateHello = field(default_factory=TemplateHello)
    detail: str = ""  # the traceback or stack behind its failure
    marks: dict[str, float] = field(default_factory=dict)  # phase -> monotonic time at which it was over
    effort: dict[int, tuple[int, int]] = field(default_factory=dict)  # ticks and bytes by pid, at the last probe
    probed: float = 0.0  # when that was

    def dump(self) -> dict[str, Any]:
        """For the re-exec."""
        hello = self.hello
        return {
            "generation": self.generation, "pin": self.pin.dump(), "settings": self.settings.dump(), "env": self.env,
            "listeners": list(self.listeners), "detail": self.detail, "marks": self.marks,
            "hello": [hello.protocol, hello.graceserve, hello.python, hello.executable, hello.package],
        }  # fmt: skip

    @classmethod
    def load(cls, row: Mapping[str, Any]) -> "Running":
        """The generation of `dump`."""
        return cls(
            generation=row["generation"], pin=Pin.load(row["pin"]), settings=Settings.load(row["settings"]),
            env=row.get("env", {}), listeners=tuple(row.get("listeners", ())),
            detail=row.get("detail", ""), marks=row.get("marks", {}), hello=TemplateHello(*row.get("hello", ())),
        )  # fmt: skip


def _fd(channel: Channel | None) -> int:
    return -1 if channel is None else channel.fileno()


def _channel(fd: int) -> Channel | None:
    return Channel.of_fd(fd) if fd >= 0 else None


class Book:
    """All children and generations."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.running: dict[int, Running] = {}

    def by_pid(self, pid: int) -> Child | None:
        """None for a stranger."""
        return next((child for child in self.children if child.pid == pid), None)

    def worker(self, worker: int) -> Child | None:
        """By serial number."""
        return next((c for c in self.children if c.kind is Kind.WORKER and c.worker == worker), None)

    def part(self, generation: int, kind: Kind) -> Child | None:
        """The template or prepare command of a generation."""
        return next((c for c in self.children if c.kind is kind and c.generation == generation), None)

    def of(self, generation: int) -> Iterator[Child]:
        """All processes of a generation."""
        return (child for child in self.children if child.generation == generation)

    def forget(self, child: Child) -> None:
        """It is gone; close what belonged to it."""
        self.children.remove(child)
        child.close()

    @property
    def fds(self) -> list[int]:
        """Every descriptor in the book."""
        return [fd for child in self.children for fd in child.fds]

    def dump(self) -> dict[str, Any]:
        """For the re-exec."""
        return {
            "children": [child.dump() for child in self.children],
            "running": [running.dump() for running in self.running.values()],
        }

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Book":
        """The book of `dump`."""
        book = cls()
        book.children = [Child.load(row) for row in data.get("children", ())]
        book.running = {row["generation"]: Running.load(row) for row in data.get("running", ())}
        return book
