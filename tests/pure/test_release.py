"""Pinning: one resolution a reload, whatever is flipped meanwhile; what is broken is named with its fix."""

import json
from pathlib import Path

import pytest

from graceserve.errors import OperatorError
from graceserve.files import RealFiles
from graceserve.release import Launch, Pin, Resolver, read_release, verify
from tests.pure.release_tree import Tree, pinned


class Flipping(RealFiles):
    """Flips the link right after it was read for the first time, and counts the reads of each symlink."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.reads: dict[str, int] = {}

    def readlink(self, path: str) -> str | None:
        target = super().readlink(path)
        if target is not None:
            self.reads[path] = self.reads.get(path, 0) + 1
        if path == str(self.tree.current):
            self.tree.flip("42")
        return target


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "app")


def launch_of(tree: Tree, *argv: str, cwd: str | Path = "", module: bool = False, interpreter: str = "") -> Launch:
    """As from `current/venv/bin/graceserve`, or `python -m graceserve`, in `current`."""
    return Launch(
        interpreter=interpreter or str(tree.current / "venv/bin/python"),
        script="" if module else str(tree.current / "venv/bin/graceserve"),
        beside=not module,
        cwd=str(cwd or tree.current),
        argv=argv,
    )


LAUNCHES: list[tuple[tuple[str, ...], str, bool]] = [
    ((), "current", False),
    ((), "current", True),
    (("--chdir", "current"), "", False),
    (("--release", "current"), "", True),
    (("--release", "current", "--python", "venv/bin/python3"), "", True),
    (("--python", "venv/bin/python3"), "current", True),
    (("-c", "graceserve.toml"), "current", False),
]


@pytest.mark.parametrize(("argv", "cwd", "module"), LAUNCHES, ids=str)
def test_a_flip_in_the_middle_gives_one_release(tree: Tree, argv: tuple[str, ...], cwd: str, module: bool) -> None:
    files = Flipping(tree)
    settings, pin = read_release(launch_of(tree, *argv, cwd=tree.root / cwd, module=module), {}, files)
    old = str(tree.release("41"))
    assert tree.current.resolve() == tree.release("42")  # it was flipped
    assert settings.name == "toml-41"
    assert (pin.cwd, pin.release, pin.config) == (old, old, f"{old}/graceserve.toml")
    assert pin.python.startswith(f"{old}/venv/bin/python")
    assert files.reads[str(tree.current)] == 1
    assert set(files.reads.values()) == {1}


def test_settings_paths(tree: Tree) -> None:
    argv = ["a:b", "--pid", "run/app.pid", "--control-socket", "ctl", "--log-file", "app.log", "--env-file", ".env",
            "-b", "unix:run/a.sock", "-b", "unix:///run/b.sock", "-b", ":1"]  # fmt: skip
    settings, _ = read_release(launch_of(tree, *argv, cwd=tree.root), {}, RealFiles())
    root = str(tree.root)
    assert settings.pid == f"{root}/run/app.pid"
    assert settings.control_socket == f"{root}/ctl"
    assert settings.error_logfile == f"{root}/app.log"
    assert settings.bind == (f"unix:{root}/run/a.sock", "unix:/run/b.sock", ":1")
    assert settings.env_file == f"{root}/.env"
    chdir = read_release(launch_of(tree, *argv, "--chdir", "current", cwd=tree.root), {}, RealFiles())[0]
    assert chdir.env_file == f"{tree.release('41')}/.env"  # belongs to the release
    assert chdir.pid == settings.pid  # does not


def test_no_paths_stay_none(tree: Tree) -> None:
    settings, _ = read_release(launch_of(tree), {}, RealFiles())
    assert (settings.pid, settings.control_socket, settings.error_logfile, settings.env_file) == ("", "", "-", "")


def test_the_environment_s_options_count(tree: Tree) -> None:
    environ = {"GRACESERVE_CHDIR": str(tree.current), "PORT": "81"}
    settings, pin = read_release(launch_of(tree, cwd="/"), environ, RealFiles())
    assert (settings.bind, pin.cwd) == (("0.0.0.0:81",), str(tree.release("41")))


def test_chdir_from_the_config_file(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "etc.toml").write_text(f'app = "a:b"\nchdir = "{tree.current}"\n')
    launch = launch_of(tree, "-c", str(tmp_path / "etc.toml"), cwd="/")
    assert pinned(launch).cwd == str(tree.release("41"))
    tree.flip("42")
    assert pinned(launch).cwd == str(tree.release("42"))
    assert pinned(launch).config == str(tmp_path / "etc.toml")


def test_a_config_file_that_is_a_symlink_is_read_through(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "shared.toml").write_text('app = "a:b"\nworkers = 5\n')
    config = tree.release("41") / "graceserve.toml"
    config.unlink()
    config.symlink_to(tmp_path / "shared.toml")
    settings, pin = read_release(launch_of(tree), {}, RealFiles())
    assert (settings.workers, pin.config) == (5, str(config))


def test_no_config_file(tree: Tree) -> None:
    (tree.release("41") / "graceserve.toml").unlink()
    assert pinned(launch_of(tree, "a:b")).config == ""


def refusal(launch: Launch) -> str:
    with pytest.raises(OperatorError) as caught:
        read_release(launch, {}, RealFiles())
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_dangling_link(tree: Tree) -> None:
    tree.flip("43")
    missing = f"{tree.current} -> {tree.release('43')}"
    for launch in (launch_of(tree), launch_of(tree, "a:b", "--chdir", str(tree.current), cwd="/")):
        assert f"{missing}: there is no such directory; point the link at" in refusal(launch)
    text = refusal(launch_of(tree, "--release", "current", cwd=tree.root))
    assert text.startswith(f"--release {missing}: there is no such directory")
    text = refusal(launch_of(tree, "a:b", cwd="/"))
    name = "venv/bin/graceserve"
    assert text.startswith(f"{tree.current}/{name} -> {tree.release('43')}/{name}: there is no such file")


def test_missing_directory(tree: Tree) -> None:
    text = refusal(launch_of(tree, "--chdir", f"{tree.root}/nowhere"))
    assert "nowhere: there is no such directory; create it" in text


def test_a_link_to_a_file(tree: Tree) -> None:
    (tree.root / "releases/43").write_text("")
    tree.flip("43")
    assert "there is no such directory" in refusal(launch_of(tree))


def test_links_in_a_circle(tree: Tree) -> None:
    (tree.root / "a").symlink_to("b")
    (tree.root / "b").symlink_to("a")
    assert "lead in a circle" in refusal(launch_of(tree, "--chdir", f"{tree.root}/a"))


def test_missing_environment(tree: Tree) -> None:
    (tree.release("42") / "venv").rename(tree.root / "gone")
    tree.flip("42")
    for launch in (launch_of(tree), launch_of(tree, module=True)):
        text = refusal(launch)
        assert "there is no such" in text and "build the release's environment" in text
        assert str(tree.release("42")) in text


def test_missing_interpreter(tree: Tree) -> None:
    for name in ("python", "python3"):
        (tree.release("42") / "venv/bin" / name).unlink()
    tree.flip("42")
    assert "there is no python beside it that can be executed" in refusal(launch_of(tree))
    assert "there is no such interpreter" in refusal(launch_of(tree, module=True))


def test_interpreter_that_is_not_executable(tree: Tree) -> None:
    python = tree.release("42") / "venv/bin/python"
    python.unlink()
    python.write_text("")
    tree.flip("42")
    text = refusal(launch_of(tree, module=True))
    assert f"({python}): is not executable" in text
    assert pinned(launch_of(tree)).python == str(tree.release("42") / "venv/bin/python3")


def test_python_option(tree: Tree) -> None:
    text = refusal(launch_of(tree, "--python", "env/bin/python"))
    missing = f"{tree.release('41')}/env/bin/python"
    assert text.startswith(f"--python env/bin/python ({missing}): there is no such interpreter")
    pin = pinned(launch_of(tree, "a:b", "--python", "/bin/sh", cwd="/", module=True))
    assert pin.python == "/usr/bin/sh"  # the directory is resolved, the name is kept


def test_config_errors_name_the_file_of_the_release(tree: Tree) -> None:
    config = tree.release("42") / "graceserve.toml"
    tree.flip("42")
    config.write_text('app = "a:b"\nwrokers = 2\n')
    assert refusal(launch_of(tree)).startswith(f"wrokers in {config}:2: there is no such option")
    config.write_text("app = \n")
    assert f"{config}: Invalid value (at " in refusal(launch_of(tree))
    config.write_bytes(b'app = "\xff"')
    assert refusal(launch_of(tree)) == f"--config {config}: byte 7 is not UTF-8; save the file as UTF-8"
    config.unlink()
    config.mkdir()
    assert "--config" not in refusal(launch_of(tree))  # a directory of that name is no config file: no app is named
    assert refusal(launch_of(tree, "-c", "graceserve.toml")).startswith(f"--config {config}: Is a directory")
    text = refusal(launch_of(tree, "-c", "prod.toml"))
    assert text.startswith(f"--config {config.with_name('prod.toml')}: No such file or directory")


def test_verify(tree: Tree) -> None:
    pin = pinned(launch_of(tree))
    verify(pin, RealFiles())
    (tree.release("41") / "venv").rename(tree.root / "gone")
    with pytest.raises(OperatorError, match=r"current -> releases/41: .*venv/bin/python is gone"):
        verify(pin, RealFiles())
    tree.release("41").rename(tree.root / "gone-too")
    with pytest.raises(OperatorError, match=r"current -> releases/41: .*releases/41 is gone"):
        verify(pin, RealFiles())


def test_titles(tree: Tree, tmp_path: Path) -> None:
    assert pinned(launch_of(tree)).title == "current -> releases/41"
    elsewhere = tmp_path / "elsewhere"
    tree.release("41").rename(elsewhere)
    tree.current.unlink()
    tree.current.symlink_to(elsewhere)
    assert pinned(launch_of(tree)).title == f"current -> {elsewhere}"
    assert pinned(launch_of(tree)).link == str(tree.current)
    (tmp_path / "srv").symlink_to(tree.root)
    pin = pinned(launch_of(tree, "--release", f"{tmp_path}/srv/current", cwd="/"))
    assert (pin.link, pin.title) == (f"{tmp_path}/srv/current", f"current -> {elsewhere}")


def test_a_release_option_that_is_no_link(tree: Tree) -> None:
    pin = pinned(launch_of(tree, "--release", str(tree.release("41")), cwd="/"))
    assert (pin.link, pin.title) == ("", str(tree.release("41")))


def test_pin_dump_and_load(tree: Tree) -> None:
    pin = pinned(launch_of(tree))
    assert Pin.load(json.loads(json.dumps(pin.dump())) | {"new": 1}) == pin
    assert Pin.load({"cwd": "/srv"}) == Pin(cwd="/srv")


RESOLVED = [
    ("/a/b", "/a/b"),
    ("/a//b/./c/", "/a/b/c"),
    ("/a/../b", "/b"),
    ("/../..", "/"),
    ("/", "/"),
    ("/link", "/real/dir"),
    ("/link/..", "/real"),  # the kernel's parent, not the text's
    ("/link/../x", "/real/x"),
    ("/up/x", "/real/x"),
    ("/chain/x", "/real/dir/x"),
    ("/real/rel", "/real/dir/deep"),
    ("/link/rel2/y", "/real/dir/y"),
]


LINKS = {
    "/link": "real/dir", "/up": "/real/dir/..", "/chain": "link", "/real/rel": "dir/deep", "/real/dir/rel2": ".",
    "/loop": "loop",
}  # fmt: skip


class Table(RealFiles):
    """Symlinks of no file system."""

    def readlink(self, path: str) -> str | None:
        return LINKS.get(path)


@pytest.mark.parametrize(("path", "expected"), RESOLVED)
def test_resolving(path: str, expected: str) -> None:
    assert Resolver(Table()).resolve(path) == expected


def test_resolving_agrees_with_the_kernel(tree: Tree) -> None:
    (tree.root / "abs").symlink_to(tree.current)
    (tree.release("41") / "up").symlink_to("../../current/src/..")
    for path in ("current", "abs/src", "abs/up/src", "current/../42", "abs/up/../41/venv/bin/python", "nowhere/x"):
        whole = f"{tree.root}/{path}"
        assert Resolver(RealFiles()).resolve(whole) == str(Path(whole).resolve())


def test_entry_keeps_the_last_name() -> None:
    resolver = Resolver(Table())
    assert resolver.entry("/chain/rel2") == "/real/dir/rel2"
    assert resolver.entry("/link") == "/link"
    assert resolver.entry("/link/..") == "/real"
    with pytest.raises(OperatorError, match="circle"):
        resolver.resolve("/loop/x")


def test_links_on() -> None:
    resolver = Resolver(Table())
    assert resolver.links_on("/chain/rel2/x") == ["/chain", "/chain/rel2"]
    assert resolver.links_on("/real/dir") == []
    assert resolver.links_on("/link/../dir") == ["/link"]
