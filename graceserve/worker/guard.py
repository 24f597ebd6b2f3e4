"""The guard thread: does what can't wait while the app holds the loop thread. Shell; used in a worker.

It notices that the master is gone. A worker whose loop turns then drains by itself; one that is stuck in an app call
would keep the port from the next master and never leave. Killing the stuck is otherwise the master's business.

And it notices a call that lasts (`--threads 1`): then it sends the answers that are kept, and passes on the connections
behind it that have something to say, as soon as they say it. While nothing is called, calls are short, or a long one
goes on and nobody waits, it sleeps: apart from what it costs, Linux 6.18 may keep other processes waiting for seconds
beside one that computes in one thread and wakes up all the time in another.
"""

import os
import select
import sys
import threading
from typing import Protocol

from graceserve.worker.watch import Watch

EXIT_STUCK = 1
LONELY_S = 0.02  # where nobody is there to be given anything: so long an answer may wait behind a long call
SWITCH_S = 0.0005  # that a call keeps the interpreter's lock from the guard, if it does not let go of it more often


def hasten() -> None:
    """Who waits for the interpreter's lock asks for it only when nobody has let go of it for a while, and who lets go
    of it for a moment has it back before others have woken up. With Python's 5 ms an app that reads small files, or
    the like, would keep the guard from it for as long as it goes on."""
    sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))


class Ward(Protocol):
    """The worker, as its guard sees it. For the guard's thread."""

    def close_listeners(self) -> None:
        """Accept no more, and let somebody else bind."""

    def tell_stuck(self) -> None:
        """The process is about to end, because it did not by itself."""

    def tell_bug(self, error: Exception) -> None:
        """Nothing is passed on any more."""


class Helper(Protocol):
    """Whom a long call holds up, and who could serve them. For the guard's thread."""

    @property
    def lonely(self) -> bool:
        """Whether no other worker is there, so that long calls need no looking for."""

    def fileno(self) -> int:
        """Readable when a connection is."""

    def pass_on(self, turn: int) -> float | None:
        """Send who is answered, hand over who waits, while it is this turn. In how many seconds there may be more to
        do; None: when a connection is readable, and not before."""


class Guard:
    """One a worker; its thread is a daemon."""

    def __init__(self, channel_fd: int, grace_s: float, ward: Ward, watch: Watch, helper: Helper) -> None:
        self._channel_fd = channel_fd
        self._grace_s = grace_s
        self._ward = ward
        self._watch = watch
        self._helper = helper
        self._poll = self._poll_of(watch.alarm.fileno())
        self._relief_poll = self._poll_of(watch.alarm.fileno(), helper.fileno())
        self._orphan = False
        self._helps = True

    def _poll_of(self, *fds: int) -> select.poll:
        made = select.poll()
        made.register(self._channel_fd, 0)  # nothing but the hang-up, which needs no asking
        for fd in fds:
            made.register(fd, select.POLLIN)
        return made

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, name="graceserve-guard", daemon=True).start()

    def _run(self) -> None:
        turn, again_s = -1, None
        while not self._orphan:
            rang = self._wait(self._poll, again_s)
            turn, again_s = self._look(turn, rang)
        self._ward.close_listeners()  # at once, and not only if the loop does not: the next master wants to bind
        threading.Event().wait(self._grace_s)  # the process's end is the only thing that cuts this short
        self._ward.tell_stuck()
        os._exit(EXIT_STUCK)

    def _wait(self, poll: select.poll, timeout_s: float | None) -> bool:
        """Whether the alarm went off."""
        alarm = self._watch.alarm
        rang = False
        for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000):
            if fd == self._channel_fd:
                self._orphan = True
            elif fd == alarm.fileno():
                alarm.heard()
                rang = True
        return rang

    def _look(self, seen: int, rang: bool) -> tuple[int, float | None]:
        """The turn that it is, and in how many seconds to look again; None: when the alarm goes off."""
        watch, lonely = self._watch, self._helper.lonely
        turn = watch.turn
        if turn % 2 and self._helps and (turn == seen or (rang and not lonely)):
            self._on_long_call(turn)
            turn = watch.turn
        if not turn % 2:
            watch.asleep = True
            if watch.turn == turn:
                return turn, None
            watch.asleep = False  # that one began before it could see it
        return watch.turn, LONELY_S if lonely else watch.tempo.long_s

    def _on_long_call(self, turn: int) -> None:
        """Until it ends."""
        try:
            while self._watch.turn == turn and not self._orphan:
                again_s = self._helper.pass_on(turn)
                if self._watch.turn != turn:  # else its end sets the alarm: the loop thread sees that it is at work
                    break
                if self._helper.lonely:
                    self._wait(self._poll, LONELY_S)
                elif again_s is not None:
                    self._wait(self._poll, again_s)
                else:
                    self._wait(self._relief_poll, None)
        except Exception as error:  # to notice that the master is gone is more important than this
            self._helps = False
            self._ward.tell_bug(error)
