"""How graceserve was started, as it was typed. Pure over `Files`; the master keeps it for its whole life.

What was typed leads through the release's symlink; what the kernel and Python make of it (`sys.executable`, getcwd(2),
`/proc/self/exe`, the `#!` line of a console script) names the release that the link showed at that moment. So the
working directory is `$PWD` where that is true, and a path that lies in a release which another typed path reaches by a
link is taken to go through that link, too: `/srv/app/releases/41/venv/bin/python`, started from `/srv/app/current`, is
`/srv/app/current/venv/bin/python`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graceserve import record
from graceserve.config import peek
from graceserve.errors import OperatorError
from graceserve.paths import Files, Resolver, base, join, parent, within

_WITH_VALUE = "WXQ"  # interpreter options that take one (`python --help`); -c and -m end the options


@dataclass(frozen=True, slots=True)
class Launch:
    """Absolute paths, symlinks and all. `script` is empty for `python -m graceserve`."""

    interpreter: str = ""
    flags: tuple[str, ...] = ()  # the interpreter's: -X dev, -O, -W error
    script: str = ""
    beside: bool = False  # the interpreter is in the script's own directory
    safe_path: bool = False  # -P, -I or PYTHONSAFEPATH: the working directory is not to be on sys.path
    cwd: str = "/"
    argv: tuple[str, ...] = ()  # graceserve's own options

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return record.dump(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Launch":
        """From `dump`, of this graceserve or another."""
        return record.load(cls, data)

    @classmethod
    def of(
        cls, orig_argv: Sequence[str], argv0: str, executable: str, environ: Mapping[str, str], files: Files
    ) -> "Launch":
        """From `sys.orig_argv`, `sys.argv[0]`, `sys.executable`. Raises `OperatorError` (bad options, no directory)."""
        flags, is_script, argv = split_command(orig_argv)
        cwd = _logical_cwd(environ, files)
        interpreter = join(cwd, orig_argv[0] if "/" in orig_argv[0] or not executable else executable)
        script = join(cwd, argv0) if is_script else ""
        resolver = Resolver(files)
        links = _Links(resolver, [*_asked_for(cwd, argv, environ), cwd, parent(script or "/"), parent(interpreter)])
        directory = resolver.resolve(parent(resolver.resolve(script))) if script else ""
        return cls(
            interpreter=join(links.through(parent(interpreter)), base(interpreter)),
            flags=flags,
            script=join(links.through(parent(script)), base(script)) if script else "",
            beside=bool(script) and directory == resolver.resolve(parent(interpreter)),
            safe_path=_is_safe_path(flags, environ),
            cwd=links.through(cwd),
            argv=argv,
        )


class _Links:
    """The symlinks on the typed paths, and the directories that they led to when graceserve started."""

    def __init__(self, resolver: Resolver, typed: Sequence[str]) -> None:
        self._resolver = resolver
        self._targets = {link: resolver.resolve(link) for path in typed for link in resolver.links_on(path)}

    def through(self, directory: str) -> str:
        """`directory`, by way of the link that leads nearest to it; as it is if it goes there already, or none does."""
        real = self._resolver.resolve(directory)
        fits = [(target, link) for link, target in self._targets.items() if target != "/" and within(real, target)]
        nearest = max((len(target) for target, _ in fits), default=0)
        links = [(target, link) for target, link in fits if len(target) == nearest]
        if not links or any(within(directory, link) for _, link in links):
            return directory
        target, link = links[0]
        return link + real.removeprefix(target)


def split_command(orig_argv: Sequence[str]) -> tuple[tuple[str, ...], bool, tuple[str, ...]]:
    """The interpreter's flags, whether a script was started (not `-m` or `-c`), and the program's own arguments."""
    flags: list[str] = []
    rest = list(orig_argv[1:])
    while rest:
        word = rest.pop(0)
        if word == "-" or not word.startswith("-"):
            return tuple(flags), True, tuple(rest)
        if word.startswith("--"):
            flags.append(word)
            if word == "--check-hash-based-pycs" and rest:
                flags.append(rest.pop(0))
            continue
        cut = next((i for i, letter in enumerate(word) if i and letter in _WITH_VALUE + "cm"), 0)
        if not cut or word[cut] in _WITH_VALUE:
            flags.append(word)
            if cut and cut == len(word) - 1 and rest:
                flags.append(rest.pop(0))
            continue
        if cut > 1:  # -Im is -I -m
            flags.append(word[:cut])
        return tuple(flags), False, tuple(rest[1:] if cut == len(word) - 1 else rest)
    return tuple(flags), False, ()


def _logical_cwd(environ: Mapping[str, str], files: Files) -> str:
    """`$PWD` if it is true; it may be missing (systemd), stale (a supervisor's own) or a lie."""
    try:
        physical = files.cwd()
    except OSError as error:
        raise OperatorError(
            f"the working directory can't be read ({error.strerror}); start graceserve from one that is there"
        ) from None
    pwd = environ.get("PWD", "")
    return pwd if pwd.startswith("/") and files.is_same(pwd, ".") else physical


def _asked_for(cwd: str, argv: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    settings = peek(argv, environ)
    home = join(cwd, settings.release)
    return [path for path, given in ((home, settings.release), (join(home, settings.chdir), settings.chdir)) if given]


def _is_safe_path(flags: Sequence[str], environ: Mapping[str, str]) -> bool:
    letters: set[str] = set()
    for flag in flags:
        if flag.startswith("-") and not flag.startswith("--"):
            letters |= set(re.split(f"[{_WITH_VALUE}]", flag)[0])  # what follows one of these is its value
    return bool(letters & {"P", "I"}) or (bool(environ.get("PYTHONSAFEPATH")) and "E" not in letters)
