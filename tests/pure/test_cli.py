"""The commands against a master that follows a script, over a real control socket; and the command line itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from graceserve import __version__
from graceserve.cli import COMMANDS, main
from graceserve.wire import messages as m
from graceserve.wire.channel import Channel
from graceserve.wire.control_name import abstract_name, listed_pids, pid_namespace
from tests.pure.release_tree import REPOSITORY

Script = Callable[[m.Message], list[m.Message]]


class Master:
    """Answers one client after the other by its script, then hangs up."""

    def __init__(self, address: str, script: Script) -> None:
        self.asked: list[m.Message] = []
        self._script = script
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.bind(address)
        self._sock.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._sock.accept()
            except OSError:
                return
            channel = Channel(client)
            channel.set_blocking()
            received = channel.receive()
            if received is not None:
                self.asked.append(received[0])
                for message in self._script(received[0]):
                    assert channel.send(message)
            channel.close()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._sock.close()


@pytest.fixture
def answer() -> Iterator[Callable[..., Master]]:
    """Start a master in this process, under this process's own abstract name (or a path)."""
    masters: list[Master] = []

    def start(*messages: m.Message, address: str = "") -> Master:
        masters.append(Master(address or abstract_name(os.getpid()), lambda _: list(messages)))
        return masters[-1]

    yield start
    for master in masters:
        master.close()


def own() -> str:
    return str(os.getpid())


def test_reload_switched(answer: Callable[..., Master], capsys: pytest.CaptureFixture[str]) -> None:
    told = m.Told("switched", 8, "current -> releases/42", phases={"template": 0.1, "total": 0.5})
    master = answer(m.Progress("generation 8: starting"), m.Unknown("Later"), m.Progress("ready"), told)
    assert main(["reload", "--pid", own()]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"master {own()}", "generation 8: starting", "ready",
        "switched to generation 8 (current -> releases/42) in 0.50 s",
        "  template 0.10 s",
    ]  # fmt: skip
    assert err == ""
    assert master.asked == [m.AskReload()]


@pytest.mark.parametrize(
    ("messages", "code", "expected"),
    [
        ([m.Told("failed", 8, reason="no app", detail="a\nb")], 1, "reload failed, nothing has changed: no app\na\nb"),
        ([m.Told("superseded", 8, superseded_by=9)], 3, "reload superseded by generation 9"),
        ([m.Told("stopped", 8)], 1, "reload not done: the server is stopping"),
        ([m.Refused("you are uid 5")], 2, "you are uid 5"),
        ([m.Progress("starting")], 1, "the master went away before the verdict"),
        ([], 1, "the master went away before the verdict"),
    ],
)
def test_reload_otherwise(
    answer: Callable[..., Master],
    capsys: pytest.CaptureFixture[str],
    messages: list[m.Message],
    code: int,
    expected: str,
) -> None:
    answer(*messages)
    assert main(["reload", "-p", own()]) == code
    assert f"graceserve: {expected}" in capsys.readouterr().err


def test_rollback(answer: Callable[..., Master], capsys: pytest.CaptureFixture[str]) -> None:
    master = answer(m.Told("failed", reason="there is no previous generation"))
    assert main(["rollback", "-p", own()]) == 1
    assert master.asked == [m.AskRollback()]
    assert "rollback failed" in capsys.readouterr().err


