"""The README agrees with the code. `GRACESERVE_REWRITE=1 pytest tests/pure/test_readme.py` writes its table."""

import os
import re
import tomllib
from pathlib import Path

from graceserve.cli import COMMANDS
from graceserve.config import markdown
from graceserve.options import OPTIONS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- options -->\n).*?(<!-- /options -->\n)", re.DOTALL)


def test_the_options_table_is_the_code_s() -> None:
    text = README.read_text()
    assert len(TABLE.findall(text)) == 1
    wanted = TABLE.sub(lambda match: match[1] + markdown() + match[2], text)
    if os.environ.get("GRACESERVE_REWRITE") == "1":
        README.write_text(wanted)
        text = wanted
    assert text == wanted


def test_the_table_has_a_row_an_option() -> None:
    rows = markdown().splitlines()[2:]
    assert len(rows) == len(OPTIONS)
    assert all(row.count("|") == 5 for row in rows)


def test_the_two_commands_are_one_line_each() -> None:
    """`.ci/run` extracts the second in the same way."""
    found = re.findall(r"<!-- command: (\w+) -->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)
    assert [name for name, _ in found] == ["serve", "test"]
    for name, command in found:
        assert command.count("\n") == 1
        assert ("pytest" in command) is (name == "test")


def test_commands_and_flags_that_it_mentions_exist() -> None:
    text = re.sub(r"(?:apt|pip) install[^\n]*|ln -s[^\n]*|mv -T[^\n]*|manage.py[^\n]*", "", README.read_text())
    known = {flag for option in OPTIONS for flag in option.flags} | {"--json", "--quick", "--help"}
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
    assert mentioned - known == set()
    commands = set(re.findall(r"`?graceserve (reload|rollback|status|stop|reopen|check|top|run)\b", text))
    assert commands == set(COMMANDS)


def test_keys_and_variables_of_toml_and_readme() -> None:
    """A file made of the table's own keys and samples parses."""
    table = tomllib.loads("\n".join(f'{option.key} = ""' for option in OPTIONS))
    assert set(table) == {option.field for option in OPTIONS}
