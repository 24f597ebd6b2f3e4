"""Name of a master's control socket. Shell (asks /proc); used by the master to bind and by the client to connect.

It is in the abstract namespace (unix(7)): no file, nothing to clean up, works on a read-only system. That namespace
belongs to the network namespace, which containers may share while each has pids of its own; so the pid namespace is
part of the name.
"""

import os

PREFIX = "graceserve"


def abstract_name(pid: int) -> str:
    """For `socket.bind` and `connect`: a NUL, then what /proc/net/unix shows behind an `@`."""
    return f"\0{PREFIX}/{pid_namespace()}/{pid}"


def pid_namespace() -> int:
    """Number of this process's pid namespace; 0 where /proc is not mounted."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def listed_pids(proc_net_unix: str) -> list[int]:
    """The pids of the masters of this pid namespace, from the text of /proc/net/unix."""
    beginning = f"@{PREFIX}/{pid_namespace()}/"
    names = (line.rpartition(" ")[2] for line in proc_net_unix.splitlines())
    found = {name.removeprefix(beginning) for name in names if name.startswith(beginning)}
    return sorted(int(pid) for pid in found if pid.isascii() and pid.isdecimal())
