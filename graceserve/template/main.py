"""The template: the process of a generation that forks its workers. Shell.

Exec'd by the master with the release's own interpreter, as `python -m graceserve.template.main --channel FD`. It waits
in one place, `Channel.receive`, and ends with the master (end-of-file) or by its order (`Retire`).
"""

import contextlib
import gc
import os
import platform
import signal
import socket
import sys
import time
import traceback
from typing import NoReturn

from setproctitle import setproctitle

import graceserve
from graceserve.config import Settings
from graceserve.errors import WireError
from graceserve.logs import Log
from graceserve.stacks import open_stacks
from graceserve.template.fork import fork_worker
from graceserve.template.load import AppError, WSGIApplication, load_app, prepend_path
from graceserve.wire import messages as m
from graceserve.wire.channel import Channel, Inbox, close_all
from graceserve.worker.board import Board
from graceserve.worker.ending import end
from graceserve.worker.http.heads import heads
from graceserve.worker.main import Post, run

# Sent to the whole process group by shells, supervisors and `pkill`; only the master obeys them. Handlers that do
# nothing rather than SIG_IGN, which the app's own subprocesses would inherit.
DEAF_TO = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
           signal.SIGTTIN, signal.SIGTTOU, signal.SIGWINCH)  # fmt: skip


def main(argv: list[str]) -> NoReturn:
    """The template, and each worker that is forked from it, to its end.

    The template is not the one to run what the app registered with `atexit`, and the master is to see its channel's
    end-of-file when it has ended, not while it tidies up.
    """
    channel = Channel.of_fd(int(argv[argv.index("--channel") + 1]))
    try:
        status = _serve(channel, int(argv[argv.index("--stderr") + 1]))
    except Exception as error:
        if channel.closed:  # in a worker
            raise
        channel.send(m.TemplateFailed(m.line(f"{type(error).__name__}: {error}"), m.tail(traceback.format_exc())))
        os._exit(1)
    if channel.closed:
        end(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(channel: Channel, stderr_fd: int) -> int:
    channel.set_blocking()
    deafen()
    package = os.path.dirname(os.path.abspath(graceserve.__file__))
    hello = m.TemplateHello(m.PROTOCOL, graceserve.__version__, platform.python_version(), sys.executable, package)
    channel.send(hello, [open_stacks()])
    os.dup2(stderr_fd, 2)  # until here the master read it
    os.close(stderr_fd)
    match channel.receive():
        case (m.Boot() as boot, []):
            return Template(channel, boot).serve()
        case _:
            return 0


def deafen() -> None:
    """Leave the signals of the process group to the master."""
    for number in DEAF_TO:
        signal.signal(number, lambda *_: None)
        signal.siginterrupt(number, False)


class Template:
    """One generation's interpreter, directory and, with `--preload`, imported app."""

    def __init__(self, channel: Channel, boot: m.Boot) -> None:
        self._channel = channel
        self._boot = boot
        self._settings = Settings.load(boot.settings)
        settings = self._settings
        self._log = Log(
            json=settings.log_json, level=settings.log_level, path=settings.error_logfile, gen=boot.generation
        )
        self._app: WSGIApplication | None = None
        self._board = Board()

    def serve(self) -> int:
        """Fork workers on order until there is nothing to do; in a worker, its own exit status."""
        name = f" [{self._settings.name}]" if self._settings.name else ""
        setproctitle(f"graceserve: template gen {self._boot.generation}{name}")
        prepend_path(self._boot.release)
        if not self._prepare():
            return 1
        while True:
            try:
                received = self._channel.receive()
            except WireError as error:
                self._log.warning("template-ignored", reason=str(error))
                continue
            match received:
                case None | (m.Retire(), _):
                    return 0
                case (m.Fork() as order, fds):
                    status = self._fork(order, fds)
                    if status is not None:
                        return status
                case (m.Reopen(), _):
                    self._log.reopen()
                case (other, fds):
                    close_all(fds)
                    self._log.warning("template-ignored", message=type(other).__name__)

    def _prepare(self) -> bool:
        """Import the app if it is shared; whether the template can fork."""
        started = time.monotonic()
        if self._settings.preload:
            try:
                self._app = load_app(self._settings.app)
            except AppError as error:
                self._channel.send(m.TemplateFailed(error.reason, m.tail(error.detail)))
                return False
            deafen()  # the app may have set handlers of its own
        with contextlib.suppress(AppError):  # each worker will say so
            heads(self._settings.http)  # imports the parser once for all
        gc.collect()
        gc.freeze()  # what is here now is shared: the collector's marks must not copy it into every worker
        self._channel.send(m.TemplateReady(time.monotonic() - started))
        return True

    def _fork(self, order: m.Fork, fds: list[int]) -> int | None:
        """None in the template, the exit status in the worker."""
        channel = Channel.of_fd(fds[0])
        if not fork_worker(order.worker, self._channel, channel):
            channel.close()
            close_all(fds[1:])
            return None
        inbox = Inbox(*map(Channel.of_fd, fds[1:3]))
        self._channel.close()
        self._log.close()
        listeners = [(name, socket.socket(fileno=fd)) for name, fd in zip(order.listeners, fds[3:], strict=True)]
        post = Post(
            generation=self._boot.generation,
            worker=order.worker,
            slot=order.slot,
            settings=self._settings,
            release=self._boot.release,
            app=self._app,
            board=self._board,
        )
        return run(post, channel, inbox, listeners)


if __name__ == "__main__":
    main(sys.argv)
