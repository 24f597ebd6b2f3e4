"""Pinned releases: what a generation runs, decided once. Pure over `Files`; called at the start and at each reload.

The link is resolved once, by one `Resolver`, and the new generation's interpreter, working directory, `sys.path[0]` and
config file all come from that. The result is a `Pin`; whatever the generation does later (replace a crashed worker, be
repaired, be rolled back to) uses the pin and never looks at the link again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from graceserve import address, config, record
from graceserve.config import CONFIG_DEFAULT, Settings
from graceserve.errors import OperatorError
from graceserve.launch import Launch
from graceserve.paths import Files, Resolver, base, join, parent, within

__all__ = ["Launch", "Pin", "Resolver", "pin", "read_release", "verify"]

VENVS = ("venv/bin/python", ".venv/bin/python")
_NOT_A_RELEASE = ("bin", "venv", ".venv")  # symlinks on the way that an operator would not call the release's


@dataclass(frozen=True, slots=True)
class Pin:
    """What a generation runs. Resolved paths but for `link`, and for the last names of `python` and `config`."""

    link: str = ""  # as typed: "/srv/app/current"; empty when nothing goes through a symlink
    release: str = ""  # where the link led: "/srv/app/releases/42"; `cwd` when there is no link
    target: str = ""  # `release` as seen from the link's directory: "releases/42"
    python: str = ""  # to exec
    flags: tuple[str, ...] = ()  # its flags
    safe_path: bool = False  # the operator does not want `cwd` on sys.path
    cwd: str = "/"  # working directory and sys.path[0]
    config: str = ""  # the TOML file, empty when there is none

    @property
    def title(self) -> str:
        """For logs and status: "current -> releases/42", or "/srv/app"."""
        return f"{base(self.link)} -> {self.target}" if self.link else self.release

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return record.dump(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Pin":
        """From `dump`, of this graceserve or another."""
        return record.load(cls, data)


def read_release(launch: Launch, environ: Mapping[str, str], files: Files) -> tuple[Settings, Pin]:
    """The settings and the release as they are now. Raises `OperatorError`, and nothing else.

    Paths in the settings come back absolute: pid file, control socket, log file and Unix sockets as seen from the
    launch's directory, which stays the same over reloads; `env_file` as seen from the release.
    """
    resolver = Resolver(files)
    asked = config.peek(launch.argv, environ)
    home = resolver.resolve(_home(launch, asked, resolver))
    path = resolver.entry(join(home, asked.config or CONFIG_DEFAULT))
    text = _config_text(path, bool(asked.config), files)
    settings = config.read(launch.argv, environ, text, path)
    pinned = replace(pin(launch, settings, resolver), config="" if text is None else path)
    return _absolute(settings, launch.cwd, pinned.cwd), pinned


def pin(launch: Launch, settings: Settings, resolver: Resolver) -> Pin:
    """The release that the settings name, as the links are now. Raises `OperatorError`: link, target and the fix."""
    home = _home(launch, settings, resolver)
    cwd = resolver.resolve(home)
    python = _python(launch, settings, resolver, cwd)
    link = _link(launch, settings, resolver, home)
    release = resolver.resolve(link) if link else cwd
    beside = resolver.resolve(parent(link)) if link else "/"
    near = beside != "/" and within(release, beside)
    return Pin(
        link=link,
        release=release,
        target=release.removeprefix(beside + "/") if near else release,
        python=python,
        flags=launch.flags,
        safe_path=launch.safe_path,
        cwd=cwd,
    )


def verify(pinned: Pin, files: Files) -> None:
    """Raises `OperatorError` if what the pin names is gone: its release was pruned."""
    if not files.is_dir(pinned.cwd):
        raise OperatorError(f"{pinned.title}: {pinned.cwd} is gone; keep the releases that serve, and the one before")
    if not files.is_executable(pinned.python):
        raise OperatorError(f"{pinned.title}: {pinned.python} is gone or not executable; keep its virtual environment")


# --- where --------------------------------------------------------------------------------------------------------


def _home(launch: Launch, settings: Settings, resolver: Resolver) -> str:
    """The working directory as it was typed. Raises `OperatorError` where it leads nowhere."""
    home = launch.cwd
    if settings.release:
        home = join(home, settings.release)
        _check_directory(home, "--release", resolver)
    if settings.chdir:
        home = join(home, settings.chdir)
        _check_directory(home, "--chdir", resolver)
    else:
        _check_directory(home, "working directory", resolver)
    return home


def _check_directory(typed: str, what: str, resolver: Resolver) -> None:
    real = resolver.resolve(typed)
    if not resolver.files.is_dir(real):
        fix = "point the link at a release that is there" if real != typed else "create it, or correct the path"
        raise OperatorError(f"{what} {_shown(typed, real)}: there is no such directory; {fix}")


def _link(launch: Launch, settings: Settings, resolver: Resolver, home: str) -> str:
    """The symlink to call the release's: the last one on the way to the directory, else to the virtual environment."""
    if settings.release:
        link = join(launch.cwd, settings.release)
        return link if resolver.resolve(link) != link else ""
    for path in (home, parent(launch.script or "/"), parent(launch.interpreter)):
        if path != home and not _is_environment(resolver.resolve(path), resolver):
            continue  # a symlink to some Python installation
        links = [link for link in resolver.links_on(path) if base(link) not in _NOT_A_RELEASE]
        if links:
            return links[-1]
    return ""


