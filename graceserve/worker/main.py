"""A worker, from its fork to its end. Shell; called by the template in the forked child."""

import os
import resource
import socket
import sys
from dataclasses import dataclass
from typing import Any

from setproctitle import setproctitle

from graceserve.config import Settings
from graceserve.logs import Log
from graceserve.priority import step_forward
from graceserve.stacks import open_stacks
from graceserve.template.load import AppError, WSGIApplication
from graceserve.wire.channel import Channel, Inbox
from graceserve.wire.messages import WorkerFailed, WorkerHello, WorkerReady, tail
from graceserve.worker.accept import Acceptor
from graceserve.worker.access_log import AccessLog
from graceserve.worker.board import Board
from graceserve.worker.boot import boot
from graceserve.worker.draining import Draining
from graceserve.worker.environ import Environs, constants
from graceserve.worker.filewrapper import FileWrapper
from graceserve.worker.forwarded import Trust
from graceserve.worker.http.heads import heads
from graceserve.worker.http.port import Limits
from graceserve.worker.keeper import keep
from graceserve.worker.ledger import Ledger
from graceserve.worker.patience import NEVER_S, Patience
from graceserve.worker.preface import Expected
from graceserve.worker.proxyproto import Mode
from graceserve.worker.rehearsal import rehearse
from graceserve.worker.serve import Worker
from graceserve.worker.service import Service
from graceserve.worker.signals import obey, obey_no_more, quit_now
from graceserve.worker.tls import context

UNLIMITED_HEAD_BYTES = 16 << 20  # `--limit-request-line 0` and the like
SPARE_FDS = 64  # for the app's own files and sockets, of those that RLIMIT_NOFILE allows
LEDGER_FDS = 1024  # of the app's, below which the numbers of all connections are


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker is. `app` is given with `--preload`, else the worker imports it."""

    generation: int
    worker: int
    slot: int
    settings: Settings
    release: str
    app: WSGIApplication | None
    board: Board


def run(post: Post, channel: Channel, inbox: Inbox, listeners: list[tuple[str, socket.socket]]) -> int:
    """The exit status: 0 after a drain, 1 if the app could not be booted."""
    place = post.board.place(post.slot)  # a killed predecessor may stand there as free
    stacks = open_stacks()
    channel.send(WorkerHello(os.getpid()), [stacks])
    settings = post.settings
    name = f" [{settings.name}]" if settings.name else ""
    title = f"worker {post.slot} gen {post.generation}{name}"
    setproctitle(f"graceserve: {title}")
    obey(quit_now)  # nothing to finish yet
    log = Log(
        json=settings.log_json,
        level=settings.log_level,
        path=settings.error_logfile,
        gen=post.generation,
        worker=post.worker,
    )
    try:
        ledger = Ledger(connections_max(settings) + LEDGER_FDS)
    except OSError as error:  # a limit on memory that is only mapped
        ledger = Ledger(0)
        log.warning("no-keeper", reason=str(error), text="a killed worker's connections are closed with it")
    else:
        keep(ledger, inbox.put, f"graceserve: keeper of {title}", log)
    draining = Draining()
    environs = environs_of(settings, constants(settings.threads, post.generation, draining, sys.stderr, FileWrapper))
    try:
        tls = context(settings)
        parser = heads(settings.http)
        access = access_of(settings)
        booted = boot(settings.app, post.app, settings.warmup, environs)
        obey(quit_now)  # the app may have set handlers of its own
        service = Service(
            app=booted.app,
            environs=environs,
            heads=parser,
            limits=limits_of(settings),
            patience=patience_of(settings),
            settings=settings,
            connections_max=connections_max(settings),
            draining=draining,
            log=log,
            ledger=ledger,
            expected=expected_of(settings),
            tls=tls,
            access=access,
        )
        rehearse(service)
    except AppError as error:
        channel.send(WorkerFailed(error.reason, tail(error.detail)))
        obey_no_more()
        return 1
    step_forward()  # now, because threads begin as those that start them
    acceptor = Acceptor(listeners, inbox.take, log)
    worker = Worker(service, channel, inbox, acceptor, place)
    place.enter()  # before a sibling may accept, which would take all that there is from a predecessor
    if not channel.send(WorkerReady(booted.import_s, booted.warmup_s)):
        return 1  # the master is gone
    worker.run()
    log.close()  # what is open for writing now is the app's: see `ending`
    return 0


def connections_max(settings: Settings) -> int:
    """`--worker-connections`, or what the descriptor limit allows. A descriptor that comes through the inbox when the
    table is full would be lost (recvmsg(2), MSG_CTRUNC), and the client's connection with it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = settings.worker_connections if soft == resource.RLIM_INFINITY else soft - SPARE_FDS
    return max(1, min(settings.worker_connections, allowed))


def environs_of(settings: Settings, constant: dict[str, Any]) -> Environs:
    """Environs for these settings."""
    believed = frozenset(filter(None, settings.forwarded_headers.split(",")))
    trust = Trust.of(settings.forwarded_allow_ips)
    return Environs(constant, trust, believed, os.environ.get("SCRIPT_NAME", ""))


def limits_of(settings: Settings) -> Limits:
    """What a request may measure. Where a line is unlimited, the head as a whole still is not."""
    line = settings.limit_request_line or UNLIMITED_HEAD_BYTES
    field = settings.limit_request_field_size or UNLIMITED_HEAD_BYTES
    return Limits(
        line_bytes_max=line,
        head_bytes_max=min(max(Limits().head_bytes_max, line + 2 * field), UNLIMITED_HEAD_BYTES),
        fields_max=settings.limit_request_fields or sys.maxsize,
        field_bytes_max=field,
        body_bytes_max=settings.limit_request_body or sys.maxsize,
        header_map=settings.header_map,
    )


def patience_of(settings: Settings) -> Patience:
    """How long a client may take; 0 is for ever."""
    return Patience(
        keep_alive_s=settings.keep_alive,
        head_s=settings.head_timeout or NEVER_S,
        body_s=settings.body_timeout or NEVER_S,
        write_s=settings.write_timeout or NEVER_S,
    )


def access_of(settings: Settings) -> AccessLog | None:
    """Where requests are logged. Raises `AppError`."""
    if not settings.access_logfile:
        return None
    made = AccessLog(settings.access_logfile, settings.access_logformat)
    if made.problem:
        raise AppError(f"--access-log {settings.access_logfile}: {made.problem}; correct the path or its permissions")
    return made


def expected_of(settings: Settings) -> Expected | None:
    """Who sends the PROXY protocol."""
    if settings.proxy_protocol == "off":
        return None
    within_s = settings.head_timeout or NEVER_S
    return Expected(Mode(settings.proxy_protocol), Trust.of(settings.proxy_allow_ips), within_s)
