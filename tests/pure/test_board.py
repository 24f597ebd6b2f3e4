"""The board that a generation's workers share."""

from graceserve.worker.board import Board


def test_who_is_free() -> None:
    board = Board()
    one, two = board.place(1), board.place(2)
    assert one.alone and not one.others_free  # nobody accepts yet
    one.enter()
    assert one.alone and not one.others_free and two.others_free and not two.alone
    two.enter()
    assert one.others_free and not one.alone
    two.busy()
    assert not one.others_free and not one.alone
    two.free()
    assert one.others_free
    one.busy()
    assert one.others_free and not two.others_free


def test_who_has_left_writes_nothing_into_a_successor_s_cell() -> None:
    board = Board()
    other, old = board.place(1), board.place(2)
    old.enter()
    old.leave()
    assert not other.others_free
    new = board.place(2)
    new.enter()
    old.leave()
    old.busy()
    assert other.others_free
    new.busy()
    old.free()
    assert not other.others_free


def test_a_new_worker_forgets_what_a_killed_one_wrote() -> None:
    board = Board()
    other = board.place(1)
    board.place(2).enter()
    assert other.others_free
    board.place(2)
    assert not other.others_free and other.alone


def test_more_slots_than_cells_are_no_error() -> None:
    board = Board()
    other, far = board.place(1), board.place(100_000)
    far.enter()
    assert other.others_free


def test_who_has_the_fewest_connections() -> None:
    board = Board()
    one, two, three = (board.place(slot) for slot in (1, 2, 3))
    assert one.fewest_of_others is None
    for place, held in ((one, 5), (two, 3), (three, 70_000)):
        place.enter()
        place.holds(held)
    assert (one.fewest_of_others, two.fewest_of_others, three.fewest_of_others) == (3, 5, 3)
    two.busy()
    assert one.fewest_of_others == 70_000
    two.free()
    two.leave()
    two.holds(9)
    board.place(2).enter()
    assert one.fewest_of_others == 0
