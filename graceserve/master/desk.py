"""What the parts of the master share. Shell."""

from dataclasses import dataclass, field

from graceserve.config import Settings
from graceserve.fleet.events import Event
from graceserve.fleet.machine import Fleet
from graceserve.logs import Log
from graceserve.master.book import Book
from graceserve.master.kernel import Kernel
from graceserve.master.listeners import Listeners
from graceserve.master.notify import Notify
from graceserve.master.poller import Poller
from graceserve.release import Launch
from graceserve.wire.channel import Inbox


@dataclass(slots=True)
class Desk:
    """One master, one desk. `tell` gives the fleet an event and has its orders carried out."""

    launch: Launch
    environ: dict[str, str]  # as the master was launched with
    settings: Settings  # of the start: what a reload can't change (name, log, pid file ...)
    log: Log
    kernel: Kernel
    notify: Notify
    fleet: Fleet = field(default_factory=Fleet)
    book: Book = field(default_factory=Book)
    listeners: Listeners = field(default_factory=Listeners)
    inbox: Inbox = field(default_factory=Inbox.new)
    adopted: tuple[str, ...] = ()  # names of the listeners that systemd handed over
    poller: Poller = field(default_factory=Poller)
    started: float = 0.0  # monotonic
    events: list[Event] = field(default_factory=list)  # what the fleet is to be told next
    exit_code: int | None = None  # set by `Finish`

    def tell(self, event: Event) -> None:
        """Queue it; the loop (or who is in it) passes it on, in order."""
        self.events.append(event)


