"""Heads like those that have come before: what was found out about them is not found out again. Pure; in a worker.

What comes of a head depends on nothing but its bytes and the limits. Clients and proxies send the same fields again and
again, so these are remembered as they stand, byte for byte, in two sizes:

- all the fields of a head, as a block. Only the request line is looked at then, by `policy.admit_line`;
- single field lines, for a block that has not come before. A line that is new may still have a name that is known and
  plain; then its value is good if it is printable ASCII.

Some fields are new nearly each time (addresses, cookies, identifiers), and with them so would be each block. Their
names are found out by counting; then their lines are cut out of a head before the block is looked up.

What is not usual in any way (a body, a repeated name, HTTP/1.0, another method or form of target, obs-text that is new)
goes the long way through a parser and `policy.admit`. Only what was admitted there is learned, so nothing is decided
here. Lines and blocks are kept when they come again, not before: what differs each time drives nothing out. Whatever
was not used for a while is forgotten by generations: the older half goes when the younger one is full.
"""

from typing import TypeAlias, TypeVar

from graceserve.worker.http.policy import KEEP_ALIVE, PLAIN_BUT_KNOWN, Admitted, Alike, admit_line, environ_key
from graceserve.worker.http.port import Limits

BLOCK_BYTES_MAX = 2048  # of fields that are remembered as a whole: with their lines and environ, some 2 MB a worker
BLOCKS_MAX = 128  # in each of the two generations
LINES_MAX = 4  # request lines that are remembered for a block, of
LINE_BYTES_MAX = 256  # each; also of a field line
FIELDS_MAX = 512  # field lines in each generation
NAMES_MAX = 256
SEEN_MAX = 1024  # hashes of blocks, and of lines, that have come once
NEW_MAX = 64  # lines with the same name that had not come before: then it is one that differs
DIFFERING_MAX = 4  # names that differ, and are looked for in each head
NEW_IN_ALL_MAX = 4096  # lines that had not come before: then it is found out again what differs

Known: TypeAlias = tuple[Alike, dict[bytes, Admitted]]  # and the latest of them, by their request lines
Pair: TypeAlias = tuple[str, str]  # the environ key and the value of a field
T = TypeVar("T")


class _Recent(dict[bytes, T]):
    """The younger ones of what was asked for lately, and `older` ones; `limit` of each at most."""

    def __init__(self, limit: int) -> None:
        self.older: dict[bytes, T] = {}
        self._limit = limit
        self._seen: set[int] = set()

    def keep(self, key: bytes, value: T) -> None:
        """As the youngest."""
        if len(self) >= self._limit:
            self.older = dict(self)
            self.clear()
        self[key] = value

    def came_again(self, key: bytes) -> bool:
        """Whether it has come before."""
        number, seen = hash(key), self._seen
        if number in seen:
            return True
        if len(seen) >= SEEN_MAX:
            seen.clear()
        seen.add(number)
        return False


