"""`graceserve torture` against a real graceserve, which passes, and a server that does not, which is caught."""

import json
import shlex
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.process.conftest import Boot
from tests.process.procs import Nursery
from tests.process.releases import Site
from tests.process.server import Finished, finish
from tests.process.stock import REPOSITORY, environ
from tests.process.web import free_address

SHORT = ("--reloads", "2", "--interval", "0.2", "--steady", "0.5", "--slow-time", "0.2", "--rate", "20")
ALONE = ("--one-shot", "0", "--pipelined", "0", "--slow", "0", "--uploads", "0", "--keep-alive", "4")


def torture(nursery: Nursery, *words: str) -> "subprocess.Popen[bytes]":
    return nursery.start(
        [sys.executable, "-m", "graceserve", "torture", *words], cwd=REPOSITORY, env=environ(),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def toy(nursery: Nursery, *words: str) -> tuple["subprocess.Popen[bytes]", str]:
    """The toy server and its URL."""
    argv = [sys.executable, "-m", "tests.process.torture_toy", *words]
    process = nursery.start(argv, cwd=REPOSITORY, env=environ(), stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, f"http://127.0.0.1:{int(process.stdout.readline())}/"


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.communicate(timeout=10)


def report(done: Finished) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.out)
    return found


def summed(found: dict[str, Any], what: str) -> int:
    return sum(sum(kind[what].values()) for kind in found["clients"].values())


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_graceserve_passes(site: Site, boot: Boot, nursery: Nursery, kind: str) -> None:
    address = free_address() if kind == "tcp" else f"unix:{site.path('app.sock')}"
    server = boot("--threads", "2", address=address)
    url = f"http://{address}/version" if kind == "tcp" else f"{address}:/version"
    words = (url, "--upload-path", "/echo", "--pid", str(server.pid), *SHORT, "--json")
    done = finish(torture(nursery, *words))
    found = report(done)
    assert summed(found, "lost") == 0, done
    assert summed(found, "closed_announced") + summed(found, "closed_unannounced") == 0, done
    assert done.code == 0 and found["passed"] is True, done
    assert [verdict["ok"] for verdict in found["reloads"]] == [True, True]
    assert "switched to generation 3" in found["reloads"][-1]["text"]
    clients = {kind: (count["clients"], count["refused"]) for kind, count in found["clients"].items()}
    assert clients == {"keep-alive": (16, 0), "one-shot": (4, 0), "pipelined": (2, 0), "slow": (2, 0), "upload": (2, 0)}
    assert all(count["answered"]["during"] for count in found["clients"].values()), done
    kept = {kind: count["connections"] for kind, count in found["clients"].items() if kind != "one-shot"}
    assert kept == {"keep-alive": 16, "pipelined": 2, "slow": 2, "upload": 2}
    assert found["clients"]["one-shot"]["connections"] == found["clients"]["one-shot"]["requests"]
    server.wait_whole(3)


def test_a_command_that_reloads(boot: Boot, nursery: Nursery) -> None:
    """Its exit status is the verdict."""
    server = boot()
    url, command = f"http://{server.address}/version", [sys.executable, "-m", "graceserve", "reload", "--pid"]
    done = finish(torture(nursery, url, *ALONE, *SHORT, "--reload-command", shlex.join([*command, str(server.pid)])))
    assert "reload 2: exit 0: master" in done.out and "switched to generation 3" in done.out, done
    failed = finish(torture(nursery, url, *ALONE, *SHORT, "--reload-command", "echo no such unit; exit 5"))
    assert failed.code == 1 and "reload 2 FAILED: exit 5: no such unit" in failed.out, failed
    assert failed.out.endswith("NOT PASSED: 2 reloads failed\n")


def test_a_release_that_does_not_come_up(site: Site, boot: Boot, nursery: Nursery) -> None:
    """The reloads fail, nobody notices, and it is no proof of anything."""
    server = boot()
    site.flip(site.release("42", "raise RuntimeError('boom')"))
    done = finish(torture(nursery, f"http://{server.address}/", *ALONE, *SHORT, "--pid", str(server.pid)))
    assert done.code == 1 and done.out.endswith("NOT PASSED: 2 reloads failed\n"), done
    assert "reload 1 FAILED: reload failed, nothing has changed: " in done.out and "boom" in done.out


def test_pages_that_take_no_post(boot: Boot, nursery: Nursery) -> None:
    """A response is a response, and it is said."""
    server = boot()
    done = finish(torture(nursery, f"http://{server.address}/none", *SHORT, "--pid", str(server.pid)))
    assert done.code == 0, done
    assert "upload: " in done.out and "responses with a status of 4xx; they count as answers" in done.out


def test_a_server_that_behaves(nursery: Nursery) -> None:
    """By HUP, of which nobody tells how it went."""
    process, url = toy(nursery)
    done = finish(torture(nursery, url, *SHORT, "--pid", str(process.pid)))
    assert done.code == 0, done
    assert f"2 reloads of pid {process.pid}, by HUP; 0 failed or unknown: a HUP has no answer" in done.out
    end(process)


def test_every_misdeed_is_caught(nursery: Nursery) -> None:
    process, url = toy(nursery, "drop", "cut", "error", "announce", "drop", "hang")
    words = ("--reloads", "6", "--timeout", "3", "--pid", str(process.pid), "--json")
    done = finish(torture(nursery, url, *ALONE, *SHORT, *words))
    found = report(done)
    assert done.code == 1 and found["complaints"] == [
        "5 requests lost", "4 connections closed since the first reload"
    ], done  # fmt: skip
    kept = found["clients"]["keep-alive"]
    assert [kept[what]["during"] for what in ("lost", "closed_announced", "closed_unannounced")] == [4, 1, 3]
    assert [(one["reload"], one["why"].partition(",")[0]) for one in kept["examples_lost"]] == [
        (1, "closed before the answer"), (2, "closed after 2 bytes of the body of a response (200)"), (3, "status 503")
    ]  # fmt: skip
    assert [one["why"].partition(",")[0] for one in kept["examples_closed"]] == ["Connection: close"]
    assert kept["lost"]["after"] == 1  # the one that was given up, 3 s later
    assert kept["connections"] == 4 + 4  # a 503 closes nothing, and whoever hangs has no time for another connection
    end(process)


def test_idle_connections_that_are_closed(nursery: Nursery) -> None:
    process, url = toy(nursery, "idle")
    done = finish(torture(nursery, url, *ALONE, *SHORT, "--rate", "5", "--pid", str(process.pid), "--json"))
    kept = report(done)["clients"]["keep-alive"]
    assert done.code == 1 and kept["closed_unannounced"]["during"] == 4, done
    end(process)


def test_a_server_that_dies(nursery: Nursery) -> None:
    process, url = toy(nursery, "die")
    done = finish(torture(nursery, url, *ALONE, *SHORT, "--pid", str(process.pid), "--reloads", "5"))
    assert done.code == 1 and "connect: Connection refused" in done.out, done
    assert done.out.endswith(f"; the server (pid {process.pid}) is gone\n")
    assert "reload 2" not in done.out
    process.communicate(timeout=10)


def test_control_c_prints_what_was_seen(boot: Boot, nursery: Nursery) -> None:
    server = boot()
    words = (f"http://{server.address}/", "--pid", str(server.pid), "--steady", "0.3", "--interval", "60")
    process = torture(nursery, *words)
    assert process.stdout is not None
    while b"reload 1: switched" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    done = finish(process)
    assert done.code == 130 and done.err == "", done
    assert ", interrupted\n1 reload of graceserve master" in done.out and "so far: " in done.out
