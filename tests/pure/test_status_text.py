"""What the commands print, also of a master that says less or more than this version knows."""

from typing import Any

import pytest

from graceserve.status_text import status_text, told_text
from graceserve.wire.messages import Told

STATUS: dict[str, Any] = {
    "pid": 100, "version": "0.1.0", "python": "3.11.7", "name": "shop", "since_s": 7260.0, "generation": 7,
    "workers_wanted": 2, "listeners": ["127.0.0.1:8000", "unix:/run/app.sock"], "stopping": False,
    "generations": [
        {"generation": 6, "phase": "retiring", "release": "/srv/releases/41", "title": "current -> releases/41",
         "template_pid": 101, "age_s": 300.0, "python": "3.11.7", "workers": []},
        {"generation": 7, "phase": "serving", "release": "/srv/app", "age_s": 5.0, "workers": [
            {"worker": 3, "slot": 1, "pid": 103, "phase": "accepting", "age_s": 4.5, "rss_bytes": 31457280,
             "requests": 12, "connections": 3, "busy": 1},
            {"worker": 4, "slot": 2, "pid": 104, "phase": "accepting", "age_s": 8.0,
             "requests": 12, "connections": 3, "busy": 1, "answers": False},
            {"worker": 5, "slot": 3, "pid": 105, "phase": "accepting", "age_s": 1.0, "requests": 1, "answers": True},
        ]},
    ],
    "last_reload": {"outcome": "failed", "generation": 8, "at_s_ago": 61.0, "reason": "ImportError: no"},
}  # fmt: skip


def test_status() -> None:
    assert status_text(STATUS).splitlines() == [
        "master 100 [shop], graceserve 0.1.0, Python 3.11.7, up 2 h, workers wanted 2",
        "listening on 127.0.0.1:8000",
        "listening on unix:/run/app.sock",
        "generation 6, retiring, release current -> releases/41, Python 3.11.7, template 101, in this phase 5 min",
        "generation 7 *, serving, release /srv/app, in this phase 5.0 s",
        "  worker 1 (no. 3) pid 103, accepting, 30.0 MiB, requests 12, connections 3, busy 1, up 4.5 s",
        "  worker 2 (no. 4) pid 104, accepting, busy (does not answer), up 8.0 s",
        "  worker 3 (no. 5) pid 105, accepting, requests 1, up 1.0 s",
        "last reload: failed generation 8 61 s ago: ImportError: no",
    ]


@pytest.mark.parametrize(
    "status",
    [{}, {"pid": 1}, {"generations": [{}]}, {"generations": [{"workers": [{}]}], "last_reload": {}},
     {"generations": None, "listeners": None, "last_reload": None, "since_s": None, "future": {"a": []}}],
)  # fmt: skip
def test_whatever_is_missing_is_left_out(status: dict[str, Any]) -> None:
    assert status_text(status).startswith(f"master {status.get('pid', '?')}")


def test_switched() -> None:
    phases = {"template": 0.2, "workers": 1.234, "total": 1.5}
    out, err = told_text(Told("switched", 8, "current -> releases/42", phases=phases), "reload")
    assert out.splitlines() == [
        "switched to generation 8 (current -> releases/42) in 1.50 s",
        "  template 0.20 s, workers 1.23 s",
    ]
    assert err == ""


def test_failed_and_the_rest() -> None:
    out, err = told_text(Told("failed", 8, reason="ImportError: x", detail="Traceback\n  y\n"), "reload")
    assert (out, err) == ("", "reload failed, nothing has changed: ImportError: x\nTraceback\n  y")
    assert told_text(Told("superseded", 8, superseded_by=9), "reload")[1] == "reload superseded by generation 9"
    assert "stopping" in told_text(Told("stopped"), "rollback")[1]
    assert told_text(Told("invented", reason=""), "rollback")[1] == "rollback failed, nothing has changed: invented"
