"""Workers that a whole module of tests shares, one for each app and mode."""

from contextlib import ExitStack
from types import TracebackType
from typing import Any

from tests.http.harness import Stage, Worker, stage

MODES = {"inline": 1, "threads": 4}  # --threads


class Served:
    """A worker that accepts, and its listener."""

    def __init__(self, at: Stage, worker: Worker) -> None:
        self.at = at
        self.worker = worker
        self._told = 0

    def news(self) -> str:
        """What it has logged since this was asked last."""
        log = self.worker.log()
        new, self._told = log[self._told :], len(log)
        return new


class Crew:
    """Each worker is started when it is first asked for; all end together."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str], Served] = {}
        self._ends = ExitStack()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ends.close()

    def of(self, app: str, mode: str, **settings: Any) -> Served:
        """`settings` count at the first time."""
        if (app, mode) not in self._served:
            at = self._ends.enter_context(stage())
            worker = self._ends.enter_context(at.worker(app, threads=MODES[mode], **settings))
            self._served[app, mode] = Served(at, worker.accept())
        return self._served[app, mode]
