"""What `graceserve status` shows. Shell (reads memory sizes from /proc); master."""

import os
import platform
from typing import Any

import graceserve
from graceserve.fleet.state import Generation, Worker
from graceserve.master.book import Kind
from graceserve.master.desk import Desk
from graceserve.master.reloads import Reloads

_RELOADS_SHOWN = 5
_DETAIL_CHARS = 2000  # of a traceback: `status` is one datagram


def status(desk: Desk, reloads: Reloads, asked: float) -> dict[str, Any]:
    """A JSON object; ages in seconds, memory in bytes. Keys are only ever added.

    `asked` is when the workers were pinged for it: the counters of one that has not answered since are older.
    """
    fleet, now = desk.fleet, desk.kernel.now()
    serving = desk.book.running.get(fleet.serving)
    history = [_reload(row, now) for row in reloads.history[-_RELOADS_SHOWN:]]
    return {
        "pid": os.getpid(),
        "version": graceserve.__version__,
        "python": platform.python_version(),
        "name": desk.settings.name,
        "since_s": round(now - desk.started, 1),
        "rss_bytes": desk.kernel.rss_bytes(os.getpid()),
        "generation": fleet.serving,
        "candidate": fleet.candidate,
        "stopping": fleet.stopping,
        "release": serving.pin.release if serving else "",
        "link": serving.pin.link if serving else "",
        "workers_wanted": fleet.worker_count,
        "listeners": [listener.address for listener in desk.listeners.all()],
        "generations": [_generation(desk, record, asked) for record in fleet.generations.values()],
        "last_reload": history[-1] if history else None,
        "reloads": history,
    }


def _generation(desk: Desk, record: Generation, asked: float) -> dict[str, Any]:
    now, running = desk.kernel.now(), desk.book.running.get(record.number)
    template = desk.book.part(record.number, Kind.TEMPLATE)
    return {
        "generation": record.number,
        "phase": record.phase.value,
        "age_s": round(now - record.since, 1),
        "release": running.pin.release if running else "",
        "title": running.pin.title if running else "",
        "python": running.hello.python if running else "",
        "executable": running.hello.executable if running else "",
        "graceserve": running.hello.graceserve if running else "",
        "repair_of": record.repair_of,
        "template_pid": template.pid if template else 0,
        "workers": [
            _worker(desk, worker, asked)
            for worker in sorted(desk.fleet.workers.values(), key=lambda it: (it.slot, it.serial))
            if worker.generation == record.number
        ],
    }


def _worker(desk: Desk, worker: Worker, asked: float) -> dict[str, Any]:
    now, child = desk.kernel.now(), desk.book.worker(worker.serial)
    pid = child.pid if child else 0
    row: dict[str, Any] = {
        "worker": worker.serial,
        "slot": worker.slot,
        "pid": pid,
        "phase": worker.phase.value,
        "age_s": round(now - worker.born_at, 1),
        "rss_bytes": desk.kernel.rss_bytes(pid) if pid else 0,
    }
    if child is not None:
        row |= {"requests": child.pong.requests, "connections": child.pong.connections, "busy": child.pong.busy}
        row["answers"] = child.pong_at >= asked  # else its loop is in an app call
    return row


def _reload(row: dict[str, Any], now: float) -> dict[str, Any]:
    shown = {key: value for key, value in row.items() if key != "at"}
    if "detail" in shown:
        shown["detail"] = shown["detail"][-_DETAIL_CHARS:]
    return shown | {"at_s_ago": round(now - row["at"], 1)}
