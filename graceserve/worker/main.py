"""A worker, from its fork to its end. Shell; called by the template in the forked child."""

import os
import resource
import socket
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

from setproctitle import setproctitle

from graceserve.config import Settings
from graceserve.logs import Log
from graceserve.stacks import open_stacks
from graceserve.template.load import AppError, WSGIApplication
from graceserve.wire.channel import Channel
from graceserve.wire.messages import WorkerFailed, WorkerHello, WorkerReady, tail
from graceserve.worker.accept import Acceptor
from graceserve.worker.boot import boot
from graceserve.worker.draining import Draining
from graceserve.worker.environ import constants
from graceserve.worker.serve import Service, Worker
from graceserve.worker.signals import obey, obey_no_more, quit_now

SPARE_FDS = 64  # for the app's own files and sockets, of those that RLIMIT_NOFILE allows
FILE_BLOCK_BYTES = 65_536  # of wsgi.file_wrapper, where the app names no size


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is. `app` is given with `--preload`, else the worker imports it."""

    generation: int
    worker: int
    slot: int
    settings: Settings
    release: str
    app: WSGIApplication | None


def run(post: Post, channel: Channel, inbox: Channel, listeners: list[tuple[str, socket.socket]]) -> int:
    """The exit status: 0 after a drain, 1 if the app could not be booted."""
    stacks = open_stacks()
    channel.send(WorkerHello(os.getpid()), [stacks])
    settings = post.settings
    name = f" [{settings.name}]" if settings.name else ""
    setproctitle(f"graceserve: worker {post.slot} gen {post.generation}{name}")
    obey(quit_now)  # nothing to finish yet
    log = Log(
        json=settings.log_json,
        level=settings.log_level,
        path=settings.error_logfile,
        gen=post.generation,
        worker=post.worker,
    )
    draining = Draining()
    constant = constants(settings.threads, post.generation, draining, sys.stderr, FileWrapper)
    try:
        booted = boot(settings.app, post.app, settings.warmup, constant)
    except AppError as error:
        channel.send(WorkerFailed(error.reason, tail(error.detail)))
        obey_no_more()
        return 1
    obey(quit_now)  # the app may have set handlers of its own
    service = Service(booted.app, constant, settings, connections_max(settings), draining, log)
    worker = Worker(service, channel, Acceptor(listeners, inbox, log))
    if not channel.send(WorkerReady(booted.import_s, booted.warmup_s)):
        return 1  # the master is gone
    worker.run()
    return 0


def connections_max(settings: Settings) -> int:
    """`--worker-connections`, or what the descriptor limit allows. A descriptor that comes through the inbox when the
    table is full would be lost (recvmsg(2), MSG_CTRUNC), and the client's connection with it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = settings.worker_connections if soft == resource.RLIM_INFINITY else soft - SPARE_FDS
    return max(1, min(settings.worker_connections, allowed))


class FileWrapper(Iterable[bytes]):
    """`wsgi.file_wrapper` (PEP 3333, "Optional Platform-Specific File Handling"): the file in blocks."""

    def __init__(self, file: IO[bytes], block_bytes: int = FILE_BLOCK_BYTES) -> None:
        self.file = file
        self.block_bytes = block_bytes
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self.file.read(self.block_bytes), b"")
