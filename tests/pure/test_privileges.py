"""`--user` and `--group`, up to the system calls that drop to them. What the server then is: tests/process."""

import os
import pwd
import subprocess
import sys

import pytest

from graceserve.errors import OperatorError
from graceserve.master.privileges import look_up
from tests.pure.release_tree import REPOSITORY

NOBODY = pwd.getpwnam("nobody")
UNUSED = 3_999_999_999  # no passwd entry
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_nothing_is_asked_for() -> None:
    assert look_up("", "") is None


@as_root
@pytest.mark.parametrize(
    ("user", "group", "ids"),
    [
        ("nobody", "", (NOBODY.pw_uid, NOBODY.pw_gid)),
        (str(NOBODY.pw_uid), "", (NOBODY.pw_uid, NOBODY.pw_gid)),
        ("nobody", "1", (NOBODY.pw_uid, 1)),
        (str(UNUSED), "5", (UNUSED, 5)),
        ("", "daemon", (0, 1)),
    ],
)
def test_names_and_numbers(user: str, group: str, ids: tuple[int, int]) -> None:
    assert look_up(user, group) == ids


@as_root
@pytest.mark.parametrize(
    ("user", "group", "refusal"),
    [
        ("nosuchuser", "", "--user nosuchuser: there is no such user"),
        ("nobody", "nosuchgroup", "--group nosuchgroup: there is no such group"),
        (str(UNUSED), "", f"--user {UNUSED}: no user has that number, so its group is not known; give --group, too"),
        (str(2**32 - 1), "1", f"--user {2**32 - 1}: no number can be so high"),  # it would stay root
        ("nobody", str(2**32 - 1), f"--group {2**32 - 1}: no number can be so high"),
        ("nobody", "9" * 5000, "--group 9999"),
    ],
)
def test_what_can_t_be_is_refused(user: str, group: str, refusal: str) -> None:
    with pytest.raises(OperatorError) as caught:
        look_up(user, group)
    assert str(caught.value).startswith(refusal) and "\n" not in str(caught.value)


@as_root
@pytest.mark.parametrize("lacks", ["setgid", "setuid"])
def test_root_without_the_capability_is_told(lacks: str) -> None:
    """As in a container that drops capabilities."""
    program = (
        "import sys\nfrom graceserve.errors import OperatorError\nfrom graceserve.master.privileges import drop\n"
        "try:\n    drop(int(sys.argv[1]), int(sys.argv[2]))\nexcept OperatorError as error:\n    print(error)\n"
    )
    command = ["setpriv", f"--bounding-set=-{lacks}", sys.executable, "-c", program, "65534", "65534"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("--user/--group: can't become uid 65534, gid 65534: Operation not permitted; grant")
    assert done.stdout.count("\n") == 1


@as_root
def test_a_number_without_an_entry_keeps_no_group_of_root_s() -> None:
    program = (
        "import os\nfrom graceserve.master.privileges import drop\n"
        f"drop({UNUSED}, 65534)\nprint(os.getresuid(), os.getresgid(), os.getgroups())\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == f"({UNUSED}, {UNUSED}, {UNUSED}) (65534, 65534, 65534) [65534]\n"
