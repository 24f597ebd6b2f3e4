"""The README agrees with the code. `GRACESERVE_REWRITE=1 pytest tests/pure/test_readme.py` writes its table."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

from graceserve.cli import COMMANDS
from graceserve.config import markdown
from graceserve.options import GUNICORN_FLAGS, OPTIONS
from graceserve.torture.options import parser

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TABLE = re.compile(r"(<!-- options -->\n).*?(<!-- /options -->\n)", re.DOTALL)
GUNICORN = re.compile(r"^## Coming from gunicorn\n.*?(?=^## )", re.DOTALL | re.MULTILINE)  # names its flags, too
FLAG = r"(?<![\w-])--[a-z][a-z_-]+"


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
    text, gunicorn = GUNICORN.sub("", text), "".join(GUNICORN.findall(text))
    known = {flag for option in OPTIONS for flag in option.flags} | {"--json", "--quick", "--help"}
    known |= {flag for action in parser({})._actions for flag in action.option_strings}
    mentioned = set(re.findall(FLAG, text))
    assert mentioned - known == set()
    theirs = set(re.findall(FLAG, gunicorn))
    assert theirs - known - set(GUNICORN_FLAGS) == set() and theirs & set(GUNICORN_FLAGS)
    commands = set(re.findall(r"`?graceserve (reload|rollback|status|stop|reopen|torture|check|top|run)\b", text))
    assert commands == {*COMMANDS, "torture"}


def test_keys_and_variables_of_toml_and_readme() -> None:
    """A file made of the table's own keys and samples parses."""
    table = tomllib.loads("\n".join(f'{option.key} = ""' for option in OPTIONS))
    assert set(table) == {option.field for option in OPTIONS}


def test_the_deploy_recipe_replaces_a_link_that_was_left_over(tmp_path: Path) -> None:
    """Run as it is written, with an interrupted deploy's `current.new` in its way."""
    recipe = re.findall(r"^ln -s.*current$", README.read_text().replace(" &&\n", "\n"), re.MULTILINE)
    assert len(recipe) == 1
    for name in ("41", "42", "left-over"):
        (tmp_path / "releases" / name).mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/41")
    (tmp_path / "current.new").symlink_to("releases/left-over")
    subprocess.run(["sh", "-ec", recipe[0].replace("/srv/app", str(tmp_path))], check=True)
    assert os.readlink(tmp_path / "current") == "releases/42"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["current", "releases"]
    assert list((tmp_path / "releases" / "left-over").iterdir()) == []


def test_commands_of_the_recipes_name_their_master() -> None:
    text = README.read_text()
    for block in re.findall(r"```(?:sh|ini)\n(.*?)```", text[text.index("## Deploying") :], re.DOTALL):
        for command in re.findall(r"bin/graceserve (?:reload|shop)[^\n]*", block):
            assert "--pid /run/app/app.pid" in command
