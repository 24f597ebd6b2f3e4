"""Files of KEY=VALUE lines."""

import pytest

from graceserve.envfile import parse
from graceserve.errors import OperatorError


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A=1", {"A": "1"}),
        ("export A=1", {"A": "1"}),
        ("  A = 1  ", {"A": "1"}),
        ("A=", {"A": ""}),
        ("A=b=c", {"A": "b=c"}),
        ("A=x # comment", {"A": "x"}),
        ("A=x#y", {"A": "x#y"}),
        ("A= # only a comment", {"A": ""}),
        ("A='x # y'", {"A": "x # y"}),
        ("A='x\\n' # c", {"A": "x\\n"}),
        ('A="x # y"', {"A": "x # y"}),
        (r'A="a\nb\t\"c\\ \$d"', {"A": 'a\nb\t"c\\ $d'}),
        ("A=$HOME", {"A": "$HOME"}),
        ("# A=1", {}),
        ("", {}),
        ("A=1\r", {"A": "1"}),
        ("\ufeffA=1", {"A": "1"}),
        ("A=1\nB=2\nA=3", {"A": "3", "B": "2"}),
        ("A=it's", {"A": "it's"}),
        ("A=ä \u2028 b", {"A": "ä \u2028 b"}),
    ],
)
def test_lines(line: str, expected: dict[str, str]) -> None:
    assert parse(line, ".env") == expected


@pytest.mark.parametrize(
    "line", ["A", "=1", "1A=2", "A B=2", "A-B=1", "A='x", 'A="x', 'A="x\\"', "A='x'y", 'A="x" y', "export", "A=\0"]
)
def test_a_bad_line_is_named(line: str) -> None:
    with pytest.raises(OperatorError, match=r"^--env-file /srv/\.env:3: .*correct the line$") as caught:
        parse(f"OK=1\n\n{line}\n", "/srv/.env")
    assert "\n" not in str(caught.value)