class _Fields(_Recent[Pair]):
    """Field lines. `KeyError` for a line of which nothing is known."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._names: dict[str, str] = {}
        self.new: tuple[str, str] | None = None  # name and key of the last line that is new; whoever asks sets it back

    def __missing__(self, line: bytes) -> Pair:
        pair = self.older.get(line)
        if pair is None:
            name, colon, value = line.decode("latin-1").partition(": ")
            if not (colon and _is_plain(value)):
                raise KeyError
            pair = self._names[name], value
            if not self.came_again(line):
                self.new = name, pair[0]
                return pair
            if len(line) > LINE_BYTES_MAX:
                return pair
        self.keep(line, pair)
        return pair

    def learn(self, line: bytes, variables: dict[str, str]) -> bool:
        """Of a head that was admitted with these. Whether such a line is known now."""
        name, colon, rest = line.partition(b":")
        key, value = environ_key(name), rest.decode("latin-1").strip(" \t")
        if not colon or b"_" in name or variables.get(key) != value:  # or it is one of several, or was not taken
            return False
        if len(name) > LINE_BYTES_MAX:
            return False
        if key not in PLAIN_BUT_KNOWN:
            if len(self._names) >= NAMES_MAX:
                self._names.clear()
            self._names[name.decode("ascii")] = key
        elif key != "HTTP_HOST" and not (key == "HTTP_CONNECTION" and value.lower() == KEEP_ALIVE):
            return False
        if self.came_again(line) and len(line) <= LINE_BYTES_MAX:
            self.keep(line, (key, value))
        return True


class _Differing:
    """Names of fields that are new nearly each time."""

    __slots__ = ("_in_all", "_new", "_new_max", "keys", "marks")

    def __init__(self, new_max: int) -> None:
        self._new_max = new_max
        self._new: dict[str, int] = {}  # lines that had not come before, by their names,
        self._in_all = 0  # and together
        self.marks: tuple[tuple[bytes, str], ...] = ()  # how such a line begins, with the end of the one before it
        self.keys: frozenset[str] = frozenset()  # in environ

    def count(self, name: str, key: str) -> bool:
        """A new line of this name. Whether `marks` are others now."""
        new = self._new
        new[name] = new.get(name, 0) + 1
        self._in_all += 1
        if new[name] >= self._new_max and len(self.marks) < DIFFERING_MAX and key not in self.keys:
            self.marks = (*self.marks, (f"\r\n{name}: ".encode("ascii"), key))
        elif self._in_all >= NEW_IN_ALL_MAX:
            new.clear()
            self._in_all = 0
            self.marks = ()
        else:
            return False
        self.keys = frozenset(key for _, key in self.marks)
        return True


class Memo:
    """One for all connections of a worker: of one parser and one `Limits`."""

    __slots__ = ("_blocks", "_differing", "_fields", "_fields_max", "_pair_of", "head_bytes_max")

    def __init__(self, limits: Limits, head_bytes_max: int = 1 << 30, new_max: int = NEW_MAX) -> None:
        self.head_bytes_max = min(head_bytes_max, limits.unsuspicious_bytes)  # `recall` is not to be asked for more
        self._fields_max = limits.fields_max
        self._blocks: _Recent[Known] = _Recent(BLOCKS_MAX)  # none holds a field that differs
        self._fields = _Fields(FIELDS_MAX)
        self._pair_of = self._fields.__getitem__
        self._differing = _Differing(new_max)

    def recall(self, raw: bytes) -> Admitted | None:  # noqa: C901 - flat, and a call costs more than a test
        """What comes of this head, if that is known. `raw` need not be a head: then it is not known."""
        own: dict[str, str] | None = None
        rest = raw
        for mark, key in self._differing.marks:
            before, found, after = rest.partition(mark)
            if found:
                value, _, after = after.partition(b"\r\n")
                text = value.decode("latin-1")
                # as `_is_plain`; and without `after` it would be what follows a head
                if after and value.isascii() and text.isprintable() and text == text.strip(" "):
                    if own is None:
                        own = {}
                    own[key] = text
                    rest = before + b"\r\n" + after
        line, _, block = rest.partition(b"\r\n")
        blocks = self._blocks
        known = blocks.get(block)
        if known is None:
            known = blocks.older.get(block)
            if known is None:
                return self._by_fields(raw, line, block, own)
            blocks.keep(block, known)
        alike, by_line = known
        admitted = by_line.get(line) if own is None else None
        if admitted is None:
            variables = admit_line(line)
            if variables is None:
                return None
            admitted = Admitted(variables, raw, alike.fields, own, alike)
            admitted.keep_alive = alike.keep_alive
            if own is None and len(line) <= LINE_BYTES_MAX:
                if len(by_line) >= LINES_MAX:
                    by_line.clear()
                by_line[line] = admitted
        return admitted

    def _by_fields(self, raw: bytes, line: bytes, block: bytes, own: dict[str, str] | None) -> Admitted | None:
        lines = block.split(b"\r\n")
        if len(lines) < 3 or lines.pop() or lines.pop():  # it ends with an empty line, or is not all of a head
            return None
        self._fields.new = None
        try:
            fields = dict(map(self._pair_of, lines))
        except KeyError:
            return None
        if len(fields) != len(lines) or "HTTP_HOST" not in fields:
            return None
        if len(fields) + len(own or ()) > self._fields_max or not (own is None or fields.keys().isdisjoint(own)):
            return None
        variables = admit_line(line)
        if variables is None:
            return None
        admitted = Admitted(variables, raw, fields, own)
        if self._fields.new is None:
            self._learn_block(block, admitted, len(lines))
        elif self._differing.count(*self._fields.new):
            self._blocks = _Recent(BLOCKS_MAX)
        return admitted

    def learn(self, raw: bytes, admitted: Admitted) -> None:
        """What came of a head without a body, the long way."""
        if len(raw) > self.head_bytes_max or admitted.expects_continue:
            return
        line, _, block = raw.partition(b"\r\n")
        variables = admit_line(line)
        if variables is None or not variables.items() <= admitted.variables.items():  # an absolute target, HTTP/1.0
            return
        lines = block.split(b"\r\n")[:-2]
        known = [self._fields.learn(text, admitted.variables) for text in lines]
        if not (admitted.keep_alive and all(known)):  # else it is known by its fields, until it comes again
            self._learn_block(block, admitted, len(lines))

    def _learn_block(self, block: bytes, admitted: Admitted, count: int) -> None:
        """Of `count` fields, when it comes again."""
        differing = self._differing
        fields = admitted.fields or admitted.variables
        if not differing.keys.isdisjoint(fields) or count + len(differing.marks) > self._fields_max:
            return
        if self._blocks.came_again(block) and len(block) <= BLOCK_BYTES_MAX:
            self._blocks.keep(block, (Alike(admitted), {}))


def _is_plain(value: str) -> bool:
    """Whether a value is what it looks like."""
    return value.isascii() and value.isprintable() and value == value.strip(" ")