def _is_environment(directory: str, resolver: Resolver) -> bool:
    """Whether it is the `bin` of a virtual environment (PEP 405)."""
    return resolver.files.is_file(join(parent(directory), "pyvenv.cfg"))


# --- which interpreter --------------------------------------------------------------------------------------------


def _python(launch: Launch, settings: Settings, resolver: Resolver, cwd: str) -> str:
    if settings.release or settings.python:
        home = resolver.resolve(join(launch.cwd, settings.release)) if settings.release else cwd
        for name in (settings.python,) if settings.python else VENVS:
            path = resolver.entry(join(home, name))
            if settings.python or resolver.files.is_executable(path):
                return _checked(path, f"--python {settings.python}", resolver)
    if launch.script:
        return _script_python(launch, resolver)
    return _checked(resolver.entry(launch.interpreter), f"interpreter {launch.interpreter}", resolver)


def _script_python(launch: Launch, resolver: Resolver) -> str:
    """The interpreter of a console script's environment: the one beside the script, wherever that is now.

    Not the one of its `#!` line, which names the release that the script was installed in. pipx and `uv tool` put a
    symlink to the script itself into ~/.local/bin, so its last name is followed, too. A directory that is no
    environment's (/usr/local/bin) may hold another interpreter, which has nothing to do with the script.
    """
    script = resolver.resolve(launch.script)
    if not resolver.files.is_file(script):
        raise OperatorError(
            f"{_shown(launch.script, script)}: there is no such file; "
            "build the release's environment before the link moves"
        )
    directory = parent(script)
    if not (launch.beside or _is_environment(directory, resolver)):
        return _checked(resolver.entry(launch.interpreter), f"interpreter {launch.interpreter}", resolver)
    for name in ("python", "python3", base(launch.interpreter)):
        if resolver.files.is_executable(join(directory, name)):
            return join(directory, name)
    raise OperatorError(
        f"{_shown(launch.script, script)}: there is no python beside it that can be executed; "
        "build the release's environment before the link moves"
    )


def _checked(path: str, what: str, resolver: Resolver) -> str:
    if resolver.files.is_executable(path):
        return path
    wrong = "is not executable" if resolver.files.is_file(path) else "there is no such interpreter"
    raise OperatorError(f"{what} ({path}): {wrong}; build the release's environment, or correct --python")


# --- config and paths ---------------------------------------------------------------------------------------------


def _config_text(path: str, asked: bool, files: Files) -> str | None:
    if not asked and not files.is_file(path):
        return None
    try:
        return files.read_text(path)
    except OSError as error:
        raise OperatorError(f"--config {path}: {error.strerror}; correct the path or its permissions") from None
    except UnicodeDecodeError as error:
        raise OperatorError(f"--config {path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None


def _absolute(settings: Settings, launch_cwd: str, release_cwd: str) -> Settings:
    def seen_from(directory: str, path: str) -> str:
        return join(directory, path) if path else ""

    return replace(
        settings,
        pid=seen_from(launch_cwd, settings.pid),
        control_socket=seen_from(launch_cwd, settings.control_socket),
        error_logfile="-" if settings.error_logfile == "-" else seen_from(launch_cwd, settings.error_logfile),
        access_logfile="-" if settings.access_logfile == "-" else seen_from(launch_cwd, settings.access_logfile),
        certfile=seen_from(release_cwd, settings.certfile),
        keyfile=seen_from(release_cwd, settings.keyfile),
        ca_certs=seen_from(release_cwd, settings.ca_certs),
        bind=tuple(_absolute_bind(launch_cwd, text) for text in settings.bind),
        env_file=seen_from(release_cwd, settings.env_file),
    )


def _absolute_bind(cwd: str, text: str) -> str:
    where = address.parse(text)
    return f"unix:{join(cwd, where.path)}" if where.family is address.Family.UNIX else text


def _shown(typed: str, real: str) -> str:
    return typed if typed == real else f"{typed} -> {real}"
