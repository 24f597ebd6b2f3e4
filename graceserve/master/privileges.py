"""Dropping to `--user` and `--group`, for good. Shell; the master does it once, after it has bound."""

import grp
import os
import pwd

from graceserve.errors import OperatorError

_ID_MAX = 2**32 - 2  # the number above is (uid_t)-1, which setresuid(2) takes for "leave it as it is"


def look_up(user: str, group: str) -> tuple[int, int] | None:
    """(uid, gid) to run as; None when neither is given. Names or numbers. Raises `OperatorError`."""
    if not user and not group:
        return None
    uid, gid = os.geteuid(), os.getegid()
    if user:
        entry = _user(user)
        if entry is None and not group and os.geteuid() == 0:  # its own group would be root's
            raise OperatorError(f"--user {user}: no user has that number, so its group is not known; give --group, too")
        uid, gid = entry if entry else (int(user), gid)
    if group:
        gid = _group(group)
    if os.geteuid() != 0 and (uid, gid) != (os.geteuid(), os.getegid()):
        raise OperatorError("--user/--group: only root can change user; start as root, or leave them out")
    return uid, gid


def _user(user: str) -> tuple[int, int] | None:
    try:
        entry = pwd.getpwuid(_number(user, "--user")) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            return None
        raise OperatorError(f"--user {user}: there is no such user") from None
    return entry.pw_uid, entry.pw_gid


def _group(group: str) -> int:
    try:
        return _number(group, "--group") if group.isdecimal() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise OperatorError(f"--group {group}: there is no such group") from None


def _number(text: str, flag: str) -> int:
    if len(text) > 10 or int(text) > _ID_MAX:
        raise OperatorError(f"{flag} {text}: no number can be so high; give one up to {_ID_MAX}")
    return int(text)


def drop(uid: int, gid: int) -> None:
    """Become them, with their supplementary groups. Nothing leads back. Raises `OperatorError`."""
    if os.geteuid() != 0:
        return
    try:
        try:
            os.initgroups(pwd.getpwuid(uid).pw_name, gid)
        except KeyError:
            os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:  # in a container that lacks the capabilities, or has no such number
        raise OperatorError(
            f"--user/--group: can't become uid {uid}, gid {gid}: {error.strerror}; "
            "grant CAP_SETUID and CAP_SETGID, or start as that user and leave them out"
        ) from None
