"""All ways to launch: real interpreters, started as an operator starts them, then the link is flipped.

Interpreter, working directory and config file must then all be the new release's.
"""

import os
from pathlib import Path

import pytest

from graceserve.errors import OperatorError
from graceserve.files import RealFiles
from graceserve.launch import Launch, split_command
from tests.pure.release_tree import Tree, environment, pinned, script


@pytest.fixture(params=["pip", "uv", "virtualenv"])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Tree:
    return Tree(tmp_path / "app", style=request.param)


@pytest.fixture
def plain(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "app")


def check_flip(tree: Tree, launch: Launch, sub: str = "") -> None:
    for number in ("41", "42", "41"):
        tree.flip(number)
        pin = pinned(launch)
        release = tree.release(number)
        assert pin.cwd == str(release / sub) if sub else pin.cwd == str(release)
        assert os.path.dirname(pin.python) == str(release / tree.venv / "bin")
        assert os.path.basename(pin.python) in ("python", "python3")
        assert pin.release == str(release)
        assert pin.title == f"current -> releases/{number}"
        if not sub:
            assert pin.config == str(release / "graceserve.toml")


def test_console_script_through_the_link(tree: Tree) -> None:
    command: list[str | Path] = [tree.current / "venv/bin/graceserve", "shop:app"]
    launch = tree.start(command, cwd=tree.current, PWD=str(tree.current))
    assert launch.script == str(command[0])
    assert launch.argv == ("shop:app",)
    assert launch.cwd == str(tree.current)
    assert launch.beside
    check_flip(tree, launch)


def test_console_script_relative(tree: Tree) -> None:
    launch = tree.start(["venv/bin/graceserve"], cwd=tree.current, PWD=str(tree.current))
    check_flip(tree, launch)


def test_console_script_without_pwd_as_systemd(tree: Tree) -> None:
    launch = tree.start([tree.current / "venv/bin/graceserve"], cwd=tree.current)
    assert launch.cwd == str(tree.current)
    check_flip(tree, launch)


@pytest.mark.parametrize("pwd", ["/", "/nonexistent", "relative", ""])
def test_a_pwd_that_is_not_true(plain: Tree, pwd: str) -> None:
    launch = plain.start([plain.current / "venv/bin/graceserve"], cwd=plain.current, PWD=pwd)
    assert launch.cwd == str(plain.current)
    check_flip(plain, launch)


def test_a_physical_pwd_as_a_shell_makes_it_up(plain: Tree) -> None:
    """`sh -c` started with a stale PWD exports getcwd(2)'s answer."""
    real = str(plain.release("41"))
    launch = plain.start([plain.current / "venv/bin/graceserve"], cwd=real, PWD=real)
    check_flip(plain, launch)


def test_module_from_the_link_s_environment(tree: Tree) -> None:
    command: list[str | Path] = [tree.current / "venv/bin/python", "-m", "probe", "shop:app"]
    launch = tree.start(command, tree.current, PWD=str(tree.current))
    assert (launch.script, launch.argv) == ("", ("shop:app",))
    check_flip(tree, launch)


def test_module_without_pwd_and_with_flags(plain: Tree) -> None:
    command = ["venv/bin/python", "-X", "dev", "-OW", "error", "-m", "probe", "shop:app", "-b", ":0"]
    launch = plain.start(command, plain.current, PWD=str(plain.current))
    assert launch.flags == ("-X", "dev", "-OW", "error")
    assert launch.argv == ("shop:app", "-b", ":0")
    check_flip(plain, launch)
    assert pinned(launch).flags == launch.flags


def test_bare_name_on_path(tree: Tree) -> None:
    path = f"{tree.current / 'venv/bin'}:{os.environ['PATH']}"
    check_flip(tree, tree.start(["env", "graceserve"], tree.current, PWD=str(tree.current), PATH=path))
    check_flip(tree, tree.start(["env", "graceserve"], tree.current, PATH=path))
    check_flip(tree, tree.start(["env", "python", "-m", "probe"], tree.current, PATH=path))


def test_an_activated_environment_names_the_old_release(plain: Tree) -> None:
    """`source venv/bin/activate` puts releases/41/venv/bin into PATH; only the directory was typed through the link."""
    path = f"{plain.release('41') / 'venv/bin'}:{os.environ['PATH']}"
    for command in (["graceserve"], ["python", "-m", "probe"]):
        launch = plain.start(["env", *command], plain.current, PWD=str(plain.current), PATH=path)
        assert str(plain.release("41")) not in str(launch)
        check_flip(plain, launch)
        launch = plain.start(["env", *command, "--chdir", str(plain.current)], "/", PATH=path)
        check_flip(plain, launch)


