"""Which process has which TCP connection of a server. Shell; runs in pytest and the benchmarks.

A connection is named by the port of the client's end. What a process has is looked up by borrowing its descriptors
(pidfd_getfd(2): some tens of microseconds each), or, where that is not allowed, in proc(5), which takes some 20 ms.
"""

import ctypes
import os
import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

from tests.process.procs import fds
from tests.process.server import Server

PIDFD_GETFD = 438  # the number is the same on all architectures; Python has no function for it
_libc = ctypes.CDLL(None, use_errno=True)


def held(pid: int, address: str) -> set[int]:
    """The ports of those connections to `address` that this process has. Raises as `os.pidfd_open` if it is gone."""
    inodes = {fd: int(what[8:-1]) for fd, what in fds(pid).items() if what.startswith("socket:[")}
    pidfd = os.pidfd_open(pid)
    try:
        return set(_borrowed(pidfd, list(inodes), _port(address)))
    except PermissionError:
        ends = server_ends(address)
        return {ends[inode] for inode in inodes.values() if inode in ends}
    finally:
        os.close(pidfd)


def held_by_workers(server: Server) -> Counter[int]:
    """The clients' ports, and how many of the serving workers have that connection."""
    return Counter(port for pid in server.worker_pids() for port in held(pid, server.address))


def server_ends(address: str) -> dict[int, int]:
    """The server's ends of the connections to `address`: inode -> port of the client's end. From proc(5).

    One that nobody has accepted yet has no inode.
    """
    wanted = f":{_port(address):04X}"
    found = {}
    with open("/proc/net/tcp", encoding="ascii") as file:
        for line in file:
            words = line.split()
            if words[1].endswith(wanted) and words[9] != "0" and not words[2].endswith(":0000"):
                found[int(words[9])] = int(words[2].rsplit(":", 1)[1], 16)
    return found


def _borrowed(pidfd: int, numbers: list[int], port: int) -> Iterator[int]:
    """Raises `PermissionError`; a descriptor that has been closed meanwhile is passed over."""
    for number in numbers:
        fd = _libc.syscall(PIDFD_GETFD, pidfd, number, 0)
        if fd < 0:
            code = ctypes.get_errno()
            if code in (1, 38):  # EPERM; ENOSYS, what some sandboxes say
                raise PermissionError(code, "pidfd_getfd")
            continue
        with socket.socket(fileno=fd) as sock, suppress(OSError):  # ENOTCONN: a listener, or a client that is gone
            if sock.family == socket.AF_INET and sock.getsockname()[1] == port:
                yield sock.getpeername()[1]


def _port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])
