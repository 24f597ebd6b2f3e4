"""Carries out what the fleet orders. Shell; master. What can't be done goes back to the fleet as an event."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from graceserve.errors import WireError
from graceserve.fleet import actions as a
from graceserve.fleet import events as e
from graceserve.master.book import Child, Kind, Running
from graceserve.master.desk import Desk
from graceserve.master.ears import Ears
from graceserve.master.kernel import Spawn, module_argv
from graceserve.master.reloads import Reloads
from graceserve.stacks import DUMP_SIGNAL
from graceserve.wire import messages as m
from graceserve.wire.channel import Channel

_CPU_SHARE_MIN = 0.05  # of one CPU since the last probe: less is a process that only wakes up to wait again
_READ_BYTES_MIN = 4096  # since the last probe: a page of a file
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_KINDS = {a.Part.PREPARE: Kind.PREPARE, a.Part.TEMPLATE: Kind.TEMPLATE}


class Perform:
    """One method an order."""

    def __init__(self, desk: Desk, ears: Ears, reloads: Reloads) -> None:
        self._desk = desk
        self._ears = ears
        self._reloads = reloads
        self.promoted = 0  # the generation of the last `Promote` that nobody has taken note of yet

    def __call__(self, action: a.Action) -> None:
        """Carry out `action`. Does not raise for anything that the world can do."""
        match action:
            case a.Prepare() | a.StartTemplate() | a.Fork() | a.Probe():
                self._start(action)
            case a.Promote() | a.Verdict() | a.Gone() | a.Note() | a.Finish():
                self._turn(action)
            case a.Accept() | a.Drain() | a.Quit() | a.Ping() | a.KillWorker():
                child = self._desk.book.worker(action.worker)
                if child is not None:
                    self._to_worker(action, child)
            case a.DumpStack() | a.KillPart() | a.RetireTemplate():
                self._end(action)

    def _start(self, action: a.Prepare | a.StartTemplate | a.Fork | a.Probe) -> None:
        """What the kernel refuses (no descriptor, no process, no memory) is the answer."""
        try:
            self._try_start(action)
        except (OSError, WireError) as error:
            self._not_started(action, str(error))

    def _not_started(self, action: a.Prepare | a.StartTemplate | a.Fork | a.Probe, reason: str) -> None:
        desk = self._desk
        match action:
            case a.Prepare(generation):
                desk.tell(e.PrepareEnded(generation, f"--prepare could not be started: {reason}"))
            case a.StartTemplate(generation):
                desk.tell(e.TemplateExited(generation, f"the template could not be started: {reason}"))
            case a.Fork(_, worker):
                desk.tell(e.WorkerExited(worker, f"the worker could not be started: {reason}"))
            case a.Probe(generation):
                desk.tell(e.Probed(generation, False))

    def _try_start(self, action: a.Prepare | a.StartTemplate | a.Fork | a.Probe) -> None:
        match action:
            case a.Prepare(generation):
                self._prepare(generation)
            case a.StartTemplate(generation, repair_of):
                self._start_template(generation, repair_of)
            case a.Fork(generation, worker, slot):
                self._fork(generation, worker, slot)
            case a.Probe(generation):
                self._probe(generation)

    def _turn(self, action: a.Promote | a.Verdict | a.Gone | a.Note | a.Finish) -> None:
        desk = self._desk
        match action:
            case a.Promote(generation, previous):
                self._promote(generation, previous)
            case a.Verdict():
                self._reloads.verdict(action)
                self._prune_listeners()
            case a.Gone(generation):
                running = desk.book.running.pop(generation, None)
                if running is not None:
                    desk.log.info("gone", gen=generation, release=running.pin.title)
                self._prune_listeners()
            case a.Note(generation, text):
                desk.log.warning("note", gen=generation, text=text)
            case a.Finish(code):
                desk.exit_code = code

    def _to_worker(self, action: a.Accept | a.Drain | a.Quit | a.Ping | a.KillWorker, child: Child) -> None:
        kernel = self._desk.kernel
        assert child.channel is not None
        match action:
            case a.Accept():
                if not child.channel.send(m.Accept()):
                    kernel.kill(child.pid, signal.SIGKILL)  # it would never serve; its death has it replaced
            case a.Drain(_, grace_s, successor):
                self._drain(child, grace_s, successor)
            case a.Quit():
                self._signal(child, signal.SIGQUIT)
            case a.Ping():
                child.channel.send(m.Ping())  # an unread one is still unanswered: that is what the fleet acts on
            case a.KillWorker():
                self._signal(child, signal.SIGKILL)

    def _end(self, action: a.DumpStack | a.KillPart | a.RetireTemplate) -> None:
        desk = self._desk
        match action:
            case a.DumpStack(generation, worker, reason):
                child = desk.book.worker(worker) if worker else desk.book.part(generation, Kind.TEMPLATE)
                if child is not None:
                    desk.log.error("stuck", gen=generation, worker=worker, pid=child.pid, reason=reason)
                    self._signal(child, DUMP_SIGNAL)
            case a.KillPart(generation, part):
                child = desk.book.part(generation, _KINDS[part])
                if child is not None and part is a.Part.PREPARE:
                    child.kill_wanted = True
                    desk.kernel.kill_group(child.pid, signal.SIGKILL)
                elif child is not None:
                    self._signal(child, signal.SIGKILL)
            case a.RetireTemplate(generation):
                child = desk.book.part(generation, Kind.TEMPLATE)
                if child is not None and child.channel is not None:
                    child.channel.send(m.Retire())

    def _signal(self, child: Child, number: int) -> None:
        """Signal it, or, for a kill, as soon as its pid is known."""
        child.kill_wanted = child.kill_wanted or number == signal.SIGKILL
        if child.pid:
            self._desk.kernel.kill(child.pid, number)

    # --- beginning ----------------------------------------------------------------------------------------------

    def _running(self, generation: int, repair_of: int) -> Running | None:
        """The generation's entry in the book, made from what was asked, or from what it repairs."""
        book = self._desk.book
        if generation in book.running:
            return book.running[generation]
        ask = next((self._reloads.asks[t] for t in self._tickets(generation) if t in self._reloads.asks), None)
        source = book.running.get(repair_of) if repair_of else ask
        if source is None:
            return None
        if ask is not None:
            ask.generation = generation
        running = Running(generation, source.pin, source.settings, source.env, source.listeners)
        book.running[generation] = running
        pin, more = running.pin, {"repair_of": repair_of} if repair_of else {}
        self._desk.log.bind(**more).info("starting", gen=generation, release=pin.title, python=pin.python)
        self._reloads.progress(generation, f"generation {generation}: {running.pin.title}")
        return running

    def _tickets(self, generation: int) -> tuple[int, ...]:
        record = self._desk.fleet.generations.get(generation)
        return record.tickets if record is not None else ()

    def _prepare(self, generation: int) -> None:
        desk, running = self._desk, self._running(generation, 0)
        if running is None:
            desk.tell(e.PrepareEnded(generation, "nothing is known of this generation (a bug in graceserve)"))
            return
        path = f"{os.path.dirname(running.pin.python)}:{running.env.get('PATH', os.defpath)}"
        self._reloads.progress(generation, f"prepare: {running.settings.prepare}")
        argv, env = ["/bin/sh", "-c", running.settings.prepare], running.env | {"PATH": path}
        with self._child(Kind.PREPARE, generation) as (child, theirs):
            order = Spawn(argv, env, running.pin.cwd, say=theirs, output=child.output_fd, new_session=True)
            child.pid = desk.kernel.spawn(order)

    def _start_template(self, generation: int, repair_of: int) -> None:
        desk, running = self._desk, self._running(generation, repair_of)
        if running is None:
            desk.tell(e.TemplateExited(generation, "nothing is known of this generation (a bug in graceserve)"))
            return
        if running.settings.prepare and not repair_of:
            running.marks["prepare"] = desk.kernel.now()
        pin, stderr_fd = running.pin, os.dup(2)  # until its hello what it writes there goes into the verdict
        try:
            with self._child(Kind.TEMPLATE, generation) as (child, theirs):
                assert child.channel is not None
                child.channel.send(m.Boot(generation, pin.cwd, running.settings.dump()))
                argv = module_argv(
                    pin.python, pin.flags, bool(desk.launch.script), "graceserve.template.main",
                    "--channel", str(theirs.fileno()), "--stderr", str(stderr_fd),
                )  # fmt: skip
                inherit = [theirs.fileno(), stderr_fd]
                order = Spawn(argv, running.env, pin.cwd, inherit, theirs, child.output_fd, output_of=[2])
                child.pid = desk.kernel.spawn(order)
        finally:
            os.close(stderr_fd)

    @contextmanager
    def _child(self, kind: Kind, generation: int) -> Iterator[tuple[Child, Channel]]:
        """A child to be spawned in the body, and its end of the channel. In the book if that went well, else undone."""
        child = Child(kind, generation, output_fd=os.memfd_create(f"graceserve-{kind.value}", os.MFD_CLOEXEC))
        try:
            theirs, child.channel = Channel.pair()
            try:
                yield child, theirs
            finally:
                theirs.close()
        except BaseException:
            child.close()
            raise
        self._desk.book.children.append(child)
        self._ears.attach(child)

    def _fork(self, generation: int, worker: int, slot: int) -> None:
        child = Child(Kind.WORKER, generation, worker, slot)
        child.unsent, child.channel = Channel.pair()
        self._desk.book.children.append(child)
        self._ears.attach(child)
        self._order(child)

    def send_unsent(self) -> None:
        """Once a turn: orders to fork that a template had no room for. Each fork it reports makes room, and a turn."""
        for child in [child for child in self._desk.book.children if child.unsent is not None]:
            self._order(child)

    def _order(self, child: Child) -> None:
        book = self._desk.book
        running, template = book.running[child.generation], book.part(child.generation, Kind.TEMPLATE)
        if child.unsent is None:
            return
        if child.kill_wanted or template is None or template.channel is None or template.channel.closed:
            self._ears.never_was(child, "its template is gone")
            return
        listeners = self._desk.listeners.get(running.listeners)
        fds = [child.unsent.fileno(), *self._desk.inbox.fds, *(it.sock.fileno() for it in listeners)]
        if template.channel.send(m.Fork(child.worker, child.slot, tuple(it.name for it in listeners)), fds):
            child.unsent.close()
            child.unsent = None

    def _probe(self, generation: int) -> None:
        desk = self._desk
        running = desk.book.running.get(generation)
        moved = running is not None and self._moves(running)
        self._reloads.progress(generation, f"still starting: {'busy' if moved else 'no CPU used, nothing read'}")
        desk.tell(e.Probed(generation, moved))

    def _moves(self, running: Running) -> bool:
        """Whether what starts of a generation has worked since the last probe; one that came or went has."""
        kernel = self._desk.kernel
        starting = [c.pid for c in self._desk.book.of(running.generation) if c.pid and not c.ready]
        pids = [pid for child in starting for pid in kernel.family(child)]
        before, since, running.probed = running.effort, running.probed, kernel.now()
        running.effort = {pid: kernel.effort(pid) for pid in pids}
        if before.keys() != running.effort.keys():
            return True
        ticks = sum(now[0] - before[pid][0] for pid, now in running.effort.items())
        read = sum(now[1] - before[pid][1] for pid, now in running.effort.items())
        ticks_min = max(1.0, (running.probed - since) * _CPU_SHARE_MIN * _TICKS_A_SECOND)
        return ticks >= ticks_min or read >= _READ_BYTES_MIN

    # --- turning over -------------------------------------------------------------------------------------------

    def _promote(self, generation: int, previous: int) -> None:
        desk = self._desk
        running, before = desk.book.running[generation], desk.book.running.get(previous)
        running.marks["promote"] = desk.kernel.now()
        asked = self._reloads.of_generation(generation) is not None
        if before is not None and asked:
            self._reloads.promoted(before, running)
        self.promoted = generation
        self._prune_listeners()
        addresses = [listener.address for listener in desk.listeners.get(running.listeners)]
        desk.log.info(
            "promoted", gen=generation, previous=previous, release=running.pin.title, bind=",".join(addresses)
        )
        for child in desk.book.children:
            if child.kind is Kind.WORKER and child.generation < generation and child.channel is not None:
                child.channel.send(m.Outdated())
        desk.notify.ready(f"generation {generation} serves {running.pin.title}")
        self._reloads.progress(generation, f"promoted generation {generation}")

    def _prune_listeners(self) -> None:
        """Close the listeners that neither the serving generation, nor a younger one, nor an ask needs."""
        desk = self._desk
        serving = desk.fleet.serving
        used = {name for g, running in desk.book.running.items() if g >= serving for name in running.listeners}
        for closed in desk.listeners.keep(used | self._reloads.used_listeners()):
            desk.log.info("unbound", addr=closed.address)

    def _drain(self, child: Child, grace_s: float, successor: int) -> None:
        assert child.channel is not None
        child.channel.send(m.Drain(grace_s, stop=successor == 0))
        self._signal(child, signal.SIGTERM)


