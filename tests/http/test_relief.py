"""When the guard has those who wait behind a long call do so in the inbox, on a clock that the test turns."""

from collections import deque
from collections.abc import Iterator

import pytest

from graceserve.wire.channel import Inbox
from graceserve.wire.messages import Ping
from graceserve.worker.board import Board
from graceserve.worker.connection import State
from graceserve.worker.handoff import take_over
from graceserve.worker.relief import AGAIN_S, LATER_S, Relief
from graceserve.worker.tempo import QUEUE_S
from tests.http.test_time_limits import GET, Desk

SHORT_S, LONG_S = QUEUE_S * 0.9, QUEUE_S * 1.1


class Scene:
    """A worker in an app call, with a connection that has something to say, and a sibling."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.inbox = Inbox.new()
        board = Board()
        self.place, self.sibling = board.place(0), board.place(1)
        self.place.enter()
        self.sibling.enter()
        self.sibling.busy()
        self.relief = Relief(self.desk.loop, self.inbox.put, self.place, deque(), self.desk.inline)
        self.relief.now = self.desk.now
        self.relief.opened(self.desk.connection)
        self.desk.client.sendall(GET)
        self.relief.watch.turn = 1

    def moved_after(self, time_s: float) -> bool:
        """Whether the guard, who looks after so long, has put it into the inbox by then."""
        self.desk.time += time_s
        again_s = self.relief.pass_on(self.relief.watch.turn)
        moved = self.desk.connection.state is State.MOVED
        assert again_s == (None if moved else AGAIN_S)
        return moved

    def next_turn(self) -> None:
        self.relief.watch.turn += 2

    def close(self) -> None:
        self.relief.watch.settle()
        if self.desk.connection.state is not State.MOVED:
            self.desk.connection.close_idle()
        self.desk.close()
        self.inbox.close()
        for sock in self.relief._silence:  # for the life of a worker
            sock.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.close()


def test_all_are_in_long_calls(scene: Scene) -> None:
    assert not scene.moved_after(0)
    assert not scene.moved_after(SHORT_S)
    assert scene.moved_after(LONG_S - SHORT_S)
    taken = take_over(scene.inbox.take, {})
    assert taken is not None
    assert taken.sock.recv(100) == GET
    taken.sock.close()


def test_all_are_in_short_calls(scene: Scene) -> None:
    """However many there are: nothing moves."""
    for _ in range(10):
        assert not scene.moved_after(0)
        assert not scene.moved_after(SHORT_S)
        scene.next_turn()


def test_somebody_is_free(scene: Scene) -> None:
    scene.sibling.free()
    assert scene.moved_after(0)


def test_who_can_not_be_moved_is_not_looked_at_all_the_time(scene: Scene) -> None:
    scene.sibling.free()
    scene.desk.connection.state = State.RUNNING
    assert scene.relief.pass_on(1) == LATER_S
    scene.desk.connection.state = State.IDLE
    assert scene.moved_after(0)


@pytest.mark.parametrize(("time_s", "long"), [(SHORT_S, False), (LONG_S, True)])
def test_behind_a_long_call_older_ones_go_first(scene: Scene, time_s: float, long: bool) -> None:
    """Also if the guard has slept since its beginning, because nobody waited here."""
    scene.sibling.free()
    scene.desk.connection.state = State.RUNNING
    scene.relief.pass_on(1)
    scene.desk.time += time_s
    scene.relief.watch.turn = 2
    scene.relief.watch.settle()
    assert (scene.relief.older_first > 0) is long
    scene.desk.connection.state = State.IDLE


def test_nobody_else_is_there(scene: Scene) -> None:
    scene.sibling.leave()
    assert not scene.moved_after(0)
    assert not scene.moved_after(LONG_S)


def test_the_inbox_is_full(scene: Scene) -> None:
    """It stays as it was, and goes when there is room again."""
    while scene.inbox.put.send(Ping()):
        pass
    assert not scene.moved_after(0)
    assert not scene.moved_after(LONG_S)
    scene.inbox.take.receive()
    assert scene.moved_after(0)


def test_the_service_stops(scene: Scene) -> None:
    """Nobody would take it any more."""
    scene.relief.end()
    assert not scene.moved_after(0)
    assert not scene.moved_after(LONG_S)
