"""The one polling helper of the process tests. Shell; runs in pytest."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_S = 0.02


def eventually(look: Callable[[], T], timeout_s: float = 15.0, what: str = "") -> T:
    """The first truthy value of `look()`. Raises `AssertionError` after `timeout_s`, naming what was last seen.

    An `AssertionError` or `OSError` from `look` means "not yet"; the last one is told at the end.
    """
    deadline = time.monotonic() + timeout_s
    seen: object = None
    while True:
        try:
            value = look()
            if value:
                return value
            seen = value
        except (AssertionError, OSError) as error:
            seen = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or look}; last seen: {seen!r}")
        time.sleep(POLL_S)


def steadily(look: Callable[[], bool], for_s: float, what: str = "") -> None:
    """Fails as soon as `look()` is false within `for_s` seconds: for what must not happen."""
    deadline = time.monotonic() + for_s
    while time.monotonic() < deadline:
        assert look(), f"stopped to hold: {what or look}"
        time.sleep(POLL_S)
