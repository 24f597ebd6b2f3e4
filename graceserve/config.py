"""Settings from the command line, the environment and a TOML file. Pure; used by the CLI and, at a reload, the master.

Precedence: default, TOML, environment, command line. Every source is checked, also where a stronger one overrides it,
and an error is one line: source, bad value, what is expected. Reading the file is `release.read_release`'s job.
"""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from graceserve import record
from graceserve.errors import OperatorError
from graceserve.options import BINDS_MAX, BY_FIELD, GUNICORN_FLAGS, GUNICORN_KEYS, OPTIONS, Option

__all__ = ["OPTIONS", "Option", "Settings", "config_path", "parser", "peek", "read", "restart_needed"]

CONFIG_DEFAULT = "graceserve.toml"
_NOT_IN_TOML = ("config",)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator wants: one field a row of `OPTIONS`, with its default (a test compares them).

    Durations are seconds. `read` gives paths as they were written; `release.read_release` makes them absolute.
    """

    app: str = ""
    config: str = ""
    chdir: str = ""
    preload: bool = False
    env: tuple[str, ...] = ()  # "KEY=VALUE"
    env_file: str = ""
    release: str = ""
    python: str = ""
    bind: tuple[str, ...] = ("127.0.0.1:8000",)
    workers: int = 1
    threads: int = 1
    worker_connections: int = 1000
    keep_alive: float = 75.0
    timeout: float = 30.0
    http: str = "auto"
    limit_request_line: int = 4094  # bytes; 0 is unlimited, here and in the next three
    limit_request_fields: int = 100
    limit_request_field_size: int = 8190
    limit_request_body: int = 1 << 30
    head_timeout: float = 60.0
    body_timeout: float = 60.0
    write_timeout: float = 60.0
    header_map: str = "drop"
    forwarded_allow_ips: str = "127.0.0.1,::1,unix"
    forwarded_headers: str = "x-forwarded-for,x-forwarded-proto"
    proxy_protocol: str = "off"
    proxy_allow_ips: str = "127.0.0.1,::1,unix"
    certfile: str = ""
    keyfile: str = ""
    ca_certs: str = ""
    ciphers: str = ""
    graceful_timeout: float = 30.0
    startup_timeout: float = 60.0
    warmup: tuple[str, ...] = ()
    prepare: str = ""
    reload_surge: int = 0  # 0 is 100%
    pid: str = ""
    name: str = ""
    user: str = ""
    group: str = ""
    umask: int = 0
    control_socket: str = ""
    access_logfile: str = ""
    access_logformat: str = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
    error_logfile: str = "-"
    log_level: str = "info"
    log_json: bool = False

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return record.dump(self)

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Settings":
        """From `dump`, of this graceserve or another: unknown keys are dropped, missing ones have their default."""
        return record.load(cls, data)


def read(argv: Sequence[str], environ: Mapping[str, str], toml_text: str | None, toml_name: str) -> Settings:
    """The settings. `argv` without the program; `toml_text` None when there is no file. Raises `OperatorError`."""
    values = _defaults(environ)
    if toml_text is not None:
        values |= _from_toml(toml_text, toml_name)
    values |= _from_environ(environ)
    values |= _from_argv(argv)
    if "app" not in values:
        raise OperatorError(
            "no app is named; give MODULE:CALLABLE, as in `graceserve hello:app`, or `app` in the TOML file"
        )
    if len(values.get("bind", ())) > BINDS_MAX:
        raise OperatorError(f"--bind: {len(values['bind'])} addresses; give at most {BINDS_MAX}")
    return Settings(**values)


def peek(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """What argv and environment alone say: it is needed to find the TOML file. Raises `OperatorError`."""
    values = _from_environ(environ)
    values |= _from_argv(argv)
    return Settings(**values)


def config_path(argv: Sequence[str], environ: Mapping[str, str]) -> str:
    """The TOML file that was asked for, as it was written; empty if none was. Raises `OperatorError`."""
    return peek(argv, environ).config


def restart_needed(old: Settings, new: Settings) -> list[str]:
    """The flags of the options that differ and that a reload can't take over."""
    return [o.flag for o in OPTIONS if o.restart and getattr(old, o.field) != getattr(new, o.field)]


