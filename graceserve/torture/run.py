"""A run: warm-up, steady, reloads, steady; then the report. Shell; this is `graceserve torture`."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import uvloop

from graceserve.client import Exit
from graceserve.errors import OperatorError
from graceserve.torture.clients import Client, Lost, Requests, dial
from graceserve.torture.options import Plan
from graceserve.torture.reloads import Gone, Reload, choose
from graceserve.torture.report import Facts, as_json, as_text, complaints
from graceserve.torture.tally import Kind, Phase, Tally, Verdict

WARM_UP_S_MAX = 1.0
PROBE_S = 0.01
_FDS_SPARE = 64  # standard streams, the loop's, the control socket
INTERRUPTED = 130

Say = Callable[[str], None]


def torture(plan: Plan, say: Say, complain: Say) -> int:
    """Carry out the plan. The exit status. Raises `OperatorError`."""
    _room_for(sum(plan.clients.values()))
    reload = choose(plan)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            facts, tally = runner.run(_run(plan, reload, complain if plan.json else say))
    except KeyboardInterrupt:  # before there is anything to report
        return INTERRUPTED
    say(as_json(facts, tally) if plan.json else as_text(facts, tally))
    if facts.interrupted:
        return INTERRUPTED
    return Exit.FAILED if complaints(facts, tally) else Exit.DONE


async def _run(plan: Plan, reload: Reload | None, tell: Say) -> tuple[Facts, Tally]:
    plan = await _resolved(plan)
    if error := await _ask(plan, Kind.ONE_SHOT):
        raise OperatorError(f"torture {plan.url}: {error}; is that a page of the server that works?")
    notes: list[str] = []
    if plan.pipelined and (error := await _ask(plan, Kind.PIPELINED)):
        notes.append(f"no pipelined clients: the server does not serve them, reload or not ({error})")
        plan = replace(plan, pipelined=0)
    run = Run(plan, reload, tell)
    await run.whole()
    return run.facts(notes), run.tally


class Run:
    """One run. `whole` carries it out, to its end or to a Ctrl-C."""

    def __init__(self, plan: Plan, reload: Reload | None, tell: Say) -> None:
        self._plan, self._reload, self._tell = plan, reload, tell
        kinds = {kind: count for kind, count in plan.clients.items() if count}
        self.tally = Tally(kinds)
        self._origin = time.monotonic()
        self._clients = [
            Client(kind, plan, self.tally, self._origin) for kind, count in kinds.items() for _ in range(count)
        ]
        self._verdicts: list[Verdict] = []
        self._gone = ""
        self._interrupted = False

    async def whole(self) -> None:
        """Clients, lag probe and reloads together."""
        gc.freeze()  # what is there by now will stay: no collection needs to look at it, and stall the clients
        loop = asyncio.get_running_loop()
        probe = asyncio.create_task(self._probe())
        script = asyncio.create_task(self._script())
        tasks = [script, *(asyncio.create_task(client.run()) for client in self._clients)]
        loop.add_signal_handler(signal.SIGINT, self._interrupt, tasks)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.tally.finish(self._now())
            for client in self._clients:
                client.stop()
            if not script.done():  # no client ends by itself: this one has a bug, which is raised below
                _cancel(tasks)
            await asyncio.wait(tasks)  # each request has its time limit
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            _cancel([probe])
        for task in tasks:
            if not task.cancelled():
                task.result()

    def facts(self, notes: Sequence[str]) -> Facts:
        """For the report."""
        clients = {kind: count for kind, count in self._plan.clients.items() if count}
        server = self._reload.name if self._reload is not None else ""
        verdicts = tuple(self._verdicts)
        return Facts(self._plan.url, server, clients, self._now(), verdicts, self._gone, self._interrupted, notes)

    async def _script(self) -> None:
        """The phases."""
        await asyncio.sleep(min(WARM_UP_S_MAX, self._plan.steady_s))
        self._enter(Phase.BEFORE, f"{len(self._clients)} clients; steady for {self._plan.steady_s:g} s")
        await asyncio.sleep(self._plan.steady_s)
        if self._reload is None:
            return
        self._enter(Phase.DURING, f"{self._plan.reloads} reloads: {self._reload.name}")
        try:
            await self._reloads(self._reload)
        except Gone as error:
            self._gone = str(error)
            self._tell(f"no more reloads: {error}")
        self._enter(Phase.AFTER, f"steady for {self._plan.steady_s:g} s")
        await asyncio.sleep(self._plan.steady_s)
        self._gone = self._gone or self._reload.gone()

    async def _reloads(self, reload: Reload) -> None:
        for number in range(1, self._plan.reloads + 1):
            self.tally.reload = number
            verdict = await reload.once()
            self._verdicts.append(verdict)
            self._tell(f"{self._now():+8.2f} s  reload {number}{'' if verdict.ok else ' FAILED'}: {verdict.text}")
            await asyncio.sleep(self._plan.interval_s)
            if gone := reload.gone():
                raise Gone(gone)

    def _interrupt(self, tasks: Iterable["asyncio.Task[None]"]) -> None:
        self._interrupted = True
        _cancel(tasks)

    async def _probe(self) -> None:
        """How late this process is woken: by its own work, or because the machine has no core for it."""
        while True:
            due = self._now() + PROBE_S
            await asyncio.sleep(PROBE_S)
            self.tally.lagged(due, max(due, self._now()))

    def _enter(self, phase: Phase, what: str) -> None:
        now = self._now()
        self.tally.enter(phase, now)
        self._tell(f"{now:+8.2f} s  {what}")

    def _now(self) -> float:
        return time.monotonic() - self._origin


def _cancel(tasks: Iterable["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()


async def _resolved(plan: Plan) -> Plan:
    """With an address in place of a name: the first that can be connected to. Raises `OperatorError`."""
    if plan.target.socket_path:
        return plan
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(plan.target.host, plan.target.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise OperatorError(f"torture {plan.url}: {plan.target.host}: {error.strerror}") from None
    hosts = [str(address[0]) for *_, address in found]
    for host in hosts:
        with contextlib.suppress(Lost, TimeoutError):
            async with asyncio.timeout(plan.timeout_s):
                (await dial(replace(plan.target, host=host))).close()
            return replace(plan, target=replace(plan.target, host=host))
    return replace(plan, target=replace(plan.target, host=hosts[0]))


async def _ask(plan: Plan, kind: Kind) -> str:
    """As a client of this kind does; why it did not get what it asked for. Only what works can be lost by a reload."""
    requests, line, status = Requests.of(kind, plan), None, 0
    try:
        async with asyncio.timeout(plan.timeout_s):
            line = await dial(plan.target)
            line.send(requests, requests.head + requests.body)
            for number in range(requests.count, 0, -1):
                answer, _ = await line.answer()
                status = max(status, answer.status)
                if answer.closes and number > 1:
                    return "it closes after each response"
    except Lost as error:
        return str(error)
    except TimeoutError:
        return f"no answer within {plan.timeout_s:g} s"
    finally:
        if line is not None:
            line.close()
    return f"status {status}" if status >= 500 else ""


def _room_for(clients: int) -> None:
    """Descriptors for so many clients. Raises `OperatorError`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * clients + _FDS_SPARE  # one that is closed may be there for another moment
    if wanted > hard:
        raise OperatorError(f"torture: {clients} clients need {wanted} open files, and the limit is {hard} (ulimit -n)")
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
