"""Load on a server from a process of its own, and what became of each request. Shell; pytest and the benchmarks."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tests.process.procs import Nursery
from tests.process.stock import REPOSITORY, environ


@dataclass(frozen=True, slots=True)
class Outcome:
    """Every request that was made. `samples` are (start, latency) in seconds of CLOCK_MONOTONIC."""

    samples: list[tuple[float, float]]
    releases: dict[str, int]
    failures: list[str]
    failed: int
    connects: int
    announced_closes: int
    idle_closes: int

    @property
    def requests(self) -> int:
        """How many got a response."""
        return len(self.samples)

    def latency_s(self, quantile: float, begin: float = 0.0, end: float = float("inf")) -> float:
        """Quantile (1.0 is the maximum) of the requests that were in flight between `begin` and `end`; 0 if none."""
        found = sorted(took for start, took in self.samples if start + took >= begin and start <= end)
        return found[min(len(found) - 1, int(len(found) * quantile))] if found else 0.0


class Load:
    """Clients that ask until `stop`, as a context manager: `with Load(...) as load: ...; load.stop()`."""

    def __init__(self, nursery: Nursery, address: str, **plan: Any) -> None:
        argv = [sys.executable, "-m", "tests.process.load_program", json.dumps({"address": address, **plan})]
        self._process = nursery.start(
            argv, cwd=REPOSITORY, env=environ(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        self._outcome: Outcome | None = None

    def __enter__(self) -> "Load":
        assert self._process.stdout is not None
        line = self._process.stdout.readline()  # pytest-timeout bounds it
        assert line == b"ready\n", f"the load generator said {line!r}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._outcome is None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def stop(self) -> Outcome:
        """Let the requests in flight finish; what became of all."""
        out, _ = self._process.communicate(timeout=60)
        fields = json.loads(out)
        fields["samples"] = [tuple(pair) for pair in fields["samples"]]
        self._outcome = Outcome(**fields)
        return self._outcome


def lost_nothing(outcome: Outcome) -> None:
    """No request failed and no kept connection was closed without a word."""
    assert outcome.requests > 0
    assert outcome.failed == 0, f"{outcome.failed} of {outcome.requests} failed: {os.linesep.join(outcome.failures)}"
    assert outcome.idle_closes == 0, f"{outcome.idle_closes} idle connections were closed unannounced"
