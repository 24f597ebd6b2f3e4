"""Listening sockets over the real kernel: modes, stale files, live ones, inherited descriptors."""

import os
import socket
import stat
from pathlib import Path

import pytest

from graceserve.errors import OperatorError
from graceserve.master.listeners import Listeners
from graceserve.master.pidfile import PidFile


def connects(address: str) -> bool:
    family, target = (
        (socket.AF_UNIX, address.removeprefix("unix:"))
        if address.startswith("unix:")
        else (socket.AF_INET, (address.rpartition(":")[0], int(address.rpartition(":")[2])))
    )
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        return sock.connect_ex(target) == 0


def test_several_at_once_and_closing_what_is_not_kept(tmp_path: Path) -> None:
    listeners = Listeners()
    path = f"unix:{tmp_path}/a.sock"
    assert listeners.open(["127.0.0.1:0", path], 0o077) == ("127.0.0.1:0", path)
    tcp, unix = (it.address for it in listeners.all())
    assert connects(tcp) and connects(unix)
    assert [it.name for it in listeners.keep([path])] == ["127.0.0.1:0"]
    assert not connects(tcp) and connects(unix)
    listeners.keep(())
    assert not os.path.exists(tmp_path / "a.sock")


def test_opening_again_keeps_the_same_socket() -> None:
    listeners = Listeners()
    listeners.open(["127.0.0.1:0"], 0)
    before = listeners.all()
    listeners.open(["127.0.0.1:0"], 0)
    assert listeners.all() == before
    listeners.keep(())


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o777), (0o007, 0o770), (0o077, 0o700)])
def test_umask_decides_who_may_connect(tmp_path: Path, umask: int, mode: int) -> None:
    listeners = Listeners()
    listeners.open([f"unix:{tmp_path}/a.sock"], umask)
    assert stat.S_IMODE(os.stat(tmp_path / "a.sock").st_mode) == mode
    listeners.keep(())


def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(path)
        sock.listen()
    listeners = Listeners()
    listeners.open([f"unix:{path}"], 0)
    assert connects(f"unix:{path}")
    listeners.keep(())


def test_a_live_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    first, second = Listeners(), Listeners()
    bind = f"unix:{tmp_path}/a.sock"
    first.open([bind], 0)
    with pytest.raises(OperatorError, match="another server listens there"):
        second.open([bind], 0)
    assert connects(bind)
    first.keep(())


def test_a_file_that_is_no_socket_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("precious")
    with pytest.raises(OperatorError, match="not a socket"):
        Listeners().open([f"unix:{tmp_path}/data"], 0)
    assert (tmp_path / "data").read_text() == "precious"


def test_our_file_replaced_by_another_server_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    first, second = Listeners(), Listeners()
    first.open([f"unix:{path}"], 0)
    path.unlink()
    second.open([f"unix:{path}"], 0)
    first.keep(())
    assert connects(f"unix:{path}")
    second.keep(())


def test_one_bad_bind_leaves_nothing_bound(tmp_path: Path) -> None:
    listeners = Listeners()
    taken = Listeners()
    taken.open(["127.0.0.1:0"], 0)
    address = taken.all()[0].address
    with pytest.raises(OperatorError, match=f"--bind {address}: the address is in use"):
        listeners.open([f"unix:{tmp_path}/a.sock", address], 0)
    assert listeners.all() == []
    assert not os.path.exists(tmp_path / "a.sock")
    taken.keep(())


def test_a_descriptor_is_taken_over_and_not_inherited_further() -> None:
    sock = socket.create_server(("127.0.0.1", 0))
    fd = sock.detach()
    os.set_inheritable(fd, True)
    listeners = Listeners()
    listeners.open([f"fd://{fd}"], 0)
    assert connects(listeners.all()[0].address)
    assert not os.get_inheritable(fd)
    listeners.keep(())


@pytest.mark.parametrize("kind", ["closed", "file", "datagram"])
def test_a_descriptor_that_can_not_listen(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    fd = {"closed": 999, "file": os.open(tmp_path / "file", os.O_RDONLY), "datagram": sock.fileno()}[kind]
    with pytest.raises(OperatorError, match=f"--bind fd://{fd}: descriptor {fd} is not a"):
        Listeners().open([f"fd://{fd}"], 0)
    sock.detach() if kind == "datagram" else sock.close()


def test_pid_file_is_held_and_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "pid")
    held = PidFile.take(path)
    assert Path(path).read_text() == f"{os.getpid()}\n"
    with pytest.raises(OperatorError, match=f"pid {os.getpid()}"):
        PidFile.take(path)
    assert Path(path).read_text() == f"{os.getpid()}\n"
    held.remove()
    assert not os.path.exists(path)


def test_a_stale_pid_file_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("1\nleft by a crash, and pid 1 is alive")
    PidFile.take(str(tmp_path / "pid")).remove()


def test_a_pid_file_where_there_is_no_directory() -> None:
    with pytest.raises(OperatorError, match="--pid /nowhere/pid"):
        PidFile.take("/nowhere/pid")
