"""What an app may rely on when its worker ends, at a reload and at a stop; Python does not tidy up beyond that."""

import signal
from pathlib import Path

import pytest

from tests.process.conftest import Boot
from tests.process.releases import Site

TEXT = "a line that is not flushed\n"
AT_IMPORT = """\
import atexit
import threading

text = open({there!r} + "/text.%d" % os.getpid(), "w")
text.write({text!r})
binary = open({there!r} + "/binary.%d" % os.getpid(), "wb")
binary.write({text!r}.encode())
sys.stdout.write({text!r})


def mark(name):
    os.close(os.open({there!r} + "/" + name + ".%d" % os.getpid(), os.O_CREAT | os.O_WRONLY))


def work():
    threading.main_thread().join()
    mark("thread")


threading.Thread(target=work).start()
atexit.register(mark, "hook")
"""
NO_FILE = """\
import atexit


class Deleted:
    def __del__(self, os=os, to={there!r} + "/deleted.%d"):
        os.close(os.open(to % os.getpid(), os.O_CREAT | os.O_WRONLY))


kept = Deleted()
atexit.register(lambda: os.close(os.open({there!r} + "/hook.%d" % os.getpid(), os.O_CREAT | os.O_WRONLY)))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("how", ["reload", "stop"])
def test_what_an_app_relies_on(site: Site, boot: Boot, tmp_path: Path, how: str, threads: str) -> None:
    server = boot(
        "--workers", "1", "--threads", threads, at_import=AT_IMPORT.format(there=str(tmp_path), text=TEXT)
    )  # fmt: skip
    [old] = server.worker_pids()
    if how == "reload":
        site.flip(site.release("42"))
        server.reload_ok()
    else:
        server.send(signal.SIGTERM)
        assert server.wait_exit() == 0
    assert f"pid={old} how=\"exited with status 0\"" in server.log
    found = {path.name: path.read_text() for path in tmp_path.iterdir() if path.name.endswith(f".{old}")}
    assert found == {f"text.{old}": TEXT, f"binary.{old}": TEXT, f"thread.{old}": "", f"hook.{old}": ""}


def test_without_a_file_it_is_gone_at_once(site: Site, boot: Boot, tmp_path: Path) -> None:
    server = boot("--workers", "1", at_import=NO_FILE.format(there=str(tmp_path)))
    [old] = server.worker_pids()
    site.flip(site.release("42"))
    server.reload_ok()
    assert [path.name for path in tmp_path.iterdir()] == [f"hook.{old}"]


ODD = {
    "a pipe that nobody reads": """\
import threading
reads, writes = os.pipe()
pipe = os.fdopen(writes, "wb")
threading.Thread(target=pipe.write, args=(bytes(1 << 20),), daemon=True).start()
""",
    "a stream of the app's own": """\
import io
class Raises(io.RawIOBase):
    def writable(self):
        return True
    def write(self, data):
        raise RuntimeError("a stream that fails")
odd = io.BufferedWriter(Raises())
odd.write(b"x")
sys.stdout = None
there = open(__file__, "a")
""",
    "no descriptor left": """\
import atexit
import resource
atexit.register(resource.setrlimit, resource.RLIMIT_NOFILE, (3, 3))
""",
}


@pytest.mark.parametrize("at_import", ODD.values(), ids=ODD)
def test_it_ends_all_the_same(boot: Boot, at_import: str) -> None:
    server = boot("--workers", "1", "--graceful-timeout", "30", at_import=at_import)
    [worker] = server.worker_pids()
    server.send(signal.SIGTERM)
    assert server.wait_exit() == 0
    assert f"pid={worker} how=\"exited with status 0\"" in server.log


def test_a_failure_of_its_threads_is_shown_and_the_hooks_are_called(site: Site, boot: Boot) -> None:
    fails = "import atexit\nimport threading\n\n\ndef fail():\n    raise ValueError('threads that fail')\n\n\n"
    fails += "threading._register_atexit(fail)\natexit.register(lambda: print('the hook', file=sys.stderr))\n"
    server = boot("--workers", "1", at_import=fails)
    site.flip(site.release("42"))
    server.reload_ok()
    assert "ValueError: threads that fail" in server.log and "the hook" in server.log


def test_an_exception_in_a_hook_is_shown(site: Site, boot: Boot) -> None:
    fails = 'import atexit\n\n\ndef fail():\n    raise ValueError("a hook that fails")\n\n\natexit.register(fail)\n'
    server = boot("--workers", "1", at_import=fails)
    [old] = server.worker_pids()
    site.flip(site.release("42"))
    server.reload_ok()
    assert "ValueError: a hook that fails" in server.log
    assert f"pid={old} how=\"exited with status 0\"" in server.log
