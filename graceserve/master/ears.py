"""What the children say, and their deaths, as events for the fleet. Shell; master."""

import os
import signal
from functools import partial

from graceserve.errors import WireError
from graceserve.fleet import events as e
from graceserve.master.book import Child, Kind, Running
from graceserve.master.desk import Desk
from graceserve.master.kernel import describe
from graceserve.master.reloads import Reloads
from graceserve.wire import messages as m
from graceserve.wire.channel import close_all

_OUTPUT_BYTES_MAX = 30_000  # of stacks or output


class Ears:
    """Listens to all children. `checked` is called with the resume check's answer."""

    def __init__(self, desk: Desk, reloads: Reloads) -> None:
        self._desk = desk
        self._reloads = reloads
        self.checking: Child | None = None  # the resume check that counts; an older one may still be dying
        self.checked: str | None = None  # the resume check's answer: why not, "" for yes, None for none yet

    def attach(self, child: Child) -> None:
        """Listen to this child from now on."""
        if child.channel is not None and not child.channel.closed:
            self._desk.poller.register(child.channel, partial(self.listen, child))

    def listen(self, child: Child) -> None:
        """Take in all that it has said."""
        channel = child.channel
        while channel is not None and not channel.closed:
            try:
                received = channel.receive()
            except BlockingIOError:
                return
            except WireError as error:
                self._desk.log.warning("ignored", gen=child.generation, worker=child.worker, reason=str(error))
                continue
            if received is None:
                self._desk.poller.unregister(channel)
                channel.close()
                self._silent(child)
                return
            self._heard(child, *received)

    def reap(self) -> None:
        """Bury the dead: ours with their last words, strangers quietly."""
        for unborn in [child for child in self._desk.book.children if child.pid == 0]:
            self.listen(unborn)  # its pid may be on the way: whoever forked it has said so before it could die
        for pid, status in self._desk.kernel.reap():
            child = self._desk.book.by_pid(pid)
            if child is not None:
                self._gone(child, describe(status))

    def _heard(self, child: Child, message: m.Message, fds: list[int]) -> None:
        if isinstance(message, m.TemplateHello | m.WorkerHello) and fds:
            child.stacks_fd = fds.pop(0)
        close_all(fds)
        match child.kind:
            case Kind.WORKER:
                self._worker_said(child, message)
            case Kind.TEMPLATE:
                self._template_said(child, message)
            case Kind.PREPARE | Kind.CHECK:
                self._other_said(child, message)

    def _worker_said(self, child: Child, message: m.Message) -> None:
        desk = self._desk
        match message:
            case m.Forked(pid) | m.WorkerHello(pid):
                self._born(child, pid)
            case m.WorkerReady(import_s, warmup_s):
                child.ready = True
                self._tell_ready(child, import_s, warmup_s)
                desk.tell(e.WorkerReady(child.worker))
            case m.WorkerFailed(reason, detail):
                child.said = reason
                self._keep_detail(child, detail)
                desk.tell(e.WorkerFailed(child.worker, reason))
            case m.Leaving(reason):
                desk.log.info("leaving", gen=child.generation, worker=child.worker, pid=child.pid, reason=reason)
                desk.tell(e.WorkerLeaving(child.worker))
            case m.Pong():
                child.pong, child.pong_at = message, desk.kernel.now()
                desk.tell(e.WorkerPonged(child.worker))
            case _:
                self._ignored(child, message)

    def _template_said(self, child: Child, message: m.Message) -> None:
        desk, generation = self._desk, child.generation
        running = desk.book.running.get(generation)
        match message:
            case m.TemplateHello() if running is not None:
                running.hello = message
                if message.protocol != m.PROTOCOL:
                    reason = (
                        f"graceserve {message.graceserve} of this release speaks protocol {message.protocol}, "
                        f"the master {m.PROTOCOL}: stop and start the server to change over"
                    )
                    desk.tell(e.TemplateFailed(generation, reason))
            case m.TemplateReady() if running is not None:
                child.ready = True
                running.marks["template"] = desk.kernel.now()
                self._reloads.progress(generation, f"template up: {_versions(running)}")
                desk.tell(e.TemplateReady(generation))
            case m.TemplateFailed(reason, detail):
                child.said = reason
                self._keep_detail(child, detail)
                desk.tell(e.TemplateFailed(generation, reason))
            case m.ForkFailed(worker, reason):
                unborn = desk.book.worker(worker)
                if unborn is not None:
                    self.never_was(unborn, reason)
            case m.ExecFailed(reason):
                child.said = f"could not be started: {reason}"
            case _:
                self._ignored(child, message)

    def _other_said(self, child: Child, message: m.Message) -> None:
        match message:
            case m.ResumeChecked(reason) if child is self.checking:
                self.checked = reason
            case m.ResumeChecked():
                pass
            case m.ExecFailed(reason):
                child.said = f"could not be started: {reason}"
            case _:
                self._ignored(child, message)

    def _born(self, child: Child, pid: int) -> None:
        child.pid = pid
        if child.kill_wanted:
            self._desk.kernel.kill(pid, signal.SIGKILL)

    def _silent(self, child: Child) -> None:
        """End-of-file: it is dead or dying, unless its app closed our channel; its exit status says the rest."""
        if child.dead:
            return
        if child.kind is Kind.WORKER and child.pid == 0:
            self.never_was(child, "its template died before it could be forked")
        elif child.kind is Kind.TEMPLATE:
            self._desk.kernel.kill(child.pid, signal.SIGKILL)  # it ends by _exit, so this one lives on and is deaf

    def never_was(self, child: Child, reason: str) -> None:
        """A worker that was ordered and does not exist."""
        self._bury(child)
        self._desk.tell(e.WorkerExited(child.worker, reason))

    def _gone(self, child: Child, how: str) -> None:
        child.dead = True
        self.listen(child)  # its last words are the true cause
        if child not in self._desk.book.children:
            return
        desk, last = self._desk, _tail_of(child.stacks_fd) or _tail_of(child.output_fd)
        if child.kind is not Kind.WORKER and child.stacks_fd < 0 and last and not child.said and not how.endswith(" 0"):
            how = f"{how}: {last.strip().splitlines()[-1]}"
        if child.kill_wanted and "SIGKILL" in how:
            how = "was killed by the master"
        desk.log.info(
            "exited", detail=last, kind=child.kind.value, gen=child.generation, worker=child.worker,
            slot=child.slot, pid=child.pid, how=how,
        )  # fmt: skip
        if child.kind is not Kind.PREPARE or how != "exited with status 0":
            self._keep_detail(child, last)
        self._bury(child)
        match child.kind:
            case Kind.WORKER:
                stage = "" if child.ready else " before it was ready"
                desk.tell(e.WorkerExited(child.worker, child.said or f"worker {child.slot} {how}{stage}"))
            case Kind.TEMPLATE:
                desk.tell(e.TemplateExited(child.generation, child.said or f"the template {how}"))
            case Kind.PREPARE:
                reason = "" if how == "exited with status 0" else child.said or f"--prepare {how}"
                desk.tell(e.PrepareEnded(child.generation, reason))
            case Kind.CHECK:
                if self.checked is None and child is self.checking:
                    self.checked = child.said or f"the new interpreter {how}"

    def _bury(self, child: Child) -> None:
        if child.channel is not None and not child.channel.closed:
            self._desk.poller.unregister(child.channel)
        self._desk.book.forget(child)

    def _keep_detail(self, child: Child, detail: str) -> None:
        """The first one explains the verdict."""
        running = self._desk.book.running.get(child.generation)
        if running is not None and detail and not running.detail:
            running.detail = m.tail(detail)

    def _tell_ready(self, child: Child, import_s: float, warmup_s: float) -> None:
        desk = self._desk
        running = desk.book.running.get(child.generation)
        if running is not None and "promote" not in running.marks:
            running.marks["workers"] = desk.kernel.now()
        desk.log.info(
            "ready", gen=child.generation, worker=child.worker, slot=child.slot, pid=child.pid,
            import_s=round(import_s, 3), warmup_s=round(warmup_s, 3),
        )  # fmt: skip
        self._reloads.progress(child.generation, f"worker {child.slot} ready (pid {child.pid})")

    def _ignored(self, child: Child, message: m.Message) -> None:
        name = message.name if isinstance(message, m.Unknown) else type(message).__name__
        self._desk.log.warning("ignored", gen=child.generation, worker=child.worker, message=name)


def _tail_of(fd: int) -> str:
    """The end of what a process wrote into this file."""
    if fd < 0:
        return ""
    start = max(0, os.fstat(fd).st_size - _OUTPUT_BYTES_MAX)
    return os.pread(fd, _OUTPUT_BYTES_MAX, start).decode(errors="replace")


def _versions(running: Running) -> str:
    return f"Python {running.hello.python}, graceserve {running.hello.graceserve}"
