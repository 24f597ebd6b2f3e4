"""Log lines: one event a line whatever it holds; never waiting, never raising."""

import fcntl
import json
import os
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graceserve.logs import PIECE_BYTES_MAX, Log, json_line, text_line, value_text
from tests.pure.pipes import drain

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def test_a_line(pipe: tuple[int, int]) -> None:
    log = Log(fd=pipe[1], gen=7)
    log.info("promoted", release="/srv/app/releases/42", took_s=0.314159)
    assert re.fullmatch(f"{STAMP} INFO  promoted gen=7 release=/srv/app/releases/42 took_s=0.314\n", drain(pipe[0]))


def test_bound_fields_and_detail(pipe: tuple[int, int]) -> None:
    log = Log(fd=pipe[1], gen=7)
    log.bind(worker=3).error("failed", "Traceback:\n  File x\nValueError: \x1b[31mred\n", gen=8)
    head, *detail = drain(pipe[0]).splitlines()
    assert re.fullmatch(f"{STAMP} ERROR failed gen=8 worker=3", head)
    assert detail == ["    Traceback:", "      File x", "    ValueError: \\u001b[31mred"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain/path-1.0:8000,x@y+z%", "plain/path-1.0:8000,x@y+z%"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", "back\\slash"),
        ("back\\ slash", '"back\\\\ slash"'),
        ("a\nb\r\tc", '"a\\nb\\r\\tc"'),
        ("\x00\x1b\x7f\x85\u2028", '"\\u0000\\u001b\\u007f\\u0085\\u2028"'),
        ("\udcff", '"\\udcff"'),
        ("grün", "grün"),
        (True, "true"),
        (None, "null"),
        (3, "3"),
        (2.0, "2"),
        (0.0, "0"),
        (100.0, "100"),
        (["a", "b"], "a,b"),
        ({"a": 1}, '"{\\"a\\":1}"'),
    ],
)
def test_values(value: object, expected: str) -> None:
    assert value_text(value) == expected


@given(st.text(st.characters(codec=None)), st.text(), st.text(st.characters(codec=None)))
def test_nothing_breaks_a_line(value: str, event: str, detail: str) -> None:
    head, *rest = text_line("T", "info", event, detail, {"k": value}).encode("utf-8", "backslashreplace").split(b"\n")
    assert rest.pop() == b""
    assert all(line.startswith(b"    ") for line in rest)
    for line in [head, *rest]:
        assert len(line.decode().splitlines()) == 1
    row = json.loads(json_line("T", "info", "e", detail, {"k": value}))
    assert row["k"] == value and row.get("detail", "") == detail


def test_json(pipe: tuple[int, int]) -> None:
    Log(fd=pipe[1], json=True, gen=7).warning("broken", "a\nb", reason='x "y"', phases={"boot": 0.5})
    row = json.loads(drain(pipe[0]))
    assert re.fullmatch(STAMP, row.pop("time"))
    assert row == {
        "level": "warning", "event": "broken", "gen": 7, "reason": 'x "y"', "phases": {"boot": 0.5}, "detail": "a\nb"
    }  # fmt: skip


def test_levels(pipe: tuple[int, int]) -> None:
    log = Log(fd=pipe[1], level="warning")
    for say in (log.debug, log.info, log.warning, log.error):
        say("event")
    assert [line.split()[1] for line in drain(pipe[0]).splitlines()] == ["WARNING", "ERROR"]


def test_a_full_pipe_drops_whole_lines_and_counts_them(pipe: tuple[int, int]) -> None:
    """The descriptor is a blocking one: a write that waits would hang this test."""
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 8192)
    log = Log(fd=pipe[1])
    assert os.get_blocking(pipe[1])
    for number in range(500):
        log.info("event", number=number)
    kept = drain(pipe[0]).splitlines()
    log.bind(gen=1).info("after")
    log.info("later")
    after, later = drain(pipe[0]).splitlines()
    assert [line.rpartition("=")[2] for line in kept] == [str(number) for number in range(len(kept))]
    assert 0 < len(kept) < 500
    assert f"dropped={500 - len(kept)}" in after
    assert "dropped" not in later


def test_a_long_detail_is_cut_at_line_ends_and_a_torn_line_is_ended(pipe: tuple[int, int]) -> None:
    fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, 8192)
    log = Log(fd=pipe[1])
    log.info("one", "\n".join(f"line {number:04d}" for number in range(2000)))
    first = drain(pipe[0])
    assert 0 < len(first) <= 8192 and first.endswith("\n")
    log.info("two", "x" * 3 * PIECE_BYTES_MAX)  # has no line end to cut at
    second = drain(pipe[0])
    assert "dropped=1" in second.splitlines()[0] and not second.endswith("\n")
    log.info("three")
    ended, third = drain(pipe[0]).split("\n", 1)
    assert ended == "" and "three dropped=2" in third


def test_a_stream_socket_as_journald_s() -> None:
    left, right = socket.socketpair()
    with left, right:
        log = Log(fd=left.fileno())
        for number in range(20_000):
            log.info("event", number=number)
        right.setblocking(False)
        assert right.recv(1 << 20)


def test_nothing_raises(pipe: tuple[int, int], tmp_path: Path) -> None:
    read_fd, write_fd = os.pipe()
    log = Log(fd=write_fd)
    os.close(read_fd)
    log.info("nobody reads")
    os.close(write_fd)
    log.info("closed")
    Log(fd=-1).info("no descriptor")
    full = os.open("/dev/full", os.O_WRONLY)
    Log(fd=full).info("no space")
    os.close(full)
    failing = Log(fd=pipe[1], path=str(tmp_path / "missing" / "log"))
    assert failing.problem == "No such file or directory"
    failing.reopen()
    failing.info("to the descriptor instead")
    assert "instead" in drain(pipe[0])


def test_a_file_is_appended_to_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "app.log"
    path.write_text("before\n")
    log = Log(path=str(path))
    bound = log.bind(gen=2)
    log.info("one")
    path.rename(tmp_path / "app.log.1")
    bound.info("two")
    before = len(os.listdir("/proc/self/fd"))
    log.reopen()
    assert len(os.listdir("/proc/self/fd")) == before
    bound.info("three")
    first = (tmp_path / "app.log.1").read_text().splitlines()
    assert [line.split()[-1] for line in first] == ["before", "one", "gen=2"]
    assert "three gen=2" in path.read_text()


def test_a_reopen_that_fails_keeps_the_file(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    log = Log(path=str(directory / "app.log"))
    directory.rename(tmp_path / "moved")
    log.reopen()
    assert log.problem
    log.info("still")
    assert "still" in (tmp_path / "moved" / "app.log").read_text()


def test_a_fifo_without_reader_does_not_hang(tmp_path: Path, pipe: tuple[int, int]) -> None:
    os.mkfifo(tmp_path / "fifo")
    log = Log(fd=pipe[1], path=str(tmp_path / "fifo"))
    assert log.problem
    log.info("event")
    assert "event" in drain(pipe[0])
