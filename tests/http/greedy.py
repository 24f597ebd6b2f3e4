"""An app that takes all signals for itself, and leaves marks when it hangs and ends."""

import atexit
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

MARK = os.environ.get("GREEDY_MARK", "/dev/null")

for _number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
    signal.signal(_number, lambda *_: os._exit(99))
atexit.register(lambda: open(MARK, "w").close())


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """The ignored signals of a child, as a hexadecimal mask; or hangs, whatever is raised."""
    if environ["PATH_INFO"] == "/hang":
        open(MARK + ".hanging", "w").close()
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    start("200 OK", [])
    return [line.split()[1].encode() for line in status.splitlines() if line.startswith("SigIgn")]
