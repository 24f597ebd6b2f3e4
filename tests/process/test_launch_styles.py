"""Pinned releases for all ways to launch: after the flip and a reload, everything comes from the new release."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.process.conftest import Serve
from tests.process.releases import Release, Site, bump_version, replace_file, write_script
from tests.process.server import OPTIONS, Launch, Server
from tests.process.stock import Stock, run_pip
from tests.process.waiting import eventually
from tests.process.web import free_address


@dataclass(frozen=True, slots=True)
class Style:
    """How it is typed. `venv`: the name of each release's venv."""

    launch: Callable[[Site, str], Launch]
    venv: str = "venv"
    trampoline: bool = False


def _in(cwd: str, address: str, argv: tuple[str, ...], pwd: str = "", **env: str) -> Launch:
    return Launch((*argv, "app:application", "--bind", address, *OPTIONS), cwd, pwd, env, address)


def _path(site: Site) -> str:
    return f"{site.current}/venv/bin:{os.environ['PATH']}"


def _script(site: Site) -> tuple[str, ...]:
    return (f"{site.current}/venv/bin/graceserve",)


def _module(site: Site, *flags: str) -> tuple[str, ...]:
    return (f"{site.current}/venv/bin/python", *flags, "-m", "graceserve")


def _tool(site: Site) -> str:
    """A graceserve outside of the releases, as pipx or the system would have it; returns its bin directory."""
    tool = Release("tool", site.path("tool"), site.path("tool", "venv"))
    if not os.path.exists(tool.python):
        site.bare("tool", directory=tool.directory)
    return os.path.dirname(tool.python)


def _local_bin(site: Site) -> str:
    """A symlink to the script of the current release, as `~/.local/bin/graceserve`."""
    os.makedirs(site.path("bin"), exist_ok=True)
    site.link(site.path("bin", "graceserve"), f"{site.current}/venv/bin/graceserve")
    return site.path("bin", "graceserve")


STYLES: dict[str, Style] = {
    "script, PWD": Style(lambda s, a: _in(s.current, a, _script(s), pwd=s.current)),
    "script, no PWD (systemd)": Style(lambda s, a: _in(s.current, a, _script(s))),
    "script, lying PWD": Style(lambda s, a: _in(s.current, a, _script(s), pwd="/usr")),
    "script, physical PWD": Style(lambda s, a: _in(s.current, a, _script(s), pwd=os.path.realpath(s.current))),
    "relative script": Style(lambda s, a: _in(s.current, a, ("venv/bin/graceserve",), pwd=s.current)),
    "relative script, no PWD, below site": Style(
        lambda s, a: _in(s.root, a, ("current/venv/bin/graceserve", "--chdir", "current"))
    ),
    "sh -c cd": Style(
        lambda s, a: Launch(
            ("sh", "-c", f"cd {s.current} && exec venv/bin/graceserve app:application --bind {a} {' '.join(OPTIONS)}"),
            cwd="/",
            address=a,
        )
    ),
    "python -m, PWD": Style(lambda s, a: _in(s.current, a, _module(s), pwd=s.current)),
    "python -m, no PWD": Style(lambda s, a: _in(s.current, a, _module(s))),
    "python -m with flags": Style(
        lambda s, a: _in(s.current, a, _module(s, "-X", "dev", "-O", "-W", "error::UserWarning"), pwd=s.current)
    ),
    "python script": Style(
        lambda s, a: _in(s.current, a, (f"{s.current}/venv/bin/python", *_script(s)), pwd=s.current)
    ),
    "bare name on PATH": Style(lambda s, a: _in(s.current, a, ("graceserve",), pwd=s.current, PATH=_path(s))),
    "bare name on PATH, no PWD": Style(lambda s, a: _in(s.current, a, ("graceserve",), PATH=_path(s))),
    "bare python on PATH": Style(
        lambda s, a: _in(s.current, a, ("python", "-m", "graceserve"), pwd=s.current, PATH=_path(s))
    ),
    "--chdir link": Style(lambda s, a: _in("/", a, (*_script(s), "--chdir", s.current))),
    "--chdir link, python -m": Style(lambda s, a: _in("/", a, (*_module(s), "--chdir", s.current))),
    "--chdir relative": Style(lambda s, a: _in(s.root, a, (*_script(s), "--chdir", "current"), pwd=s.root)),
    "--release": Style(lambda s, a: _in("/", a, (f"{_tool(s)}/graceserve", "--release", s.current))),
    "--release --python": Style(
        lambda s, a: _in(
            "/", a, (f"{_tool(s)}/python", "-m", "graceserve", "--release", s.current, "--python", "env/bin/python")
        ),
        venv="env",
    ),
    "--release, .venv": Style(
        lambda s, a: _in("/", a, (f"{_tool(s)}/graceserve", "--release", s.current)), venv=".venv"
    ),
    "--release relative": Style(lambda s, a: _in(s.root, a, (f"{_tool(s)}/graceserve", "--release", "current"))),
    "symlink to the script": Style(lambda s, a: _in(s.current, a, (_local_bin(s),), pwd=s.current)),
    "trampoline script (uv, long paths)": Style(
        lambda s, a: _in(s.current, a, _script(s), pwd=s.current), trampoline=True
    ),
    "trampoline, no PWD": Style(lambda s, a: _in(s.current, a, _script(s)), trampoline=True),
}


@pytest.mark.parametrize("name", STYLES)
def test_reload_follows_the_link(site: Site, serve: Serve, name: str) -> None:
    style = STYLES[name]
    old, new = (_release(site, number, style) for number in ("41", "42"))
    site.flip(old)
    server = serve(style.launch(site, free_address())).wait_ready()
    all_from(server, old)
    site.flip(new)
    done = server.reload_ok()
    all_from(server, new)
    assert "current -> releases/42" in done.text or "releases/42" in server.log


