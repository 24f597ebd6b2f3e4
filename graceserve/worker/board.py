"""Who of a generation's workers could begin a request, and how many connections they have. Shell; made by the template,
written and read by its workers.

Two pages of memory and more that they share, with a cell and a number for each slot. To write one is to store a byte or
four: it costs nothing and can't fail. What it says may be old by the time it is read; it decides where a connection
goes, and nothing else.
"""

import mmap

_ABSENT, _BUSY, _FREE = b"\0", b"\1", b"\2"
_SLOTS = mmap.PAGESIZE
_NUMBER_BYTES = 4


class Board:
    """One a generation."""

    def __init__(self) -> None:
        self._cells = mmap.mmap(-1, _SLOTS)  # shared with the processes that are forked from here on
        self._numbers = memoryview(mmap.mmap(-1, _SLOTS * _NUMBER_BYTES)).cast("I")

    def place(self, slot: int) -> "Place":
        """Of the worker in this slot; what one before it wrote there is forgotten."""
        return Place(self._cells, self._numbers, slot % _SLOTS)


class Place:
    """A worker's view of the board: its own cell, and whether others are free."""

    __slots__ = ("_accepts", "_cells", "_numbers", "_own")

    def __init__(self, cells: mmap.mmap, numbers: "memoryview[int]", own: int) -> None:
        self._cells = cells
        self._numbers = numbers
        self._own = own
        self._accepts = False  # the cell is this worker's, and not yet its successor's
        self._write(_ABSENT)

    def enter(self) -> None:
        """It accepts, or is about to, and is free."""
        self._accepts = True
        self._numbers[self._own] = 0
        self._write(_FREE)

    def leave(self) -> None:
        """It accepts nothing any more. In a signal handler, too; idempotent."""
        if self._accepts:
            self._accepts = False
            self._write(_ABSENT)

    def busy(self) -> None:
        """One more request would have to wait."""
        self._change(_BUSY)

    def free(self) -> None:
        """It would not, if it accepts at all."""
        self._change(_FREE)

    def _change(self, cell: bytes) -> None:
        if self._accepts:
            self._write(cell)
            if not self._accepts:  # a signal handler came in between
                self._write(_ABSENT)

    def _write(self, cell: bytes) -> None:
        self._cells[self._own : self._own + 1] = cell

    def holds(self, connections: int) -> None:
        """So many."""
        if self._accepts:
            self._numbers[self._own] = connections

    @property
    def fewest_of_others(self) -> int | None:
        """The fewest connections that another free worker has; None if none is free."""
        fewest = None
        found = self._cells.find(_FREE)
        while found >= 0:
            if found != self._own and (fewest is None or self._numbers[found] < fewest):
                fewest = self._numbers[found]
            found = self._cells.find(_FREE, found + 1)
        return fewest

    @property
    def alone(self) -> bool:
        """Whether no other worker accepts."""
        others = bytearray(self._cells)
        others[self._own] = 0
        return others.count(_ABSENT) == _SLOTS  # ten times as fast as any(): the guard asks all the time

    @property
    def others_free(self) -> bool:
        """Whether another worker could begin a request."""
        found = self._cells.find(_FREE)
        if found == self._own:
            found = self._cells.find(_FREE, found + 1)
        return found >= 0
