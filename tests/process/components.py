"""Programs that the tests need and pip can't bring. Shell; runs in pytest.

On a developer's machine a missing one skips the test and says so; with `CI=true` it is a failure.
"""

import glob
import os
import shutil
import subprocess
import sys

import pytest


def require(program: str, package: str) -> str:
    """The program's path; `package` is the Debian package that has it."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    return path or missing(f"{program} is not installed (apt-get install {package})")


def missing(what: str) -> str:
    """Skip, or fail where the suite must be complete."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true and {what}", pytrace=False)
    pytest.skip(what)


def other_python() -> str:
    """An interpreter >= 3.11 of another minor version than the one that runs pytest."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for minor in ("3.13", "3.12", "3.14", "3.11"):
        found = _interpreter(minor) if minor != here else None
        if found is not None:
            return found
    return missing("no second Python >= 3.11 is installed (~/.pyenv/versions, PATH)")


def open_python() -> str:
    """An interpreter that every user may run (pyenv's under /root is none), so that the server can drop privileges."""
    for path in (os.path.realpath(sys.executable), *(f"/usr/bin/python3.{minor}" for minor in range(11, 15))):
        if _for_everybody(path):
            return path
    return missing("no Python >= 3.11 that other users may run (apt-get install python3 python3-venv)")


def _for_everybody(path: str) -> bool:
    """Whether others may execute it, and enter each directory on the way."""
    if not os.access(path, os.X_OK):
        return False
    while path != "/" and os.stat(path).st_mode & 0o001:
        path = os.path.dirname(path)
    return path == "/"


def _interpreter(minor: str) -> str | None:
    candidates = sorted(glob.glob(os.path.expanduser(f"~/.pyenv/versions/{minor}.*/bin/python{minor}")))
    candidates += [f"/usr/bin/python{minor}", f"/usr/local/bin/python{minor}"]
    for path in candidates:
        if os.access(path, os.X_OK) and subprocess.run([path, "-c", "import venv"], check=False).returncode == 0:
            return path
    return None
