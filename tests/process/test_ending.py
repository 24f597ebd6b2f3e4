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
ending = threading.Event()


def mark(name):
    os.close(os.open({there!r} + "/" + name + ".%d" % os.getpid(), os.O_CREAT | os.O_WRONLY))


class Deleted:
    mark = staticmethod(mark)

    def __del__(self):
        self.mark("deleted")


def work():
    threading.main_thread().join()
    mark("thread")


threading.Thread(target=work).start()
kept = Deleted()
atexit.register(mark, "hook")
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


def test_an_exception_in_a_hook_is_shown(site: Site, boot: Boot) -> None:
    fails = 'import atexit\n\n\ndef fail():\n    raise ValueError("a hook that fails")\n\n\natexit.register(fail)\n'
    server = boot("--workers", "1", at_import=fails)
    [old] = server.worker_pids()
    site.flip(site.release("42"))
    server.reload_ok()
    assert "ValueError: a hook that fails" in server.log
    assert f"pid={old} how=\"exited with status 0\"" in server.log
