"""`graceserve status`, process titles, and the examples of the README."""

import json
import os
import platform
import sys

import graceserve
from tests.process.conftest import Boot, Serve
from tests.process.procs import look_up
from tests.process.releases import Site
from tests.process.server import Launch
from tests.process.stock import REPOSITORY
from tests.process.web import free_address, get


def test_status(site: Site, boot: Boot) -> None:
    """As text and as JSON; the release is shown as the link and what it led to."""
    server = boot("--name", "shop")
    site.flip(site.release("42"))
    server.reload_ok()
    done = server.command("status", "--json")
    assert done.code == 0, done
    status = json.loads(done.out)
    assert status["pid"] == server.pid and status["name"] == "shop"
    assert (status["version"], status["python"]) == (graceserve.__version__, platform.python_version())
    assert status["listeners"] == [server.address]
    assert status["last_reload"]["outcome"] == "switched"
    (generation,) = status["generations"]
    assert generation["release"] == os.path.realpath(site.current)
    assert [worker["slot"] for worker in generation["workers"]] == [1, 2]
    text = server.command("status")
    assert text.code == 0 and "current -> releases/42" in text.out, text


def test_reload_prints_progress_and_phases(site: Site, boot: Boot) -> None:
    server = boot()
    site.flip(site.release("42"))
    done = server.reload_ok()
    assert "current -> releases/42" in done.out, done
    assert "generation 2" in done.out, done
    assert done.err == "", done


def test_titles(boot: Boot) -> None:
    """`ps` tells who is who."""
    server = boot("--name", "shop")
    titles = {proc.title for proc in server.processes()} | {getattr(look_up(server.pid), "title", "")}
    assert titles == {
        "graceserve: master [shop]", "graceserve: template gen 1 [shop]",
        "graceserve: worker 1 gen 1 [shop]", "graceserve: worker 2 gen 1 [shop]",
    }  # fmt: skip


def test_the_smallest_example(site: Site, serve: Serve) -> None:
    """`.venv/bin/graceserve --chdir examples hello:app`, from this repository."""
    address = free_address()
    tool = site.bare("tool", directory=site.path("tool"))
    argv = (tool.script, "--chdir", "examples", "hello:app", "--bind", address)
    server = serve(Launch(argv, REPOSITORY, REPOSITORY, address=address)).wait_ready()
    assert get(address, "/").text == "Hello from generation 1\n"
    server.reload_ok()
    assert get(address, "/").text == "Hello from generation 2\n"


def test_master_is_small(boot: Boot) -> None:
    """Below 20 MB resident (24 with Python 3.14, which is larger itself), and it loads neither the app nor uvloop."""
    server = boot()
    proc = look_up(server.pid)
    assert proc is not None and proc.rss_bytes < (20_000_000 if sys.version_info < (3, 14) else 24_000_000), proc
    assert proc.threads == 1
    with open(f"/proc/{server.pid}/maps", encoding="utf-8") as file:
        maps = file.read()
    assert "uvloop" not in maps and "libssl" not in maps
