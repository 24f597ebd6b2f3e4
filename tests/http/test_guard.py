"""The guard notices every long call, at whatever moment the two threads take turns."""

import subprocess
import sys

import pytest

from tests.http.guard_program import SCENARIOS


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_guard(scenario: str) -> None:
    command = [sys.executable, "-m", "tests.http.guard_program", scenario]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
