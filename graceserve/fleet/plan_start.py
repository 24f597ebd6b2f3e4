"""The life of a candidate up to its promotion, and the startup deadline of whatever starts. Pure; in the
master.

WAITING -> [PREPARING ->] STARTING -> BOOTING -> SERVING. `watch_start` looks every quarter of the startup
timeout whether what starts makes progress. Past the timeout it gives up as soon as a whole quarter has shown
none; past `STARTUP_TIMES_MAX` timeouts it gives up anyway. One probe that is still unanswered is waited for,
a second is not.
"""

from dataclasses import replace

from graceserve.fleet.actions import DumpStack, Prepare, Probe, Promote, StartTemplate
from graceserve.fleet.backoff import RESPAWN
from graceserve.fleet.plan import DUMP_S, EPSILON_S, Plan, seconds
from graceserve.fleet.record import enter, fail
from graceserve.fleet.state import (
    STARTED,
    Generation,
    PartPhase,
    Phase,
    State,
    WorkerPhase,
    free_slots,
)

RETIRING_MAX = 4  # generations alive beside the serving one and a candidate; each has a deadline
STARTUP_TIMES_MAX = 10  # times the startup timeout, for a start that is busy all along
PROBES_PER_TIMEOUT = 4


def plan_start(p: Plan) -> None:
    candidate = p.state.candidate() or schedule_repair(p)
    if candidate is not None:
        match candidate.phase:
            case Phase.WAITING if may_start(p.state):
                start(p, candidate)
            case Phase.PREPARING if candidate.prepare.phase is PartPhase.GONE:
                start_template(p, candidate)
            case Phase.BOOTING:
                boot(p, candidate)
    server = p.state.server()
    if server is not None:
        watch_replacements(p, server)
    if candidate is not None and candidate.phase in STARTED:
        watch_candidate(p, candidate)


def schedule_repair(p: Plan) -> Generation | None:
    """Who serves without a template can't replace its workers: a candidate of the same release follows."""
    server = p.state.server()
    if server is None or server.template.phase is PartPhase.READY or not p.due(p.state.repair.open_at):
        return None
    number = p.state.next_generation
    p.state.next_generation += 1
    repair = Generation(number, Phase.WAITING, replace(server.terms, prepare=False), p.now)
    repair.offset, repair.repair_of = server.offset, server.number
    p.state.generations[number] = repair
    return repair


def may_start(state: State) -> bool:
    """Nothing of an earlier candidate is left, and not too many generations are still retiring."""
    phases = [generation.phase for generation in state.generations.values()]
    return Phase.FAILING not in phases and phases.count(Phase.RETIRING) < RETIRING_MAX


def start(p: Plan, candidate: Generation) -> None:
    candidate.started_at = p.now
    if not candidate.terms.prepare:
        start_template(p, candidate)
        return
    candidate.phase, candidate.since = Phase.PREPARING, p.now
    candidate.prepare.phase = PartPhase.RUNNING
    p.say(Prepare(candidate.number))


def start_template(p: Plan, candidate: Generation) -> None:
    candidate.phase, candidate.since = Phase.STARTING, p.now
    candidate.template.phase = PartPhase.RUNNING
    p.say(StartTemplate(candidate.number, candidate.repair_of))


def boot(p: Plan, candidate: Generation) -> None:
    """As many workers as are wanted now; promote when each of them is ready."""
    goal = p.state.goal(candidate)
    for worker in p.state.workers_of(candidate.number):
        if worker.holds and worker.slot > goal:
            worker.holds = False
            p.kill(worker)
    workers = [worker for worker in p.state.workers_of(candidate.number) if worker.holds]
    for slot in free_slots(workers, goal):
        p.fork(candidate, slot)
    if len(workers) == goal and all(worker.phase is WorkerPhase.READY for worker in workers):
        promote(p, candidate)


def promote(p: Plan, candidate: Generation) -> None:
    state, previous = p.state, p.state.server()
    if previous is not None:
        previous.phase, previous.since = Phase.RETIRING, p.now
        previous.probe_at = previous.probe_sent = None
    candidate.phase, candidate.since, candidate.progress_at = Phase.SERVING, p.now, p.now
    candidate.probe_at = candidate.probe_sent = None
    p.order(Promote(candidate.number, state.serving))
    state.serving = candidate.number
    state.respawn, state.ping_at = RESPAWN, None
    state.repair = replace(state.repair, calm_at=None).holds(p.now)


# --- the startup deadline -----------------------------------------------------------------------------------


def watch_candidate(p: Plan, candidate: Generation) -> None:
    if probe_answered(p, candidate):
        reason = overdue(candidate, candidate.started_at)
        if reason:
            give_up(p, candidate, reason)


def give_up(p: Plan, candidate: Generation, reason: str) -> None:
    """Log where it hangs, then kill all of it."""
    fail(p.state, candidate, reason, p.now, p.out)
    if candidate.template.phase is PartPhase.RUNNING:
        p.order(DumpStack(candidate.number, 0, reason))
    for worker in p.state.workers_of(candidate.number):
        if worker.phase is WorkerPhase.STARTING:
            p.doom(worker, reason)
        elif worker.phase is WorkerPhase.READY:
            enter(worker, WorkerPhase.DOOMED, p.now, p.now + DUMP_S)
    if candidate.template.alive:
        candidate.template.phase, candidate.template.deadline = PartPhase.DOOMED, p.now + DUMP_S
    p.again = True


def watch_replacements(p: Plan, server: Generation) -> None:
    """Each replacement of a serving worker has the startup timeout for itself."""
    workers, number = p.state.workers.values(), server.number
    starting = [w for w in workers if w.phase is WorkerPhase.STARTING and w.generation == number]
    if not starting:
        server.probe_at = server.probe_sent = None
    elif probe_answered(p, server):
        for worker in starting:
            reason = overdue(server, worker.born_at)
            if reason:
                p.doom(worker, reason)


def probe_answered(p: Plan, generation: Generation) -> bool:
    """Send the probe that is due. Whether judgement needs no answer that is still on its way."""
    interval_s = generation.terms.startup_timeout_s / PROBES_PER_TIMEOUT
    if generation.probe_at is None:
        generation.moved_at, generation.probe_at = p.now, p.now + interval_s
    answered = generation.probe_sent is None
    if p.due(generation.probe_at):
        answered = not answered  # an unanswered one saw no progress; a fresh one is waited for
        generation.probe_sent, generation.probe_at = p.now, p.now + interval_s
        p.say(Probe(generation.number))
        p.due(generation.probe_at)
    return answered


def overdue(generation: Generation, since: float) -> str:
    """Why what started at `since` is given up; empty if it is not. Judged as of the last probe, not between two."""
    timeout_s = generation.terms.startup_timeout_s
    interval_s = timeout_s / PROBES_PER_TIMEOUT
    probed_at = (generation.probe_at or 0.0) - interval_s
    age_s, silent_s = probed_at - since, probed_at - max(generation.moved_at, since)
    if age_s + EPSILON_S < timeout_s:
        return ""
    if silent_s + EPSILON_S >= interval_s:
        silence = f"no progress for the last {seconds(silent_s)} (no CPU used, nothing read)"
        return f"not ready after {seconds(age_s)}, and {silence}"
    if age_s + EPSILON_S >= timeout_s * STARTUP_TIMES_MAX:
        return f"not ready after {seconds(age_s)} although busy"
    return ""
