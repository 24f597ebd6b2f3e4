"""Files of KEY=VALUE lines (`--env-file`). Pure; read again at each reload.

The format that systemd's EnvironmentFile=, Docker's --env-file and shells have in common: comments and blank lines, an
optional `export`, values bare, in single quotes (as they are) or in double quotes (with \\n, \\t, \\", \\\\ and \\$).
Nothing is expanded: a `$` is a dollar.
"""

import re

from graceserve.errors import OperatorError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_SINGLE = re.compile(r"'([^']*)'\s*(?:#.*)?")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"\s*(?:#.*)?')
_COMMENT = re.compile(r"(?:^|\s)#.*")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def parse(text: str, name: str) -> dict[str, str]:
    """The variables, the last one of a name wins. Raises `OperatorError` with `name` and the line's number."""
    found: dict[str, str] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _LINE.fullmatch(stripped)
        if match is None or "\0" in stripped:
            raise OperatorError(f"--env-file {name}:{number}: {stripped[:60]!r} is not KEY=VALUE; correct the line")
        found[match[1]] = _value(match[2], f"--env-file {name}:{number}")
    return found


def _value(text: str, where: str) -> str:
    if text.startswith("'"):
        match = _SINGLE.fullmatch(text)
    elif text.startswith('"'):
        match = _DOUBLE.fullmatch(text)
    else:
        return _COMMENT.sub("", text).strip()
    if match is None:
        raise OperatorError(f"{where}: the quotes do not close at the end of the value; correct the line")
    if text.startswith("'"):
        return match[1]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), match[1])
