"""A loop thread and its guard, which ends with the process only: `python -m tests.http.guard_program SCENARIO`."""

import asyncio
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from graceserve.worker.guard import Guard
from graceserve.worker.runs import Client, Inline
from graceserve.worker.tempo import LONG_S
from graceserve.worker.wsgi import Exchange
from tests.process.waiting import eventually

GAP_S = 3 * LONG_S
GRACE_S = 60.0


class _Helper:
    """Notes the turns that were found long."""

    lonely = False

    def __init__(self) -> None:
        self.found: list[int] = []
        self.epoll = select.epoll()

    def fileno(self) -> int:
        return self.epoll.fileno()

    def pass_on(self, turn: int) -> float | None:
        self.found.append(turn)
        return 0.001


class _Ward:
    def close_listeners(self) -> None: ...

    def tell_stuck(self) -> None: ...

    def tell_bug(self, error: Exception) -> None:
        raise error


class _Client:
    full = False


class _Exchange:
    """An app that takes so long, or until it is noticed."""

    writer: Any = None

    def __init__(self, lasts: Callable[[], object]) -> None:
        self._lasts = lasts

    def begin(self) -> bytes:
        self._lasts()
        return b""


class Scene:
    """A loop thread, which is this one, and its guard."""

    def __init__(self) -> None:
        self.inline = Inline(cast(asyncio.AbstractEventLoop, None))
        self.watch = self.inline.watch
        self.helper = _Helper()
        self._master, ours = socket.socketpair()
        Guard(ours.fileno(), GRACE_S, _Ward(), self.watch, self.helper).start()
        self._ours = ours

    def call(self, lasts: Callable[[], object]) -> None:
        self.inline.call(cast(Client, _Client()), cast(Exchange, _Exchange(lasts)))

    def short(self) -> None:
        self.call(lambda: None)

    def long(self) -> None:
        """Ends when the guard has noticed it."""
        self.call(lambda: eventually(lambda: self.watch.turn in self.helper.found, what="the long call is noticed"))

    def let_it_sleep(self) -> None:
        eventually(lambda: self.watch.asleep, what="the guard sleeps")


def long_ones_and_short_ones(scene: Scene) -> None:
    for _ in range(3):
        scene.short()
        scene.long()
        scene.long()
        scene.let_it_sleep()
        scene.short()
        scene.let_it_sleep()
        scene.long()
    assert len(set(scene.helper.found)) == 9


def the_alarm_goes_off_before_the_call(scene: Scene) -> None:
    alarm = scene.watch.alarm

    class _Late:
        fileno, heard = alarm.fileno, alarm.heard

        def set(self) -> None:
            alarm.set()
            time.sleep(GAP_S)

    scene.watch.alarm = _Late()  # type: ignore[assignment]
    scene.long()


def the_guard_falls_asleep_between_two_calls(scene: Scene) -> None:
    class _Slow(deque[Any]):
        def append(self, item: Any) -> None:
            scene.let_it_sleep()
            super().append(item)

    scene.inline._kept = _Slow()
    scene.short()
    scene.long()
    scene.long()


def one_behind_another_in_a_row(scene: Scene) -> None:
    """Each turn of a row is one of its own."""
    for _ in range(5):
        scene.short()
    scene.long()
    for _ in range(5):
        scene.short()
    scene.long()
    assert len(set(scene.helper.found)) == 2


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (
        long_ones_and_short_ones, the_alarm_goes_off_before_the_call, the_guard_falls_asleep_between_two_calls,
        one_behind_another_in_a_row,
    )
}  # fmt: skip

if __name__ == "__main__":
    SCENARIOS[sys.argv[1]](Scene())