def test_status(answer: Callable[..., Master], capsys: pytest.CaptureFixture[str]) -> None:
    answer(m.Status({"pid": 5, "generation": 3, "generations": []}))
    assert main(["status", "-p", own(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"pid": 5, "generation": 3, "generations": []}
    assert main(["status", "-p", own()]) == 0
    assert capsys.readouterr().out == "master 5\n"


def test_stop_and_reopen(answer: Callable[..., Master], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    master = answer(address=str(tmp_path / "ctl"))
    for words in (["stop"], ["stop", "--quick"]):
        assert main([*words, "--control-socket", str(tmp_path / "ctl")]) == 0
    assert master.asked == [m.AskStop(False), m.AskStop(True)]
    assert capsys.readouterr().out == f"stopped master {own()}\n" * 2
    reopened = answer(m.Done())
    assert main(["reopen", "--pid", own()]) == 0
    assert reopened.asked == [m.AskReopen()]


def test_an_answer_that_makes_no_sense(answer: Callable[..., Master], capsys: pytest.CaptureFixture[str]) -> None:
    answer(m.Retire())
    assert main(["status", "-p", own()]) == 1
    assert "answered Retire" in capsys.readouterr().err


def test_the_master_is_found_by_its_pid_file(answer: Callable[..., Master], tmp_path: Path) -> None:
    answer(m.Done())
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    assert main(["reopen", "--pid", str(tmp_path / "pid")]) == 0


def test_the_variables_of_the_unit_are_used(
    answer: Callable[..., Master], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(m.Done(), address=str(tmp_path / "ctl"))
    monkeypatch.setenv("GRACESERVE_CONTROL_SOCKET", str(tmp_path / "ctl"))
    assert main(["reopen"]) == 0


def test_the_peer_must_be_the_one_that_was_asked_for(
    answer: Callable[..., Master], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Anybody may bind any abstract name: here this process listens under the name of pid 1."""
    answer(m.Done(), address=abstract_name(1))
    assert main(["reopen", "--pid", "1"]) == 2
    assert f"pid {os.getpid()} listens under its name" in capsys.readouterr().err
    answer(m.Done(), address=str(tmp_path / "ctl"))
    assert main(["reopen", "--pid", "1", "--control-socket", str(tmp_path / "ctl")]) == 2
    assert f"pid {os.getpid()} listens there, not 1" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user to be refused")
def test_a_master_of_another_user_is_not_trusted(answer: Callable[..., Master]) -> None:
    """Run as nobody against a master of user 1: neither its own nor root's."""
    program = "import locale, os, sys, graceserve.client, graceserve.config; from graceserve.cli import main; " + (
        "os.setresuid(*[int(sys.argv[1])] * 3); "  # after the imports: the interpreter may be in root's own directory
    )
    serve = "import socket\nfrom graceserve.wire.control_name import abstract_name\n" + (
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.bind(abstract_name(os.getpid()))\ns.listen()\n"
        "print(os.getpid(), flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program + "\n" + serve, "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as master:
        assert master.stdin is not None and master.stdout is not None
        pid = master.stdout.readline().strip()
        command = [sys.executable, "-c", program + "sys.exit(main(sys.argv[2:]))", "65534", "reopen", "--pid", pid]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        master.stdin.close()
    assert (done.returncode, done.stdout) == (2, "")
    assert "belongs to another user (uid 1)" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["reload", "--pid", "4194999"], "--pid 4194999: no master listens there"),
        (["reload", "--pid", "/nonexistent"], "--pid /nonexistent: No such file or directory; give the master's pid"),
        (["reload", "--pid", "/proc/self/comm"], "is not a pid"),
        (["reload", "--pid", "/"], "--pid /: Is a directory"),
        (["status", "--control-socket", "/nonexistent"], "--control-socket /nonexistent: No such file"),
        (["status", "--jsno"], "status: --jsno: there is no such option; see `graceserve status --help`"),
        (["stop", "now"], "stop: now: there is no such option"),
        (["reload", "--pid"], "--pid: expected one argument"),
        (["--workers", "x", "a:b"], "--workers: 'x' is not a whole number"),
        ([], "no app is named"),
        (["stauts"], "graceserve: no command stauts; did you mean status? (an app of that name is stauts:application)"),
        (["stauts", "--json"], "no command stauts; did you mean status?"),
        (["rolback", "--pid", "1"], "no command rolback; did you mean rollback?"),
        (["relaod", "--workers", "x"], "--workers: 'x' is not"),  # no option of a command: an app is meant
        (["stauts:app", "--workers", "x"], "--workers: 'x' is not"),
        (["restart", "--workers", "x"], "--workers: 'x' is not"),  # near none
        (["tortur", "http://127.0.0.1:8000/"], "no command tortur; did you mean torture?"),
        (["torture"], "graceserve: torture: which server? give a URL"),
        (["torture", "https://127.0.0.1/"], "graceserve: torture https://127.0.0.1/: https is not supported"),
        (["torture", "unix:/nonexistent", "--reloads", "0"], "torture unix:/nonexistent: connect: No such file"),
        (["torture", "unix:/x", "--pid", "/nonexistent"], "--pid /nonexistent: No such file or directory"),
        (["torture", "unix:/x", "--pid", "4194999"], "--pid 4194999: there is no process 4194999"),
        (["torture", "unix:/x", "--pid", "0"], "--pid 0: that is no process"),
        (["torture", "unix:/x", "--pid", "OWN"], "--pid OWN: process OWN does not handle HUP"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([word.replace("OWN", own()) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("graceserve: ") and err.count("\n") == 1 and err.endswith("\n")
    assert expected.replace("OWN", own()) in err


def test_the_name_in_proc_net_unix() -> None:
    namespace = pid_namespace()
    text = (
        "Num       RefCount Protocol Flags    Type St Inode Path\n"
        f"0000000000000000: 00000002 00000000 00010000 0005 01 1 @graceserve/{namespace}/77\n"
        f"0000000000000000: 00000003 00000000 00000000 0005 03 2 @graceserve/{namespace}/77\n"
        f"0000000000000000: 00000002 00000000 00010000 0005 01 3 @graceserve/{namespace}/9\n"
        f"0000000000000000: 00000002 00000000 00010000 0005 01 4 @graceserve/{namespace + 1}/5\n"
        f"0000000000000000: 00000002 00000000 00010000 0005 01 5 @graceserve/{namespace}/../6\n"
        "0000000000000000: 00000003 00000000 00000000 0001 03 6\n"
    )
    assert listed_pids(text) == [9, 77]
    assert abstract_name(5) == f"\0graceserve/{namespace}/5"


def test_the_only_master_is_found_without_a_name(tmp_path: Path) -> None:
    """In a network namespace of its own, where nobody else's master can be seen."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a network namespace")
    program = tmp_path / "masters.py"
    program.write_text(
        "import os, subprocess, sys\n"
        "from graceserve.wire.control_name import abstract_name\n"
        "import socket\n"
        "def listen():\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        "        s.bind(abstract_name(os.getpid())); s.listen(); os.write(w, b'x')\n"
        "        client = s.accept()[0]; client.recv(1000); client.send(b'[1, \"Done\", {}]'); os._exit(0)\n"
        "    os.read(r, 1)\n"
        "    return pid\n"
        "r, w = os.pipe()\n"
        "def ask():\n"
        "    return subprocess.run([sys.executable, '-m', 'graceserve', 'reopen'], stderr=subprocess.PIPE, text=True)\n"
        "print(ask())\n"
        "one = listen()\n"
        "print(ask()); os.waitpid(one, 0)\n"
        "two, three = listen(), listen()\n"
        "print(two, three, ask())\n"
        "os.kill(two, 9); os.kill(three, 9)\n"
    )
    command = ["unshare", "--net", sys.executable, str(program)]
    environ = os.environ | {"PYTHONPATH": REPOSITORY}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environ)
    none, one, two = done.stdout.splitlines()
    assert "returncode=2" in none and "no master of this user runs here" in none
    assert "returncode=0" in one
    first, second, rest = two.split(" ", 2)
    assert "returncode=2" in rest and "2 masters run here; choose one with --pid" in rest
    assert f"{first} (" in rest and f"{second} (" in rest


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in COMMANDS)
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert "--control-socket" in capsys.readouterr().out
    assert "\n  torture " in text and main(["torture", "--help"]) == 0
    assert "--reload-command" in capsys.readouterr().out


def test_a_master_is_called_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By what its title says: here a process with nothing but a title and a socket."""
    program = (
        "import socket, sys\nfrom setproctitle import setproctitle\nsetproctitle(sys.argv[2])\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.bind(sys.argv[1])\ns.listen()\n"
        "print(flush=True)\nc = s.accept()[0]\nc.recv(1000)\n"
    )
    for number, (title, name) in enumerate(
        [("graceserve: master [my shop]", " [my shop]"), ("graceserve: master", ""), ("x [y]", "")]
    ):
        address = str(tmp_path / str(number))
        command = [sys.executable, "-c", program, address, title]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as master:
            assert master.stdout is not None and master.stdout.readline() == b"\n"
            assert main(["stop", "--control-socket", address]) == 0
        assert capsys.readouterr().out == f"stopped master {master.pid}{name}\n"


def test_control_c_says_that_the_reload_goes_on(tmp_path: Path) -> None:
    address = str(tmp_path / "ctl")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(address)
        sock.listen()
        command = [sys.executable, "-m", "graceserve", "reload", "--control-socket", address]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            connection, _ = sock.accept()
            with connection:
                assert connection.recv(1000)
                connection.send(b'[2, "Progress", {"text": "starting"}]')
                assert client.stdout is not None and client.stderr is not None
                assert [client.stdout.readline() for _ in "12"] == [f"master {own()}\n", "starting\n"]
                client.send_signal(signal.SIGINT)
                assert client.stderr.read() == (
                    f"graceserve: not waiting any more; what was asked of the master (pid {os.getpid()}) goes on\n"
                )
        assert client.returncode == 130