# --- one source each -----------------------------------------------------------------------------------------------


def _defaults(environ: Mapping[str, str]) -> dict[str, Any]:
    """The defaults that depend on the environment, as gunicorn's do."""
    values: dict[str, Any] = {}
    if environ.get("PORT"):
        values["bind"] = _parsed(BY_FIELD["bind"], [f"0.0.0.0:{environ['PORT']}"], "PORT")
    if environ.get("FORWARDED_ALLOW_IPS"):
        said = environ["FORWARDED_ALLOW_IPS"]
        values["forwarded_allow_ips"] = _parsed(BY_FIELD["forwarded_allow_ips"], said, "FORWARDED_ALLOW_IPS")
    if environ.get("WEB_CONCURRENCY"):
        values["workers"] = _parsed(BY_FIELD["workers"], environ["WEB_CONCURRENCY"], "WEB_CONCURRENCY")
    return values


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    """GRACESERVE_* variables; an empty one counts as not set, several values are separated by blanks."""
    values: dict[str, Any] = {}
    for option in OPTIONS:
        text = environ.get(option.variable, "")
        if text:
            values[option.field] = _parsed(option, text.split() if option.repeat else text, option.variable)
    return values


def _from_argv(argv: Sequence[str]) -> dict[str, Any]:
    given = vars(parser().parse_args(list(argv)))
    return {
        field: raw if isinstance(raw, bool) else _parsed(BY_FIELD[field], raw, BY_FIELD[field].flag)
        for field, raw in given.items()
        if raw is not None
    }


def _from_toml(text: str, name: str) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415  # a megabyte of the master's memory, which one without a file is spared

    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # "... (at line 3, column 5)"
        raise OperatorError(f"{name}: {error}; correct the TOML") from None
    values: dict[str, Any] = {}
    for key, raw in table.items():
        where = f"{key} in {name}{_line_of(key, text)}"
        option = BY_FIELD.get(key)
        if option is None or key in _NOT_IN_TOML:
            raise OperatorError(f"{where}: there is no such option; {_nearest(key)}")
        values[key] = _from_toml_value(option, raw, where)
    return values


def _from_toml_value(option: Option, raw: object, where: str) -> Any:
    if option.is_switch:
        if not isinstance(raw, bool):
            raise OperatorError(f"{where}: {raw!r} is not a switch; give true or false")
        return raw
    if option.repeat:
        return _parsed(option, _toml_list(raw, where), where)
    if isinstance(raw, bool) or not isinstance(raw, (str, int, float)):
        raise OperatorError(f"{where}: {raw!r} is not {option.metavar}; give a string or a number")
    return _parsed(option, str(raw), where)


def _toml_list(raw: object, where: str) -> list[str]:
    match raw:
        case str():
            return [raw]
        case list() if all(isinstance(item, str) for item in raw):
            return raw
        case dict() if all(isinstance(item, str) for item in raw.values()):  # env = { KEY = "VALUE" }
            return [f"{key}={value}" for key, value in raw.items()]
    raise OperatorError(f"{where}: {raw!r} is not a list of strings; give [\"...\", \"...\"]")


def _parsed(option: Option, raw: str | list[str], where: str) -> Any:
    """Any, because the row's parser decides the field's type; a test compares each with `Settings`."""
    if isinstance(raw, list):
        return tuple(str(_parsed(option, text, where)) for text in raw)
    try:
        return option.parse(raw)
    except ValueError as error:
        raise OperatorError(f"{where}: {raw!r} {error}") from None


def _line_of(key: str, text: str) -> str:
    match = re.search(rf"""^[ \t]*\[?[ \t]*["']?{re.escape(key)}["']?[ \t]*[]=.]""", text, re.MULTILINE)
    return f":{text.count(chr(10), 0, match.start()) + 1}" if match else ""


