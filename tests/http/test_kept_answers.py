"""What the app has answered on the loop thread and is not sent yet: by the guard, by the loop, each byte once."""

import socket
from collections.abc import Iterator

import pytest

from graceserve.worker.connection import State
from tests.http.test_time_limits import Desk

SMALL_BYTES = 4096  # of the kernel's buffers


class Keeper(Desk):
    """Answers only when it is told to."""

    keeps_answers = True

    def ask(self, path: str, more: str = "") -> None:
        self.send(f"GET {path} HTTP/1.1\r\nHost: t\r\n{more}\r\n".encode(), State.RUNNING)

    def send_early(self) -> bool:
        """As in a long call. Whether all of it is out."""
        self.inline.watch.turn += 1
        all_out = self.inline.send_early(self.inline.watch.turn)
        self.inline.watch.turn += 1
        return all_out


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    keeper = Keeper()
    yield keeper
    keeper.close()


def test_kept_until_it_is_sent(keeper: Keeper) -> None:
    keeper.ask("/")
    assert keeper.answer() == b"nothing" and not keeper.inline.done and not keeper.connection.movable
    keeper.inline.answer()
    assert keeper.answer().endswith(b"hello") and keeper.inline.done
    assert keeper.connection.state is State.IDLE


def test_sent_early(keeper: Keeper) -> None:
    keeper.ask("/")
    assert keeper.send_early()
    assert keeper.answer().endswith(b"hello")
    assert keeper.connection.movable, "what comes next need not wait for the loop thread"
    keeper.inline.answer()
    assert keeper.answer() == b"nothing"
    keeper.ask("/")
    keeper.inline.answer()
    assert keeper.answer().endswith(b"hello")


def test_one_that_was_moved_is_left_alone(keeper: Keeper) -> None:
    keeper.ask("/")
    keeper.send_early()
    keeper.connection.moved()
    keeper.inline.answer()
    assert keeper.connection.state is State.MOVED
    keeper.connection.let_go()


@pytest.mark.parametrize("early", [0, 1, 2])
def test_a_part_of_it(keeper: Keeper, early: int) -> None:
    """As much as the kernel takes, and the rest from the loop."""
    keeper.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BYTES)
    keeper.ask("/big?60000")
    seen = b""
    for _ in range(early):
        assert not keeper.send_early()
        assert not keeper.connection.movable
        seen += keeper.received() or b""
    assert early == 0 or 0 < len(seen) < 60000
    keeper.inline.answer()

    def all_has_come() -> bool:
        nonlocal seen
        seen += keeper.received() or b""
        return len(seen.partition(b"\r\n\r\n")[2]) >= 60000

    keeper.until(all_has_come)
    assert seen.partition(b"\r\n\r\n")[2] == b"b" * 60000
    keeper.until(lambda: keeper.connection.state is State.IDLE)


def test_not_in_another_turn(keeper: Keeper) -> None:
    keeper.ask("/")
    keeper.inline.send_early(keeper.inline.watch.turn + 1)
    assert keeper.answer() == b"nothing"
    keeper.inline.answer()
    assert keeper.answer().endswith(b"hello")


def test_a_close_follows_what_was_sent_early(keeper: Keeper) -> None:
    keeper.ask("/", "Connection: close\r\n")
    keeper.send_early()
    assert keeper.answer().endswith(b"hello") and not keeper.connection.movable
    keeper.inline.answer()
    assert keeper.answer() == b""


def test_an_iterable_goes_on_behind_its_first_piece(keeper: Keeper) -> None:
    keeper.ask("/stream")
    keeper.send_early()
    assert not keeper.connection.movable
    first = keeper.answer()
    assert first.startswith(b"HTTP/1.1 200") and not first.endswith(b"0\r\n\r\n")
    keeper.inline.answer()
    keeper.until(lambda: keeper.connection.state is State.IDLE)
    assert keeper.answer().endswith(b"0\r\n\r\n")


def test_a_client_that_went_away(keeper: Keeper) -> None:
    keeper.ask("/")
    keeper.client.close()
    keeper.send_early()
    keeper.inline.answer()
    keeper.until(lambda: keeper.over)
    assert keeper.inline.done
