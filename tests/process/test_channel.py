"""Channels over the real kernel: order, descriptors, end-of-file, a full buffer."""

import os
import socket
from collections.abc import Iterator

import pytest

from graceserve.errors import WireError
from graceserve.wire import messages as m
from graceserve.wire.channel import FDS_MAX, Channel


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    left, right = Channel.pair()
    yield left, right
    left.close()
    right.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """A sender of anything, and the channel that has to take it."""
    sock, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(other)
    yield sock, channel
    sock.close()
    channel.close()


def test_messages_arrive_in_order_and_then_end_of_file(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    assert left.send(m.Ping()) and left.send(m.Accept())
    left.close()
    assert right.receive() == (m.Ping(), [])
    assert right.receive() == (m.Accept(), [])
    assert right.receive() is None


def test_nothing_there_is_blocking_io_error(pair: tuple[Channel, Channel]) -> None:
    _left, right = pair
    with pytest.raises(BlockingIOError):
        right.receive()


def test_descriptors_travel_and_are_close_on_exec(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    read_fd, write_fd = os.pipe()
    assert left.send(m.Fork(1, 1), [write_fd, write_fd])
    os.close(write_fd)
    received = right.receive()
    assert received is not None
    message, fds = received
    assert message == m.Fork(1, 1)
    assert [os.get_inheritable(fd) for fd in fds] == [False, False]
    os.write(fds[0], b"x")
    assert os.read(read_fd, 9) == b"x"
    for fd in (read_fd, *fds):
        os.close(fd)


def test_a_full_buffer_and_a_dead_peer_are_told_not_raised(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    sent = 0
    while left.send(m.Progress("x" * 1000)):
        sent += 1
        assert sent < 10_000
    assert sent > 10
    right.close()
    assert not left.send(m.Ping())
    left.close()
    assert not left.send(m.Ping())


def test_a_peer_that_died_with_unread_messages_is_end_of_file(pair: tuple[Channel, Channel]) -> None:
    left, right = pair
    assert right.send(m.Ping())
    left.close()
    assert right.receive() is None


def test_last_words_come_before_the_end_of_file(pair: tuple[Channel, Channel]) -> None:
    """A child that dies without having read our messages has still said why."""
    left, right = pair
    assert right.send(m.Ping())
    assert left.send(m.ExecFailed("no such file"))
    left.close()
    assert right.receive() == (m.ExecFailed("no such file"), [])
    assert right.receive() is None


def test_noise_is_a_wire_error_and_its_descriptors_are_closed(raw: tuple[socket.socket, Channel]) -> None:
    sock, channel = raw
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(sock, [b"noise"], [0, 1])
    with pytest.raises(WireError):
        channel.receive()
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_descriptors_than_a_message_may_carry(raw: tuple[socket.socket, Channel]) -> None:
    sock, channel = raw
    before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(sock, [m.encode(m.Ping())], [0] * (FDS_MAX + 10))
    with pytest.raises(WireError):
        channel.receive()
    assert len(os.listdir("/proc/self/fd")) == before
