"""The access log's file: few writes, whole lines, rotation; never waiting, never raising."""

import fcntl
import json
import os
import resource
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from graceserve.logs import PIECE_BYTES_MAX
from graceserve.worker.access_format import Entry
from graceserve.worker.access_log import KEPT_BYTES_MAX, AccessLog
from tests.pure.pipes import drain

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 60
FORM = "%(r)s"
LINES = 3000  # of each of several processes
LINE = "%({who}e)s %({number}e)s %({filler}e)s"

# A worker of its own: writes numbered lines, says at the end what became of them.
PROGRAM = f"""
import json, os, resource, sys
from graceserve.worker.access_format import Entry
from graceserve.worker.access_log import AccessLog
path, who, lines = sys.argv[1], sys.argv[2], int(sys.argv[3])
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
if "fallback" in sys.argv:  # no descriptor is left to open stdout anew
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
log = AccessLog(path, {LINE!r})
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
for number in range(lines):
    environ = {{"who": who, "number": number, "filler": who * (number % 300)}}
    log.add(Entry(environ, "200 OK", [], 0, 0.0, 0.0, 1))
left = log.flush()
blocking = os.get_blocking(1)
log.close()
print(json.dumps([log.take_dropped(), left, blocking, log.problem]), file=sys.stderr)
"""


def entry(line: str) -> Entry:
    return Entry({"graceserve.request_line": line}, "400 Bad Request", [], 0, 0.0, 0.0, 1)


def start(path: str, who: str, lines: int, stdout: int = subprocess.DEVNULL, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, path, who, str(lines), *more]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=stdout, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, bool, bool, str]:
    """Dropped, something left after a flush, whether its stdout is a blocking descriptor, the last problem."""
    try:
        _, said = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
    dropped, left, blocking, problem = json.loads(said)
    return dropped, left, blocking, problem


def numbers(lines: list[str]) -> dict[str, list[int]]:
    """Of each writer; fails if a line is not just as it was written."""
    found: dict[str, list[int]] = {}
    for line in lines:
        who, number, filler = line.split(" ")
        assert filler == who * (int(number) % 300)
        found.setdefault(who, []).append(int(number))
    return found


# --- when is written


def test_lines_are_kept_for_one_write(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path), FORM)
    assert not log.due and not log.flush()
    assert [log.add(entry(line)) for line in ("one", "two", "three")] == [True, False, False]
    assert log.due and path.read_text() == ""
    assert not log.flush()
    assert not log.due and path.read_text() == "one\ntwo\nthree\n"
    assert [log.add(entry(line)) for line in ("four", "five")] == [True, False], "the timer is to be armed again"
    log.close()
    assert path.read_text().splitlines()[3:] == ["four", "five"]


def test_many_lines_do_not_wait_for_the_timer(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path), FORM)
    armed = [log.add(entry(f"{number:0999d}")) for number in range(200)]
    assert sum(armed) == 1, "a timer that runs is not armed again"
    sizes = path.stat().st_size
    assert 100_000 < sizes < 200_000 and sizes % 1000 == 0
    log.flush()
    assert [int(line) for line in path.read_text().splitlines()] == list(range(200))
    log.close()


def test_a_bad_format_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such atom"):
        AccessLog(str(tmp_path / "access.log"), "%(x)s")
    assert not (tmp_path / "access.log").exists()


# --- the file


def test_a_new_file_can_be_read_by_others_and_an_old_one_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    before = os.umask(0o027)
    try:
        first = AccessLog(str(path), FORM)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    first.add(entry("one"))
    first.close()
    second = AccessLog(str(path), FORM)
    second.add(entry("two"))
    second.close()
    assert path.read_text() == "one\ntwo\n"