def test_env_shebang(plain: Tree) -> None:
    for number in ("41", "42"):
        path = plain.release(number) / "venv/bin/graceserve"
        path.write_text("#!/usr/bin/env python\n" + path.read_text().partition("\n")[2])
    path_ = f"{plain.current / 'venv/bin'}:{os.environ['PATH']}"
    check_flip(plain, plain.start(["env", "graceserve"], plain.current, PWD=str(plain.current), PATH=path_))


@pytest.mark.parametrize("cwd", ["/", "root"])
def test_chdir_to_the_link(tree: Tree, cwd: str) -> None:
    where = tree.root if cwd == "root" else Path("/")
    to = "current" if cwd == "root" else str(tree.current)
    launch = tree.start([tree.current / "venv/bin/graceserve", "--chdir", to, "shop:app"], where, PWD=str(where))
    check_flip(tree, launch)


def test_chdir_below_the_link(plain: Tree) -> None:
    launch = plain.start([plain.current / "venv/bin/graceserve", "--chdir", "src", "a:b"], plain.current)
    check_flip(plain, launch, sub="src")
    launch = plain.start([plain.current / "venv/bin/graceserve", "a:b"], plain.current / "src")
    assert launch.cwd == str(plain.current / "src")
    check_flip(plain, launch, sub="src")


def test_release_option_from_an_installation_elsewhere(plain: Tree, tmp_path: Path) -> None:
    environment(tmp_path / "opt")
    launch = plain.start([tmp_path / "opt/bin/graceserve", "--release", plain.current], "/")
    check_flip(plain, launch)
    launch = plain.start([tmp_path / "opt/bin/graceserve", "--release", "current"], plain.root, PWD=str(plain.root))
    check_flip(plain, launch)
    command: list[str | Path] = [tmp_path / "opt/bin/graceserve", "--release", "current"]
    command += ["--python", "venv/bin/python3"]
    launch = plain.start(command, plain.root)
    check_flip(plain, launch)
    assert pinned(launch).python == str(plain.release("41") / "venv/bin/python3")


def test_release_option_with_a_dot_venv(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "app", style="uv", venv=".venv")
    environment(tmp_path / "opt")
    check_flip(tree, tree.start([tmp_path / "opt/bin/graceserve", "--release", tree.current], "/"))


def test_release_option_without_an_environment_of_its_own(plain: Tree, tmp_path: Path) -> None:
    environment(tmp_path / "opt")
    (plain.root / "releases/43").mkdir()
    launch = plain.start([tmp_path / "opt/bin/graceserve", "--release", plain.current, "a:b"], "/")
    plain.flip("43")
    pin = pinned(launch)
    assert (pin.python, pin.cwd) == (str(tmp_path / "opt/bin/python"), str(plain.release("43")))


def test_environments_outside_of_the_releases(plain: Tree, tmp_path: Path) -> None:
    """`releases/N/venv -> /venvs/N`: the interpreter is exec'd by the environment's own path."""
    for number in ("41", "42"):
        environment(tmp_path / "venvs" / number)
        (plain.release(number) / "venv").rename(tmp_path / f"unused-{number}")
        (plain.release(number) / "venv").symlink_to(tmp_path / "venvs" / number)
    launch = plain.start([plain.current / "venv/bin/graceserve"], plain.current, PWD=str(plain.current))
    for number in ("42", "41"):
        plain.flip(number)
        pin = pinned(launch)
        assert pin.python == str(tmp_path / "venvs" / number / "bin/python")
        assert pin.title == f"current -> releases/{number}"
    launch = plain.start([plain.current / "venv/bin/graceserve", "a:b"], "/")
    pin = pinned(launch)
    assert (pin.title, pin.cwd) == ("current -> releases/41", "/")  # not "venv -> ..."


def test_pipx_and_uv_tool(plain: Tree, tmp_path: Path) -> None:
    """A symlink to the script in a directory that may hold an unrelated python."""
    environment(tmp_path / "tool")
    local = tmp_path / "local/bin"
    local.mkdir(parents=True)
    (local / "graceserve").symlink_to(tmp_path / "tool/bin/graceserve")
    (local / "python").symlink_to("/bin/true")
    launch = plain.start([local / "graceserve", "a:b"], plain.release("41"))
    assert pinned(launch).python == str(tmp_path / "tool/bin/python")


