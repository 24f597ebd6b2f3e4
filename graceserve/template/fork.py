"""Forking a worker. Shell; runs in the template, and for a moment in the process between template and worker.

The worker is forked twice: the process between says its pid and is gone at once, so that the kernel makes the worker a
child of the nearest subreaper, the master. One process reaps all workers, whatever becomes of their template.
"""

import os
import threading

from graceserve.errors import OperatorError
from graceserve.wire.channel import Channel
from graceserve.wire.messages import Forked, ForkFailed


def check_single_thread() -> None:
    """A fork copies one thread only. Raises `OperatorError` that names the others."""
    tasks = os.listdir("/proc/self/task")
    if len(tasks) == 1:
        return
    own = str(threading.get_native_id())
    names = {str(t.native_id): t.name for t in threading.enumerate()}
    others = ", ".join(sorted(names.get(task) or _comm(task) for task in tasks if task != own))
    raise OperatorError(
        f"the app started {len(tasks) - 1} thread(s) at import, which its forked workers would not have: {others}; "
        "start them on first use, or serve without --preload"
    )


def _comm(task: str) -> str:
    try:
        with open(f"/proc/self/task/{task}/comm", encoding="utf-8", errors="replace") as file:
            return f"native thread {file.read().strip()}"
    except OSError:
        return "a thread that has ended since"


def fork_worker(worker: int, to_master: Channel, worker_channel: Channel) -> bool:
    """True in the new worker, False in the template. A failure is told to the master, never raised."""
    try:
        check_single_thread()
        between = os.fork()
    except (OSError, OperatorError) as error:
        to_master.send(ForkFailed(worker, str(error)))
        return False
    if between:
        os.waitpid(between, 0)  # it forks, says so and exits: nothing in it can wait
        return False
    try:
        pid = os.fork()
    except OSError as error:
        to_master.send(ForkFailed(worker, str(error)))
        os._exit(1)
    if pid:
        worker_channel.send(Forked(pid))
        os._exit(0)
    return True