def _nearest(key: str) -> str:
    name = key.replace("-", "_").lower()
    near = GUNICORN_KEYS.get(name) or next(iter(difflib.get_close_matches(name, BY_FIELD, 1)), "")
    return f"did you mean {near}?" if near and near not in _NOT_IN_TOML else "`graceserve --help` lists them"


# --- the command line ----------------------------------------------------------------------------------------------


class _Help(argparse.HelpFormatter):
    """Of one width: to ask the terminal, argparse imports shutil and its compressors, and the master keeps them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=110)


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of printing its usage and leaving. `--help` and `--version` are the CLI's own."""

    def __init__(self, prog: str, usage: str | None = None, description: str | None = None) -> None:
        super().__init__(prog, usage, description, formatter_class=_Help, add_help=False, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            raise OperatorError(_unknown(message.removeprefix("unrecognized arguments: ").split()))
        flag, colon, rest = message.removeprefix("argument ").partition(": ")
        named = f"{flag.rpartition('/')[2]}: {rest}" if colon else message
        raise OperatorError(f"{named}; `graceserve --help` lists the options")


def parser() -> argparse.ArgumentParser:
    """From the table. Values stay texts, absent options None."""
    made = Parser("graceserve", usage="graceserve [OPTIONS] MODULE:CALLABLE")
    groups: dict[str, Any] = {}
    for option in OPTIONS:
        group = groups.setdefault(option.section, None) or made.add_argument_group(option.section)
        groups[option.section] = group
        _add(group, option)
    return made


def _add(group: Any, option: Option) -> None:
    shown = option.shown()
    text = (option.help + (f" [{shown}]" if shown else "")).replace("`", "").replace("%", "%%")
    if not option.flags:
        group.add_argument(option.field, nargs="?", metavar=option.metavar, help=text)
    elif option.is_switch:
        group.add_argument(*option.flags, action="store_true", default=None, dest=option.field, help=text)
        opposite = f"--no-{option.flag.removeprefix('--')}"
        group.add_argument(opposite, action="store_false", default=None, dest=option.field, help=argparse.SUPPRESS)
    else:
        action = "append" if option.repeat else "store"
        bare = {"nargs": "?", "const": option.bare} if option.bare else {}
        group.add_argument(*option.flags, action=action, dest=option.field, metavar=option.metavar, help=text, **bare)


def _unknown(words: list[str]) -> str:
    """One line for what argparse could not place: all of gunicorn's flags, else the first word."""
    theirs: dict[str, list[str]] = {}
    for flag in dict.fromkeys(word.partition("=")[0] for word in words):
        if flag in GUNICORN_FLAGS:
            theirs.setdefault(GUNICORN_FLAGS[flag], []).append(flag)
    flag = words[0].partition("=")[0]
    if not flag.startswith("-"):
        return f"{flag}: one app is served at a time; put options in front of their values, and the app once"
    if theirs:
        return "; ".join(f"{', '.join(flags)}: {text}" for text, flags in theirs.items())
    flags = [name for option in OPTIONS for name in option.flags]
    near = difflib.get_close_matches(flag, flags, 1)
    return f"{flag}: there is no such option; " + (
        f"did you mean {near[0]}?" if near else "`graceserve --help` lists them"
    )


# --- the README's table --------------------------------------------------------------------------------------------


def markdown() -> str:
    """The options as the README shows them."""
    rows = ["| flag | variable, TOML key | default | |", "| --- | --- | --- | --- |"]
    for option in OPTIONS:
        flags = ", ".join(f"`{name}`" for name in option.flags) or f"`{option.metavar}`"
        value = f" `{option.metavar}`" if option.metavar and option.flags else ""
        key = "" if option.field in _NOT_IN_TOML else f", `{option.key}`"
        default = f"`{option.shown()}`" if option.shown() else ""
        star = " (1)" if option.restart else ""
        rows.append(f"| {flags}{value} | `{option.variable}`{key} | {default} | {option.help}{star} |")
    return "\n".join(rows) + "\n"
