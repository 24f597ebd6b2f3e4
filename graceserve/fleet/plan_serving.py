"""The serving generation: accept, roll the rest of the old workers over, keep the count, ping. Pure; in the
master.

With `surge` 0 all old workers drain from the promotion on. With N the new generation was promoted with N
workers; the rest of it is forked as old ones go, never more than wanted + N at once, old ones and draining
ones included. Old workers are drained, oldest generation and highest slot first, down to what the new
generation lacks.

They are drained one at a time, the first in the step of the promotion: hand-overs and the end of an interpreter
cost CPU, and all of them at once would make requests wait. Only time paces them, so a stuck one holds up nobody.
A stop has no pace.
"""

from graceserve.fleet.actions import Accept, Drain, Ping
from graceserve.fleet.plan import EPSILON_S, Plan, seconds
from graceserve.fleet.record import enter
from graceserve.fleet.state import Generation, PartPhase, Worker, WorkerPhase, free_slots

# Asked of every worker at every step; Python 3.11 is slow to find a member of an Enum.
STARTING, READY = WorkerPhase.STARTING, WorkerPhase.READY
ACCEPTING, DRAINING = WorkerPhase.ACCEPTING, WorkerPhase.DRAINING
PACE_S = 0.02  # between two drains of a roll: about what a hand-over and an exit take
PACED_MOST_S = 1.0  # of all drains of a roll: many workers go at a shorter pace
PINGS_PER_TIMEOUT = 3  # a stuck worker is noticed after one timeout, not between one and two


def plan_serving(p: Plan) -> None:
    server = p.state.server()
    if server is None:
        return
    workers = p.state.workers_of(server.number)
    for worker in workers:
        if worker.phase is READY:
            worker.phase, worker.since = ACCEPTING, p.now
            p.say(Accept(worker.serial))
    roll(p, server, workers)
    shrink(p, server, workers)
    redirect(p, server.number)
    grow(p, server, workers)
    ping(p, server, workers)


def drain(p: Plan, worker: Worker) -> None:
    """`redirect` sends the order."""
    grace_s = p.state.generations[worker.generation].terms.graceful_timeout_s
    enter(worker, DRAINING, p.now, p.now + grace_s)
    worker.holds = False


def redirect(p: Plan, successor: int) -> None:
    """Each draining worker knows who takes its connections now, and how long it has."""
    for worker in p.state.workers.values():
        if worker.phase is DRAINING and worker.successor != successor:
            worker.successor = successor
            grace_s = max(0.0, (worker.deadline or p.now) - p.now)
            p.say(Drain(worker.serial, round(grace_s, 3), successor))


def roll(p: Plan, server: Generation, workers: list[Worker]) -> None:
    """Old workers leave as new ones take their place."""
    if len(workers) == len(p.state.workers):
        return
    retiring = p.state.retiring()
    old = [worker for worker in p.state.workers.values() if worker.generation in retiring]
    for worker in old:
        if worker.phase in (STARTING, READY):
            worker.holds = False
            p.kill(worker)
    accepting = [worker for worker in old if worker.phase is ACCEPTING]
    if not accepting:
        return
    new = sum(worker.phase is ACCEPTING for worker in workers)
    kept = max(0, server.wanted - new)
    if server.terms.surge <= 0 or (kept and p.due(server.progress_at + server.terms.startup_timeout_s)):
        kept = 0
    accepting.sort(key=lambda worker: (worker.generation, -worker.slot))
    pace_s = min(PACE_S, PACED_MOST_S / sum(p.state.generations[number].wanted for number in retiring))
    for worker in accepting[: max(0, len(accepting) - kept)]:
        if not p.due(server.drain_at):
            break
        drain(p, worker)
        server.drain_at = p.now + pace_s


def shrink(p: Plan, server: Generation, workers: list[Worker]) -> None:
    wanted = server.wanted
    surplus = [worker for worker in workers if worker.slot > wanted and worker.holds]
    for worker in sorted(surplus, key=lambda worker: -worker.slot):
        worker.holds = False
        if worker.phase is ACCEPTING:
            drain(p, worker)
        elif worker.phase is STARTING:
            p.kill(worker)


def grow(p: Plan, server: Generation, workers: list[Worker]) -> None:
    """Fill the free slots, if there is a template for it, not faster than the backoff allows."""
    if server.template.phase is not PartPhase.READY:
        return
    slots = free_slots(workers, server.wanted)
    if slots and p.due(p.state.respawn.open_at):
        for slot in slots[: room(p, server)]:
            p.fork(server, slot)
            p.again = True  # `plan_start` watches it


def room(p: Plan, server: Generation) -> int:
    """How many more processes a roll allows."""
    promoted = p.state.retiring()
    if server.terms.surge <= 0 or not any(w.generation in promoted for w in p.state.workers.values()):
        return server.wanted
    promoted.add(server.number)
    live = sum(worker.generation in promoted for worker in p.state.workers.values())
    return max(0, server.wanted + server.terms.surge - live)


def ping(p: Plan, server: Generation, workers: list[Worker]) -> None:
    """All pings go out at one wake-up; one that is unanswered three wake-ups later means stuck."""
    timeout_s = server.terms.stuck_timeout_s
    accepting = [worker for worker in workers if worker.phase is ACCEPTING]
    if timeout_s <= 0 or not accepting:
        p.state.ping_at = None
        return
    interval_s = timeout_s / PINGS_PER_TIMEOUT
    at = p.state.ping_at
    if at is None:
        p.state.ping_at = p.now + interval_s
    elif p.now >= at:
        p.state.ping_at = p.now + interval_s
        late_s = p.now - at if p.now - at > interval_s else 0.0  # we were stopped: answers may wait for us
        for worker in accepting:
            check(p, worker, timeout_s, late_s)
    p.due(p.state.ping_at)


def check(p: Plan, worker: Worker, timeout_s: float, late_s: float) -> None:
    if worker.pinged_at is None:
        worker.pinged_at = p.now
        p.say(Ping(worker.serial))
        return
    worker.pinged_at += late_s
    if p.now + EPSILON_S >= worker.pinged_at + timeout_s:
        p.doom(worker, f"did not answer for {seconds(timeout_s)}")