def test_flags_are_kept(site: Site, serve: Serve) -> None:
    """Interpreter flags hold for the next release too."""
    style = STYLES["python -m with flags"]
    old, new = (_release(site, number, style) for number in ("41", "42"))
    site.flip(old)
    server = serve(style.launch(site, free_address())).wait_ready()
    assert server.version()["flags"] == [1, True]
    site.flip(new)
    server.reload_ok()
    assert server.version()["flags"] == [1, True]


def test_a_link_of_links(site: Site, serve: Serve) -> None:
    """current -> stable -> releases/N."""
    old, new = site.release("41"), site.release("42")
    site.flip("stable")
    site.link(site.path("stable"), "releases/41")
    server = serve(STYLES["script, PWD"].launch(site, free_address())).wait_ready()
    all_from(server, old)
    site.link(site.path("stable"), "releases/42")
    server.reload_ok()
    all_from(server, new)


def test_in_place(site: Site, serve: Serve) -> None:
    """No link at all: the code is edited where it is."""
    release = site.release("41")
    address = free_address()
    server = serve(_in(release.directory, address, (release.script,), pwd=release.directory)).wait_ready()
    all_from(server, release)
    path = os.path.join(release.directory, "app.py")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    replace_file(path, text.replace("RELEASE = '41'", "RELEASE = '41 edited'"))
    server.reload_ok()
    assert server.version()["release"] == "41 edited"


@pytest.mark.parametrize("made_by", ["pip", "virtualenv", "uv"])
def test_venvs_of_other_tools(site: Site, serve: Serve, stock: Stock, wheel: str, made_by: str) -> None:
    """A script that pip itself wrote into the release; the interpreter links of virtualenv and uv."""
    releases = [site.release(number) for number in ("41", "42")]
    for release in releases:
        _dress(release, made_by, wheel)
    site.flip(releases[0])
    server = serve(_in(site.current, free_address(), _script(site), pwd=site.current)).wait_ready()
    assert server.version()["library"] == "41"
    site.flip(releases[1])
    server.reload_ok()
    facts = server.version()
    assert (facts["library"], facts["prefix"]) == ("42", releases[1].venv)


def test_another_python(site: Site, serve: Serve, other_stock: Stock) -> None:
    """Two Python versions, there and back."""
    old, new = site.release("41"), site.release("42", stock=other_stock)
    site.flip(old)
    server = serve(_in(site.current, free_address(), _script(site), pwd=site.current)).wait_ready()
    for release, minor in ((new, other_stock.minor), (old, site.stock.minor)):
        site.flip(release)
        server.reload_ok()
        all_from(server, release)
        assert server.version()["python"] == minor


def test_another_graceserve(site: Site, serve: Serve) -> None:
    """Two graceserve versions."""
    old, new = site.release("41"), site.release("42")
    bump_version(new, "99.0")
    site.flip(old)
    server = serve(_in(site.current, free_address(), _script(site), pwd=site.current)).wait_ready()
    site.flip(new)
    server.reload_ok()
    all_from(server, new)
    assert server.status()["version"] == "99.0"


@pytest.mark.parametrize("preload", [False, True], ids=["workers", "preload"])
def test_lazy_imports_stay_in_their_release(site: Site, serve: Serve, preload: bool) -> None:
    """After the flip, before a reload: lazy imports come from 41, also in a worker that replaces a killed one."""
    site.flip(site.release("41"))
    options = ("--preload",) if preload else ()
    server = serve(_in(site.current, free_address(), (*_script(site), *options), pwd=site.current)).wait_ready()
    site.flip(site.release("42"))
    victims = server.worker_pids()
    os.kill(victims[0], 9)
    _replaced(server, victims[0])
    seen: dict[int, tuple[str, str]] = {}
    while set(seen) != set(server.worker_pids()):  # until each worker, old and replaced, has answered
        facts = server.get("/lazy").json
        seen[facts["pid"]] = (facts["release"], facts["library"])
    assert set(seen.values()) == {("41", "41")}
    assert server.version()["release"] == "41"


def all_from(server: Server, release: Release) -> None:
    """Code, libraries, interpreter, working directory and sys.path are all of this release."""
    facts = server.version()
    assert facts["release"] == facts["library"] == release.name, facts
    assert facts["prefix"] == release.venv, facts
    assert os.path.dirname(facts["executable"]) == os.path.dirname(release.python), facts
    assert facts["cwd"] == facts["path0"] == os.path.dirname(facts["file"]) == release.directory, facts


def _replaced(server: Server, victim: int) -> None:
    eventually(lambda: victim not in server.worker_pids(), what=f"worker {victim} is replaced")
    server.wait_whole()


def _release(site: Site, number: str, style: Style) -> Release:
    release = site.release(number, venv=style.venv)
    write_script(release, site.stock, style.trampoline)
    return release


def _dress(release: Release, made_by: str, wheel: str) -> None:
    if made_by == "pip":
        os.unlink(release.script)
        run_pip("--python", release.python, "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", wheel)
        first = subprocess.run(["head", "-n", "1", release.script], capture_output=True, text=True, check=True).stdout
        assert first.strip() == f"#!{release.python}"
    elif made_by == "virtualenv":  # bin/python3 -> python, python -> the base interpreter, absolute
        base = os.path.realpath(release.python)
        os.unlink(release.python)
        os.symlink(base, release.python)
    else:  # uv: bin/python -> the base interpreter, the script's first line names python3
        with open(release.script, encoding="utf-8") as file:
            text = file.read()
        replace_file(release.script, text.replace(release.python, release.python + "3", 1))
        os.chmod(release.script, 0o755)
