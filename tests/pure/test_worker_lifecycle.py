"""The worker's life as a table."""

import pytest

from graceserve.worker.lifecycle import (
    ANSWER_S,
    GRACE_MARGIN_S,
    INBOX_FULL_S,
    STOP_LINGER_S,
    TABLE,
    Input,
    Order,
    State,
    Terms,
    Way,
    step,
)


def walk(*inputs: Input, state: State = State.IMPORTING) -> tuple[State, list[Order]]:
    """Where these lead, and all orders on the way."""
    orders: list[Order] = []
    for input_ in inputs:
        now = step(state, input_)
        state = now.state
        orders += now.orders
    return state, orders


def test_every_cell_is_written_out() -> None:
    assert set(TABLE) == set(State)
    assert all(set(row) == set(Input) for row in TABLE.values())


def test_a_whole_life() -> None:
    state, orders = walk(Input.WARM, Input.ACCEPT, Input.DRAIN, Input.TERM, Input.EMPTY)
    assert state is State.ENDED
    assert orders == [
        Order.SAY_READY,
        Order.START_ACCEPTING,
        Order.STOP_ACCEPTING,
        Order.SAY_LEAVING,
        Order.EMPTY_OUT,
        Order.END,
    ]


@pytest.mark.parametrize("first", [Input.TERM, Input.DRAIN, Input.MASTER_GONE])
@pytest.mark.parametrize("state", [State.IMPORTING, State.READY])
def test_what_has_not_served_just_ends(state: State, first: Input) -> None:
    assert walk(first, state=state) == (State.ENDED, [Order.STOP_ACCEPTING, Order.END])


@pytest.mark.parametrize("first", [Input.TERM, Input.DRAIN, Input.MASTER_GONE])
def test_accepting_stops_before_it_is_said_and_before_anything_is_parted_with(first: Input) -> None:
    state, orders = walk(first, state=State.ACCEPTING)
    assert state is State.DRAINING
    assert orders == [Order.STOP_ACCEPTING, Order.SAY_LEAVING, Order.EMPTY_OUT]


@pytest.mark.parametrize("then", [Input.DRAIN, Input.MASTER_GONE])
def test_newer_terms_are_applied(then: Input) -> None:
    assert walk(then, state=State.DRAINING) == (State.DRAINING, [Order.EMPTY_OUT])


def test_nothing_starts_accepting_again() -> None:
    for state in (State.DRAINING, State.ENDED):
        for input_ in Input:
            assert Order.START_ACCEPTING not in step(state, input_).orders
            assert step(state, input_).state in (State.DRAINING, State.ENDED)


def test_an_idle_accepting_worker_does_not_end() -> None:
    assert walk(Input.EMPTY, state=State.ACCEPTING) == (State.ACCEPTING, [])


@pytest.mark.parametrize(
    ("way", "idle_since", "now", "closes"),
    [
        (Way.HAND_OVER, 0, 101, False),
        (Way.HAND_OVER, 0, 130 - GRACE_MARGIN_S, True),
        (Way.LINGER, 0, 101, False),
        (Way.LINGER, 0, 130 - GRACE_MARGIN_S - 0.1, False),
        (Way.LINGER, 0, 130 - GRACE_MARGIN_S, True),
        (Way.STOP, 0, 100, False),  # idle for long, but a request may be on its way
        (Way.STOP, 0, 100 + STOP_LINGER_S, True),
        (Way.STOP, 105, 105 + STOP_LINGER_S - 0.1, False),
        (Way.STOP, 105, 105 + STOP_LINGER_S, True),
    ],
)
def test_when_an_idle_connection_is_closed(way: Way, idle_since: float, now: float, closes: bool) -> None:
    assert Terms(way, begun=100, until=130).closes(idle_since, now) is closes


@pytest.mark.parametrize(
    ("way", "full_s", "now", "closes"),
    [
        (Way.HAND_OVER, 0, 29, False),
        (Way.HAND_OVER, INBOX_FULL_S, 29, False),
        (Way.HAND_OVER, INBOX_FULL_S + 0.1, 29, True),
        (Way.LINGER, 0, ANSWER_S, False),
        (Way.LINGER, 0, ANSWER_S + 0.1, True),
        (Way.STOP, 0, 0, True),
    ],
)
def test_when_a_response_announces_the_close(way: Way, full_s: float, now: float, closes: bool) -> None:
    assert Terms(way, 0, 30).announces_close(full_s, now) is closes