def test_a_script_of_no_environment(plain: Tree, tmp_path: Path) -> None:
    """/usr/local/bin/graceserve with `#!/usr/bin/python3`, beside another python."""
    environment(tmp_path / "real")
    local = tmp_path / "local/bin"
    local.mkdir(parents=True)
    script(local / "graceserve", tmp_path / "real/bin/python")
    (local / "python").symlink_to("/bin/true")
    launch = plain.start([local / "graceserve", "a:b"], plain.release("41"))
    assert not launch.beside
    assert pinned(launch).python == str(tmp_path / "real/bin/python")


def test_a_copied_release_whose_script_names_the_old_one(plain: Tree) -> None:
    script(plain.release("42") / "venv/bin/graceserve", plain.release("41") / "venv/bin/python")
    plain.flip("42")
    launch = plain.start([plain.current / "venv/bin/graceserve"], plain.current, PWD=str(plain.current))
    assert pinned(launch).python == str(plain.release("42") / "venv/bin/python")


def test_in_place(tmp_path: Path) -> None:
    """Code without any link: a reload takes the same directory again."""
    tree = Tree(tmp_path / "app")
    here = tree.release("41")
    for command in (["venv/bin/graceserve"], ["venv/bin/python", "-m", "probe"]):
        pin = pinned(tree.start(command, here, PWD=str(here)))
        assert (pin.link, pin.release, pin.cwd, pin.title) == ("", str(here), str(here), str(here))
        assert pin.python == str(here / "venv/bin/python")


def test_a_link_to_some_python_is_not_the_release(tmp_path: Path) -> None:
    """pyenv's `versions/3.11 -> 3.11.7`."""
    tree = Tree(tmp_path / "app")
    base = tmp_path / "pyenv/3.11.7"
    environment(base)
    (base / "pyvenv.cfg").unlink()
    (tmp_path / "pyenv/3.11").symlink_to("3.11.7")
    launch = tree.start([tmp_path / "pyenv/3.11/bin/python", "-m", "probe", "a:b"], tree.release("41"))
    assert pinned(launch).link == ""
    assert pinned(launch).python == str(base / "bin/python")


@pytest.mark.parametrize(
    ("flags", "environ", "safe"),
    [
        ([], {}, False),
        (["-P"], {}, True),
        (["-I"], {}, True),
        (["-W", "PI", "-X", "dev"], {}, False),
        (["-W", "I"], {}, False),
        ([], {"PYTHONSAFEPATH": "1"}, True),
        ([], {"PYTHONSAFEPATH": ""}, False),
        (["-E"], {"PYTHONSAFEPATH": "1"}, False),
    ],
)
def test_safe_path(flags: list[str], environ: dict[str, str], safe: bool) -> None:
    launch = Launch.of(["/usr/bin/python3", *flags, "-m", "graceserve"], "", "", environ, RealFiles())
    assert launch.safe_path is safe


@pytest.mark.parametrize(
    ("words", "flags", "is_script", "argv"),
    [
        (["/srv/graceserve", "a:b", "-w", "2"], (), True, ("a:b", "-w", "2")),
        (["-m", "graceserve", "-X", "y"], (), False, ("-X", "y")),
        (["-mgraceserve", "a:b"], (), False, ("a:b",)),
        (["-Im", "graceserve", "a:b"], ("-I",), False, ("a:b",)),
        (["-bbX", "dev", "-W", "error", "s", "a"], ("-bbX", "dev", "-W", "error"), True, ("a",)),
        (["-Xdev", "-Wm", "s", "a"], ("-Xdev", "-Wm"), True, ("a",)),
        (["-u", "--check-hash-based-pycs", "always", "s"], ("-u", "--check-hash-based-pycs", "always"), True, ()),
        (["-c", "import graceserve", "a:b"], (), False, ("a:b",)),
        ([], (), False, ()),
    ],
)
def test_the_interpreter_s_own_options(
    words: list[str], flags: tuple[str, ...], is_script: bool, argv: tuple[str, ...]
) -> None:
    assert split_command(["python", *words]) == (flags, is_script, argv)


def test_bad_options_and_a_removed_directory_are_the_operator_s() -> None:
    with pytest.raises(OperatorError, match="--nope"):
        Launch.of(["/usr/bin/python3", "-m", "graceserve", "--nope"], "", "", {}, RealFiles())

    class Removed(RealFiles):
        def cwd(self) -> str:
            raise FileNotFoundError(2, "No such file or directory")

    with pytest.raises(OperatorError, match="working directory can't be read"):
        Launch.of(["/usr/bin/python3", "-m", "graceserve"], "", "", {}, Removed())


def test_dump_and_load(plain: Tree) -> None:
    launch = plain.start([plain.current / "venv/bin/graceserve", "a:b"], plain.current)
    assert Launch.load(launch.dump() | {"from_the_future": 1}) == launch
