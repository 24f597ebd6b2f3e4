"""The guard's alarm: it goes off once, after the time, counted from when it was set last."""

import errno
import os
import resource
import select
from collections.abc import Callable, Iterator

import pytest

from graceserve.worker.alarm import Alarm

SOON_S, LATE_S, WAIT_MS = 0.001, 600.0, 10_000

Make = Callable[[float], Alarm]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Alarm] = []

    def one(after_s: float) -> Alarm:
        made.append(Alarm(after_s))
        return made[-1]

    yield one
    for alarm in made:
        alarm.close()


def rings(alarm: Alarm, within_ms: int) -> bool:
    poll = select.poll()
    poll.register(alarm.fileno(), select.POLLIN)
    return bool(poll.poll(within_ms))


def test_it_goes_off(make: Make) -> None:
    alarm = make(SOON_S)
    assert not rings(alarm, 20), "nobody has set it"
    for _ in range(3):
        alarm.set()
        assert rings(alarm, WAIT_MS)
        assert rings(alarm, 0), "until it is heard"
        alarm.heard()
        assert not rings(alarm, 20), "once"


def test_not_before_the_time(make: Make) -> None:
    alarm = make(LATE_S)
    alarm.set()
    assert not rings(alarm, 20)
    alarm.heard()  # does not wait for it


def test_whole_seconds_and_parts(make: Make) -> None:
    alarm = make(1.0)
    alarm.set()
    assert rings(alarm, WAIT_MS)


def test_it_is_not_inherited(make: Make) -> None:
    assert not os.get_inheritable(make(SOON_S).fileno())


def test_no_descriptor_left() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files") as caught:
            Alarm(SOON_S)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert caught.value.errno == errno.EMFILE
