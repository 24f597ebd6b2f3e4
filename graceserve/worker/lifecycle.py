"""What a worker is at a moment, and how connections leave it. Pure; used in a worker.

    IMPORTING --WARM--> READY --ACCEPT--> ACCEPTING --TERM, DRAIN, MASTER_GONE--> DRAINING --EMPTY--> ENDED

A worker drains for one of three reasons, which decide what becomes of its connections (`Way`): a successor takes them
over, nobody does but the service goes on, or the whole service ends. Everything here is a table; every cell is written
out, also "stay as you are". The orders may be carried out twice without harm, because a signal handler carries the
urgent ones (stop accepting, say so) out before the loop has turned.
"""

from dataclasses import dataclass
from enum import Enum

STOP_LINGER_S = 1.0  # at a stop an idle connection is kept this long: a proxy's request may be on its way
ANSWER_S = 1.0  # for the master to answer a SIGTERM by hand: at a stop there is a queue to be emptied first
INBOX_FULL_S = 1.0  # a successor empties it in milliseconds; from here its connections had better come anew
GRACE_MARGIN_S = 0.5  # idle connections close this long before the master kills, so that it need not


class State(Enum):
    """Where a worker is in its life."""

    IMPORTING = "importing"  # the app's import and the warm-up; no loop
    READY = "ready"  # may be promoted; accepts nothing
    ACCEPTING = "accepting"
    DRAINING = "draining"  # accepts nothing, finishes what it has
    ENDED = "ended"


class Input(Enum):
    """What a worker learns."""

    WARM = "warm"  # imported, and every warm-up request succeeded
    FAILED = "failed"  # one of them did not
    ACCEPT = "accept"  # the master promotes it
    TERM = "term"  # SIGTERM, by order or by hand
    DRAIN = "drain"  # the master's terms: how long, and to whom connections go
    MASTER_GONE = "master gone"  # end-of-file on the channel
    EMPTY = "empty"  # no connection and no running request is left


class Order(Enum):
    """What it does about it."""

    SAY_READY = "say ready"
    SAY_FAILED = "say failed"
    START_ACCEPTING = "start accepting"
    STOP_ACCEPTING = "stop accepting"
    SAY_LEAVING = "say leaving"
    EMPTY_OUT = "empty out"  # apply the newest `Terms` to the connections
    END = "end"


@dataclass(frozen=True, slots=True)
class Step:
    """A cell of the table."""

    state: State
    orders: tuple[Order, ...] = ()


_S, _I, _O = State, Input, Order
_STAY_IMPORTING, _STAY_READY, _STAY_ACCEPTING, _STAY_DRAINING, _STAY_ENDED = (Step(state) for state in State)
_END = Step(_S.ENDED, (_O.STOP_ACCEPTING, _O.END))
_LEAVE = Step(_S.DRAINING, (_O.STOP_ACCEPTING, _O.SAY_LEAVING, _O.EMPTY_OUT))

TABLE: dict[State, dict[Input, Step]] = {
    _S.IMPORTING: {
        _I.WARM: Step(_S.READY, (_O.SAY_READY,)),
        _I.FAILED: Step(_S.ENDED, (_O.SAY_FAILED, _O.END)),
        _I.ACCEPT: _STAY_IMPORTING,  # the master does not promote what is not ready
        _I.TERM: _END,  # nothing to finish
        _I.DRAIN: _END,
        _I.MASTER_GONE: _END,
        _I.EMPTY: _STAY_IMPORTING,
    },
    _S.READY: {
        _I.WARM: _STAY_READY,
        _I.FAILED: _STAY_READY,
        _I.ACCEPT: Step(_S.ACCEPTING, (_O.START_ACCEPTING,)),
        _I.TERM: _END,
        _I.DRAIN: _END,
        _I.MASTER_GONE: _END,
        _I.EMPTY: _STAY_READY,
    },
    _S.ACCEPTING: {
        _I.WARM: _STAY_ACCEPTING,
        _I.FAILED: _STAY_ACCEPTING,
        _I.ACCEPT: _STAY_ACCEPTING,
        _I.TERM: _LEAVE,
        _I.DRAIN: _LEAVE,
        _I.MASTER_GONE: _LEAVE,
        _I.EMPTY: _STAY_ACCEPTING,  # idle
    },
    _S.DRAINING: {
        _I.WARM: _STAY_DRAINING,
        _I.FAILED: _STAY_DRAINING,
        _I.ACCEPT: _STAY_DRAINING,  # crossed our Leaving on its way
        _I.TERM: _STAY_DRAINING,  # the order behind the drain message, or a second one by hand
        _I.DRAIN: Step(_S.DRAINING, (_O.EMPTY_OUT,)),  # newer terms replace older ones: a stop during a reload
        _I.MASTER_GONE: Step(_S.DRAINING, (_O.EMPTY_OUT,)),
        _I.EMPTY: Step(_S.ENDED, (_O.END,)),
    },
    _S.ENDED: {
        _I.WARM: _STAY_ENDED,
        _I.FAILED: _STAY_ENDED,
        _I.ACCEPT: _STAY_ENDED,
        _I.TERM: _STAY_ENDED,
        _I.DRAIN: _STAY_ENDED,
        _I.MASTER_GONE: _STAY_ENDED,
        _I.EMPTY: _STAY_ENDED,
    },
}


def step(state: State, input_: Input) -> Step:
    """The next state and what to do, in order."""
    return TABLE[state][input_]


class Way(Enum):
    """How connections leave a draining worker."""

    HAND_OVER = "hand over"  # they go to the inbox, as soon as their request is answered
    LINGER = "linger"  # the master has not said yet; if it does not, each response says `Connection: close`
    STOP = "stop"  # the service ends: as LINGER, and idle ones are closed after `STOP_LINGER_S`


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a worker drains; times on the monotonic clock, in seconds."""

    way: Way
    begun: float
    until: float  # the master kills then

    def closes(self, idle_since: float, now: float) -> bool:
        """Whether a connection is closed now that has been idle since then."""
        if now >= self.until - GRACE_MARGIN_S:
            return True
        return self.way is Way.STOP and now >= max(idle_since, self.begun) + STOP_LINGER_S

    def announces_close(self, full_s: float, now: float) -> bool:
        """Whether a response now says `Connection: close`. `full_s`: for how long nobody has emptied the inbox."""
        match self.way:
            case Way.HAND_OVER:
                return full_s > INBOX_FULL_S
            case Way.LINGER:
                return now > self.begun + ANSWER_S
            case Way.STOP:
                return True
