"""Which generation to start, promote, drain and kill, and when: the decision core. Pure; runs in the master.

Theory of operation
-------------------
There is one table (`state`): generations, and workers that belong to them. `step(event, now)`

1. *records* the fact that the event states (`record`; a stale or repeated one changes nothing),
2. *plans*: compares the table with what should be, gives orders, and marks the table with them, until another
look finds nothing to do:
   - `plan_start`: a candidate's way to its promotion, repairs, startup deadlines,
   - `plan_serving`: accept, roll over, worker count, pings,
   - `plan_end`: drain and kill deadlines, retiring templates, verdicts, a stop.

A generation:  WAITING -> [PREPARING ->] STARTING -> BOOTING -> SERVING -> RETIRING -> gone
               before SERVING, whatever goes wrong leads to  FAILING -> gone
A worker:      STARTING -> READY -> ACCEPTING -> DRAINING -> gone;  [DOOMED ->] KILLING -> gone  from
everywhere

Only promotion changes who serves, and a candidate is promoted only when each wanted worker is ready; so
whatever happens to a candidate changes nothing. No state but SERVING rests: each has a deadline, and the
deadline of a kill is the next kill. While the serving generation's template is dead, a candidate of the same
release (a *repair*) is under way or scheduled, because workers can't be replaced otherwise. The fleet never
looks at a clock: `now` comes with each event, and `wake_at()` says when it wants the next one at the latest.
"""

from collections.abc import Mapping
from math import inf
from types import MappingProxyType

from graceserve.fleet.actions import Action
from graceserve.fleet.codec import dump, load
from graceserve.fleet.events import Event, WorkerPonged
from graceserve.fleet.plan import Plan
from graceserve.fleet.plan_end import plan_end, plan_stop
from graceserve.fleet.plan_serving import plan_serving
from graceserve.fleet.plan_start import plan_start
from graceserve.fleet.record import record
from graceserve.fleet.state import FleetPhase, Generation, State, Worker, mend
from graceserve.wire.messages import Json

PASSES_MAX = 100  # a few are needed; a plan that never agrees with itself must not hang the master


class Fleet:
    """The decisions. Everything it returns is to be carried out once, in order, before the next step."""

    def __init__(self) -> None:
        self._state = State(wake=None)

    def step(self, event: Event, now: float) -> list[Action]:
        """What to do about `event`. `now` is monotonic and never goes back."""
        if self._state.phase is FleetPhase.FINISHED:
            return []
        plan = Plan(self._state, now)
        record(self._state, event, now, plan.out)
        if type(event) is not WorkerPonged or plan.due(self._state.wake):  # pongs are judged when pings are due
            self._make(plan)
        return plan.out

    def plan(self, now: float) -> list[Action]:
        """What the table calls for at `now`; nothing, directly after a `step`."""
        plan = Plan(self._state, now)
        self._make(plan)
        return plan.out

    def _make(self, plan: Plan) -> None:
        """Look at the whole table until a look gives no order that calls for another."""
        state = self._state
        for _ in range(PASSES_MAX):
            if not plan.again or state.phase is FleetPhase.FINISHED:
                break
            plan.again, plan.wake = False, inf
            if state.phase is FleetPhase.RUNNING:
                plan_start(plan)
                plan_serving(plan)
            else:
                plan_stop(plan)
            plan_end(plan)
        state.wake = None if plan.wake == inf else plan.wake

    def wake_at(self) -> float | None:
        """When a `Tick` is needed at the latest; None if time alone changes nothing."""
        return self._state.wake

    def dump(self) -> dict[str, Json]:
        """Everything, JSON-able."""
        data = dump(self._state)
        assert isinstance(data, dict)
        return data

    @classmethod
    def load(cls, data: dict[str, Json]) -> "Fleet":
        """The fleet of a `dump`, of any graceserve version: unknown keys go, missing ones default."""
        fleet = cls()
        fleet._state = load(State, data)
        mend(fleet._state)
        return fleet

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fleet) and self._state == other._state

    __hash__ = None  # type: ignore[assignment]  # mutable

    # --- read-only views, for `status` and the shell --------------------------------------------------------

    @property
    def serving(self) -> int:
        """The generation that serves; 0 if none does, or a stop was asked for."""
        return self._state.serving

    @property
    def candidate(self) -> int:
        """The generation that is to serve next; 0 if there is none."""
        candidate = self._state.candidate()
        return 0 if candidate is None else candidate.number

    @property
    def stopping(self) -> bool:
        return self._state.phase is not FleetPhase.RUNNING

    @property
    def finished(self) -> bool:
        return self._state.phase is FleetPhase.FINISHED

    @property
    def generations(self) -> Mapping[int, Generation]:
        """By number."""
        return MappingProxyType(self._state.generations)

    @property
    def workers(self) -> Mapping[int, Worker]:
        """By serial number."""
        return MappingProxyType(self._state.workers)

    @property
    def worker_count(self) -> int:
        """How many workers are wanted now, TTIN and TTOU included; 0 before the first reload."""
        model = self._state.server() or self._state.candidate()
        return 0 if model is None else model.wanted
