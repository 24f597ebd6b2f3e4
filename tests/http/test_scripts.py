"""Connections move at random moments under clients that follow random scripts; no client can tell. See `scripts`."""

import pytest

from tests.http.scripts import DEEP, LARGE, QUICK, SLOW, Trial
from tests.http.sessions import Taste


@pytest.mark.parametrize(
    ("threads", "kind", "parser", "taste"),
    [
        (1, "tcp", "httptools", QUICK),
        (3, "tcp", "httptools", SLOW),
        (1, "unix", "h11", DEEP),
        (3, "unix", "httptools", LARGE),
    ],
    ids=["inline-quick", "threads-slow", "inline-deep", "threads-large"],
)
def test_generations_take_turns(threads: int, kind: str, parser: str, taste: Taste) -> None:
    trial = Trial(seed=1, how="hand-over", threads=threads, kind=kind, parser=parser, taste=taste, turns=3)
    assert trial.run().moves > 0


@pytest.mark.parametrize(
    ("how", "threads", "kind"),
    [("queue", 1, "tcp"), ("queue", 3, "unix"), ("reload", 1, "unix"), ("surge", 1, "tcp")],
)
def test_workers_share_one_queue(how: str, threads: int, kind: str) -> None:
    trial = Trial(
        seed=1, how=how, threads=threads, kind=kind, parser="httptools", taste=SLOW, clients=24, turns=2, seconds=1.5
    )
    assert trial.run().moves > 0
