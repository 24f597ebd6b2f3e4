"""How everything ends: a stop, kills and their deadlines, retiring templates, verdicts. Pure; in the master.

Whatever is being ended has a deadline, and the one after a kill is the next kill. A generation is gone when
no process of it is left; its verdict waits for that (but not for ever), so that "nothing is left behind" is
true when said.
"""

from graceserve.fleet.actions import Finish, Gone, Note, Outcome, Part, Quit, RetireTemplate, Verdict
from graceserve.fleet.plan import Plan, part_of, seconds
from graceserve.fleet.plan_serving import redirect
from graceserve.fleet.record import enter, fail, lose_template
from graceserve.fleet.state import (
    CANDIDATE,
    PROMOTED,
    UNHURT,
    FleetPhase,
    Generation,
    PartPhase,
    Phase,
    Worker,
    WorkerPhase,
)

RETIRE_TIMEOUT_S = 5.0  # an asked template holds nothing: it exits or is killed
QUIT_TIMEOUT_S = 2.0
ENDED = (Phase.RETIRING, Phase.FAILING)
VERDICT_TIMEOUT_S = 5.0  # a process that survives SIGKILL this long is the kernel's matter, not the caller's


def plan_stop(p: Plan) -> None:
    """A stop was asked for: workers that serve drain (or quit), those that don't are killed."""
    quick = p.state.phase is FleetPhase.QUITTING
    for worker in list(p.state.workers.values()):
        if p.state.generations[worker.generation].phase not in PROMOTED:
            continue
        worker.holds = False
        if worker.phase in (WorkerPhase.STARTING, WorkerPhase.READY):
            p.kill(worker)
        elif worker.phase in (WorkerPhase.ACCEPTING, WorkerPhase.DRAINING):
            stop_worker(p, worker, quick)
    redirect(p, 0)
    for generation in p.state.generations.values():
        if quick and generation.template.phase in UNHURT:
            p.kill_part(generation, Part.TEMPLATE)


def stop_worker(p: Plan, worker: Worker, quick: bool) -> None:
    if quick:
        enter(worker, WorkerPhase.QUITTING, p.now, p.now + QUIT_TIMEOUT_S)
        p.order(Quit(worker.serial))
    elif worker.phase is WorkerPhase.ACCEPTING:
        enter(worker, WorkerPhase.DRAINING, p.now, p.state.stop_deadline)
    else:
        worker.deadline = min(worker.deadline or p.now, p.state.stop_deadline or p.now)


def plan_end(p: Plan) -> None:
    for worker in p.state.workers.values():
        if worker.deadline is None:
            if p.state.generations[worker.generation].phase is Phase.FAILING:
                p.kill(worker)
        elif p.due(worker.deadline):
            end_worker(p, worker)
    for generation in list(p.state.generations.values()):
        if generation.phase not in CANDIDATE:
            end_generation(p, generation)
    if not p.state.generations and p.state.phase is not FleetPhase.FINISHED:
        finish(p)


def end_worker(p: Plan, worker: Worker) -> None:
    """Its deadline has come."""
    if worker.phase is WorkerPhase.DRAINING:
        p.doom(worker, f"still busy at the graceful timeout of {seconds(p.now - worker.since)}")
        return
    if worker.phase is WorkerPhase.KILLING and worker.ready_at is None:
        suspect_template(p, p.state.generations[worker.generation])
    p.kill(worker)


def suspect_template(p: Plan, generation: Generation) -> None:
    """A worker that was never heard of can't be killed either: the template hangs and has not forked it."""
    if generation.phase in CANDIDATE:
        fail(p.state, generation, "the template hangs: it did not fork a worker", p.now, p.out)
    elif generation.template.phase in UNHURT:
        text = "the template hangs: it did not fork a worker; it is killed, its other workers serve on"
        p.order(Note(generation.number, text))
        lose_template(p.state, generation, PartPhase.DOOMED, p.now)


def end_generation(p: Plan, generation: Generation) -> None:
    if generation.prepare.alive:
        end_part(p, generation, Part.PREPARE)
    if generation.template.alive:
        end_part(p, generation, Part.TEMPLATE)
    if generation.phase is Phase.RETIRING:
        retire_template(p, generation)
    if generation.tickets:
        tell(p, generation)
    if generation.phase in ENDED and not generation.tickets and not p.state.occupied(generation):
        forget(p, generation)


def end_part(p: Plan, generation: Generation, part: Part) -> None:
    record = part_of(generation, part)
    if record.deadline is None:
        if generation.phase is Phase.FAILING:
            p.kill_part(generation, part)
    elif p.due(record.deadline):
        p.kill_part(generation, part)


def retire_template(p: Plan, generation: Generation) -> None:
    if generation.template.phase is PartPhase.READY and not p.state.workers_of(generation.number):
        generation.template.phase = PartPhase.RETIRING
        generation.template.deadline = p.now + RETIRE_TIMEOUT_S
        p.say(RetireTemplate(generation.number))
        p.due(generation.template.deadline)


def tell(p: Plan, generation: Generation) -> None:
    """The verdict, when it is true."""
    if generation.phase in PROMOTED:
        told = generation.outcome is Outcome.STOPPED or not accepts_before(p, generation.number)
    elif generation.phase is Phase.FAILING:
        told = generation.outcome is not Outcome.FAILED or not p.state.occupied(generation)
        told = told or p.due(generation.since + VERDICT_TIMEOUT_S)
    else:
        told = False
    if told:
        number = generation.number if generation.started else 0
        for ticket in generation.tickets:
            p.say(Verdict(ticket, generation.outcome, number, generation.reason, generation.superseded_by))
        generation.tickets = ()


def accepts_before(p: Plan, number: int) -> bool:
    """Whether a worker of an older generation may still accept."""
    return any(
        worker.phase is WorkerPhase.ACCEPTING or (worker.phase is WorkerPhase.DRAINING and not worker.left)
        for worker in p.state.workers.values()
        if worker.generation < number and p.state.generations[worker.generation].phase in PROMOTED
    )


def forget(p: Plan, generation: Generation) -> None:
    del p.state.generations[generation.number]
    p.again = True
    if generation.started:
        p.order(Gone(generation.number))


def finish(p: Plan) -> None:
    if p.state.phase is not FleetPhase.RUNNING:
        code = 0
    elif p.state.next_generation > 1:
        code = 1  # the first generation never served
    else:
        return
    p.state.phase = FleetPhase.FINISHED
    p.order(Finish(code))
