"""The guard thread: does what can't wait while the app holds the loop thread. Shell; used in a worker.

It notices that the master is gone. A worker whose loop turns then drains by itself; one that is stuck in an app call
would keep the port from the next master and never leave. Killing the stuck is otherwise the master's business.

And it notices a call that lasts (`--threads 1`): then it sends the answers that are kept, and passes on the connections
behind it that have something to say, as soon as they say it. While nothing is called, or a call goes on and nobody
waits, it sleeps: apart from what it costs, Linux 6.18 may keep other processes waiting for seconds beside one that
computes in one thread and wakes up all the time in another.
"""

import os
import select
import sys
import threading
from typing import Protocol

from graceserve.worker.watch import Watch

EXIT_STUCK = 1
TICK_S = 0.003  # a call is long if it has lasted for one of these, up to two
LONELY_TICK_S = 0.02  # where nobody is there to be given anything: so long an answer may wait behind a long call
SWITCH_S = 0.0005  # that the interpreter's lock is kept from the guard by a long call that computes


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
        self._poll = self._poll_of(watch.wake_fd)
        self._relief_poll = self._poll_of(watch.wake_fd, helper.fileno())
        self._orphan = False
        self._dozes = True  # until it is woken
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
        seen = -1
        while not self._orphan:
            tick_s = LONELY_TICK_S if self._helper.lonely else TICK_S
            self._wait(self._poll, None if self._dozes else tick_s)
            seen = self._look(seen)
        self._ward.close_listeners()  # at once, and not only if the loop does not: the next master wants to bind
        threading.Event().wait(self._grace_s)  # the process's end is the only thing that cuts this short
        self._ward.tell_stuck()
        os._exit(EXIT_STUCK)

    def _wait(self, poll: select.poll, timeout_s: float | None) -> None:
        for fd, _ in poll.poll(None if timeout_s is None else timeout_s * 1000):
            if fd == self._channel_fd:
                self._orphan = True
            elif fd == self._watch.wake_fd:
                os.eventfd_read(fd)
                self._dozes = False

    def _look(self, seen: int) -> int:
        """The turn that it is, the argument the next time."""
        watch = self._watch
        turn = watch.turn
        if turn != seen:
            return turn
        if turn % 2:
            if self._helps:
                self._on_long_call(turn)
            return -1
        watch.asleep = True
        self._dozes = watch.turn == turn  # else it began before it could see that nobody looks
        if not self._dozes:
            watch.asleep = False
        return turn

    def _on_long_call(self, turn: int) -> None:
        """Until it ends."""
        usual_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        try:
            while self._watch.turn == turn and not self._orphan:
                again_s = self._helper.pass_on(turn)
                if self._watch.turn != turn:  # else its end wakes this thread: the loop thread sees that it is at work
                    break
                if self._helper.lonely:
                    self._wait(self._poll, LONELY_TICK_S)
                elif again_s is not None:
                    self._wait(self._poll, again_s)
                else:
                    self._wait(self._relief_poll, None)
        except Exception as error:  # to notice that the master is gone is more important than this
            self._helps = False
            self._ward.tell_bug(error)
        finally:
            sys.setswitchinterval(usual_s)