def test_rotation(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(str(path), FORM)
    open_before = len(os.listdir("/proc/self/fd"))
    log.add(entry("one"))
    path.rename(old)
    log.add(entry("two"))
    assert log.reopen() and not log.problem
    assert len(os.listdir("/proc/self/fd")) == open_before
    log.add(entry("three"))
    log.flush()
    assert (old.read_text(), path.read_text()) == ("one\ntwo\n", "three\n")
    log.close()
    assert len(os.listdir("/proc/self/fd")) == open_before - 1


def test_a_rotation_that_fails_keeps_the_file(tmp_path: Path) -> None:
    directory, moved = tmp_path / "logs", tmp_path / "moved"
    directory.mkdir()
    log = AccessLog(str(directory / "access.log"), FORM)
    directory.rename(moved)
    assert not log.reopen() and log.problem == "No such file or directory"
    log.add(entry("still"))
    log.close()
    assert (moved / "access.log").read_text() == "still\n"


@pytest.mark.parametrize("path", ["missing/access.log", "fifo", "zero\0byte"])
def test_a_file_that_cannot_be_opened_is_told_and_lines_wait_for_a_better_one(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "fifo")  # without a reader: opening it must not wait for one
    log = AccessLog(str(tmp_path / path), FORM)
    assert log.problem
    log.add(entry("one"))
    problem = log.problem
    assert log.flush() and log.problem == problem, "the caller comes again"
    (tmp_path / "missing").mkdir()
    if path == "missing/access.log":
        assert log.reopen()
        assert not log.flush() and (tmp_path / path).read_text() == "one\n"
    else:
        assert not log.reopen()
        log.close()
        assert log.take_dropped() == 1 and log.take_dropped() == 0


def test_a_closed_log_takes_lines_and_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(str(path), FORM)
    log.close()
    log.add(entry("late"))
    log.close()
    assert path.read_text() == "" and log.take_dropped() == 1


def test_several_processes_append_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    processes = [start(str(path), who, LINES) for who in "abc"]
    assert [ended(process)[0] for process in processes] == [0, 0, 0]
    assert numbers(path.read_text().splitlines()) == {who: list(range(LINES)) for who in "abc"}


# --- no space


def test_a_full_disk_is_told_and_what_is_kept_has_an_end() -> None:
    log = AccessLog("/dev/full", FORM)
    for _ in range(2000):
        log.add(entry("x" * 999))
    assert log.flush() and log.problem == "No space left on device"
    dropped = log.take_dropped()
    assert dropped == 2000 - KEPT_BYTES_MAX // 1000
    log.close()
    assert log.take_dropped() == 2000 - dropped


def test_a_line_of_which_the_disk_took_a_part_is_ended(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk: it also takes what fits, and refuses the rest."""
    path = tmp_path / "access.log"
    log = AccessLog(str(path), FORM)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (14, hard))
    try:
        for line in ("one", "two", "a longer line", "three"):
            log.add(entry(line))
        assert log.flush() and log.problem == "File too large"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "one\ntwo\na long"
    log.add(entry("four"))
    assert not log.flush() and not log.problem
    assert path.read_text() == "one\ntwo\na long\nthree\nfour\n"
    assert log.take_dropped() == 1
    log.close()


def test_an_object_of_the_app_that_cannot_be_told_costs_its_line(tmp_path: Path) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no")

    log = AccessLog(str(tmp_path / "access.log"), "%({thing}e)s")
    assert not log.add(Entry({"thing": Mute()}, "200 OK", [], 0, 0.0, 0.0, 1))
    assert log.problem == "RuntimeError" and log.take_dropped() == 1
    assert log.add(Entry({"thing": 1}, "200 OK", [], 0, 0.0, 0.0, 1))
    log.close()


# --- pipes


def test_a_pipe_takes_whole_lines_and_a_slow_reader_loses_nothing(pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 8192)
    log = AccessLog(f"/proc/self/fd/{pipe[1]}", FORM)
    for number in range(30):
        log.add(entry(f"{number:0999d}"))
    read, rounds = "", 0
    while log.flush():
        part = drain(pipe[0])
        assert part and part.endswith("\n"), "a part of a line is no write"
        read, rounds = read + part, rounds + 1
    read += drain(pipe[0])
    assert rounds > 1
    assert [int(line) for line in read.splitlines()] == list(range(30))
    assert log.take_dropped() == 0
    log.close()


def test_a_pipe_without_a_reader_costs_lines_only(pipe: tuple[int, int]) -> None:
    read_fd, write_fd = os.pipe()
    log = AccessLog(f"/proc/self/fd/{write_fd}", FORM)
    os.close(read_fd)
    os.close(write_fd)
    log.add(entry("one"))
    assert log.flush() and log.problem == "Broken pipe"
    log.close()
    assert log.take_dropped() == 1


@pytest.mark.parametrize("form", ["json", '%(h)s "%(r)s" "%(a)s"', "grün " + '"%(a)s" ' * 60])
@pytest.mark.parametrize("filler", ["x", "\xff", '"'])
def test_a_line_too_long_for_a_pipe_loses_the_ends_of_its_values(
    pipe: tuple[int, int], tmp_path: Path, form: str, filler: str
) -> None:
    long = Entry({"REMOTE_ADDR": "203.0.113.7", "graceserve.request_line": "GET / HTTP/1.1",
                  "HTTP_USER_AGENT": filler * 10_000}, "200 OK", [], 0, 0.0, 0.0, 1)  # fmt: skip
    log = AccessLog(f"/proc/self/fd/{pipe[1]}", form)
    log.add(long)
    log.add(long)
    assert not log.flush()
    read = drain(pipe[0])
    assert len(read.splitlines()) == 2 and all(
        len(f"{line}\n".encode()) <= PIECE_BYTES_MAX for line in read.splitlines()
    )
    if "%(h)s" in form or form == "json":
        assert "203.0.113.7" in read and "GET / HTTP/1.1" in read
    for line in read.splitlines() if form == "json" else []:
        assert json.loads(line)["user_agent"].endswith("...")
    log.close()
    with_file = AccessLog(str(tmp_path / "access.log"), FORM)
    with_file.add(entry("x" * 100_000))
    with_file.close()
    assert (tmp_path / "access.log").stat().st_size == 100_001, "a file takes it whole"


@pytest.mark.parametrize("kind", ["pipe", "socket", "fallback"])
def test_workers_whose_stdout_nobody_reads_do_not_wait(kind: str) -> None:
    """All at once, so that one fills the room that another has just seen. Their stdout stays a blocking one."""
    if kind == "socket":
        read_fd, write_fd = (sock.detach() for sock in socket.socketpair())
    else:
        read_fd, write_fd = os.pipe()
    processes = [start("-", who, LINES * 2, write_fd, kind) for who in "abcd"]
    os.close(write_fd)
    ends = [ended(process) for process in processes]
    os.set_blocking(read_fd, False)
    found = numbers(drain(read_fd).splitlines())
    os.close(read_fd)
    assert sum(dropped for dropped, *_ in ends) == 4 * LINES * 2 - sum(map(len, found.values()))
    assert [(left, blocking) for _, left, blocking, _ in ends] == [(True, True)] * 4
    assert all(dropped and problem for dropped, _, _, problem in ends)
    assert found and all(of_one == sorted(of_one) for of_one in found.values())


def test_workers_whose_stdout_is_read_do_not_mix_their_lines() -> None:
    read_fd, write_fd = os.pipe()
    processes = [start("-", who, LINES, write_fd) for who in "abc"]
    os.close(write_fd)
    parts = []
    while select.select([read_fd], [], [], PATIENCE_S)[0] and (part := os.read(read_fd, 65536)):
        parts.append(part)
    os.close(read_fd)
    ends = [ended(process) for process in processes]
    found = numbers(b"".join(parts).decode().splitlines())
    assert sorted(found) == ["a", "b", "c"]
    for who, (dropped, *_) in zip("abc", ends, strict=True):
        assert found[who] == sorted(set(found[who])) and len(found[who]) + dropped == LINES


def test_stdout_is_a_file(tmp_path: Path) -> None:
    """Opened by a shell's `>`, so not for appending: only the descriptor that all share knows where the end is."""
    with open(tmp_path / "out", "w") as out:
        processes = [start("-", who, LINES, out.fileno()) for who in "ab"]
        assert [ended(process)[0] for process in processes] == [0, 0]
    assert numbers((tmp_path / "out").read_text().splitlines()) == {who: list(range(LINES)) for who in "ab"}


def test_stdout_is_closed() -> None:
    program = "import os, sys; sys.stdout.flush(); os.close(1)\n" + PROGRAM.replace("os.get_blocking(1)", "True")
    command = [sys.executable, "-c", program, "-", "a", "5"]
    done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE_S)
    assert json.loads(done.stderr) == [5, True, True, "Bad file descriptor"]
