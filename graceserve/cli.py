"""The command line. Shell; the process that it runs in becomes the master, or is a command that talks to one.

What the master does not need is imported where it is used: a command's modules would stay in its memory for good.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import graceserve
from graceserve.errors import OperatorError

if TYPE_CHECKING:
    from graceserve.client import Exit, Found

COMMANDS = {
    "reload": "move to the release that the link names now; waits for the verdict",
    "rollback": "go back to the release that served before",
    "status": "show what runs",
    "stop": "stop; waits until the server is gone",
    "reopen": "open the log file again",
}
TORTURE = "reload a server, of any kind, under the load of clients that notice everything"
_EXITS = """\
exit status of commands: 0 done, 1 the new release failed and the old one serves on (or the
master went away), 2 usage or no such master, 3 superseded by a newer reload
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status. `argv` without the program; by default `sys.argv`."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except OperatorError as error:
        _complain(" ".join(str(error).split("\n")))
        return 2


def _dispatch(words: list[str]) -> int:
    match words:
        case ["--resume-fd", fd]:  # not for people: the master, re-exec'd
            from graceserve.master.reexec import resume

            return resume(int(fd))
        case ["--resume-check", dump_fd, channel_fd]:  # not for people: whether it can be
            from graceserve.master.reexec import check

            return check(int(dump_fd), int(channel_fd))
        case [command, *rest] if command in COMMANDS:
            return _command(command, rest)
        case ["torture", *rest]:
            return _torture(rest)
        case [word, *rest]:
            _refuse_near_miss(word, rest)
    return _serve(words)


def _refuse_near_miss(word: str, rest: list[str]) -> None:
    """`graceserve stauts` would look for an app. Raises `OperatorError`; a colon says that it is one."""
    import difflib

    known = [*COMMANDS, "torture"]
    near = [] if word.startswith("-") or ":" in word else difflib.get_close_matches(word, known, 1, cutoff=0.75)
    if near and not _command_parser(near[0]).parse_known_args(rest)[1]:
        raise OperatorError(f"no command {word}; did you mean {near[0]}? (an app of that name is {word}:application)")


# --- graceserve APP -----------------------------------------------------------------------------------------------


def _serve(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(_help(), end="")
        return 0
    if "-v" in words or "--version" in words:
        print(f"graceserve {graceserve.__version__} on Python {sys.version.split()[0]}")
        return 0
    _open_standard_fds()
    from graceserve.files import RealFiles
    from graceserve.master.main import serve
    from graceserve.release import Launch, read_release

    environ = dict(os.environ)
    before_words = len(sys.orig_argv) - len(sys.argv) + 1
    orig_argv = [*sys.orig_argv[:before_words], *words]
    launch = Launch.of(orig_argv, sys.argv[0], sys.executable, environ, RealFiles())
    settings, pin = read_release(launch, environ, RealFiles())
    return serve(launch, settings, pin, environ)


def _open_standard_fds() -> None:
    """What is closed of 0, 1 and 2 would become one of our sockets, and be written to by whoever prints. Before the
    master is imported: with ctypes comes libffi, which since 3.5 keeps its own file open."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _help() -> str:
    from graceserve.config import parser

    commands = "".join(f"  {name:<9} {text}\n" for name, text in (*COMMANDS.items(), ("torture", TORTURE)))
    return (
        f"{parser().format_help()}\ncommands, for a server that runs (graceserve COMMAND --help):\n{commands}\n"
        "Each option is also a GRACESERVE_* variable and a key of the TOML file; the command line wins,\n"
        f"then the variable, then the file. Only --help and --version stand for themselves.\n\n{_EXITS}"
    )


# --- graceserve COMMAND -------------------------------------------------------------------------------------------


def _command(command: str, words: list[str]) -> int:
    from graceserve.client import Exit, find

    made = _command_parser(command)
    if "-h" in words or "--help" in words:
        print(f"{made.format_help()}\n{_EXITS}", end="")
        return Exit.DONE
    given, unknown = made.parse_known_args(words)
    if unknown:
        raise OperatorError(f"{command}: {unknown[0]}: there is no such option; see `graceserve {command} --help`")
    found = find(given.pid, given.control_socket)
    try:
        return _talk(command, given, found)
    except KeyboardInterrupt:
        _complain(f"not waiting any more; what was asked of the master (pid {found.pid}) goes on")
        return 130
    finally:
        found.channel.close()


def _talk(command: str, given: argparse.Namespace, found: "Found") -> "Exit":
    from graceserve import client

    match command:
        case "status":
            return client.status(found, _say, _complain, given.json)
        case "stop":
            return client.stop(found, _say, _complain, given.quick)
        case "reopen":
            return client.reopen(found, _complain)
    return client.reload(found, _say, _complain, back=command == "rollback")


def _command_parser(command: str) -> argparse.ArgumentParser:
    if command == "torture":
        from graceserve.torture.options import parser

        return parser(os.environ)
    from graceserve.config import Parser

    made = Parser(f"graceserve {command}", description=COMMANDS[command])
    environ = os.environ
    made.add_argument("-p", "--pid", default=environ.get("GRACESERVE_PID", ""), metavar="PIDFILE|PID",
                      help="the master; by default the only one of this user")  # fmt: skip
    made.add_argument("--control-socket", default=environ.get("GRACESERVE_CONTROL_SOCKET", ""), metavar="PATH",
                      help="its control socket, if that is a file")  # fmt: skip
    if command == "status":
        made.add_argument("--json", action="store_true", help="all that is known, as JSON")
    if command == "stop":
        made.add_argument("--quick", action="store_true", help="do not wait for requests to finish")
    return made


def _torture(words: list[str]) -> int:
    """The client's machinery (an event loop, h11) is loaded here only."""
    from graceserve.torture import options

    if "-h" in words or "--help" in words:
        print(f"{options.parser(os.environ).format_help()}\n{options.EPILOG}", end="")
        return 0
    plan = options.read(words, os.environ)
    from graceserve.torture.run import torture

    return torture(plan, _say, lambda text: print(text, file=sys.stderr, flush=True))


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # `graceserve status | head -1`: the interpreter must not complain again when it flushes stdout at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _complain(text: str) -> None:
    print(f"graceserve: {text}", file=sys.stderr, flush=True)
