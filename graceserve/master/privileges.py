"""Dropping to `--user` and `--group`, for good. Shell; the master does it once, after it has bound."""

import grp
import os
import pwd

from graceserve.errors import OperatorError


def look_up(user: str, group: str) -> tuple[int, int] | None:
    """(uid, gid) to run as; None when neither is given. Names or numbers. Raises `OperatorError`."""
    if not user and not group:
        return None
    uid, gid = os.geteuid(), os.getegid()
    if user:
        entry = _user(user)
        uid, gid = entry if entry else (int(user), gid)
    if group:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise OperatorError(f"--group {group}: there is no such group") from None
    if os.geteuid() != 0 and (uid, gid) != (os.geteuid(), os.getegid()):
        raise OperatorError("--user/--group: only root can change user; start as root, or leave them out")
    return uid, gid


def _user(user: str) -> tuple[int, int] | None:
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            return None
        raise OperatorError(f"--user {user}: there is no such user") from None
    return entry.pw_uid, entry.pw_gid


def drop(uid: int, gid: int) -> None:
    """Become them, with their supplementary groups. Nothing leads back."""
    if os.geteuid() != 0:
        return
    try:
        os.initgroups(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
