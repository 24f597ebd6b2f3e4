"""From the app's name to the app: every way in which a release can be broken is one clear line."""

from pathlib import Path

import pytest

from graceserve.template.load import AppError, load_app

MODULES = {
    "good": "def application(e, s): return [b'default']\ndef app(e, s): return [b'named']\nclass ns:\n    app = app\n",
    "factory": "def create_app(name='x', *, debug=False):\n"
    "    def app(e, s): return [name.encode(), b'1' if debug else b'0']\n"
    "    return app\n"
    "def fails(): raise RuntimeError('no database')\ndef gives_none(): return None\n",
    "raises": "raise ValueError('bad\\nconfig')\n",
    "exits": "import sys\nsys.exit(0)\n",
    "interrupts": "raise KeyboardInterrupt\n",
    "syntax": "def (:\n",
    "noted": "error = ValueError('the cause')\nerror.add_note('a hint')\nraise error\n",
    "mute": "class Mute(Exception):\n    def __str__(self): raise RuntimeError\nraise Mute\n",
    "needs": "import a_library_that_is_not_there\n",
    "wrong": "app = 42\napplicatoin = lambda e, s: [b'']\n",
    "trap": "def __getattr__(name): raise RuntimeError('lazy ' + name)\n",
}
BROKEN = {
    "absent:app": "importing absent: ModuleNotFoundError: No module named 'absent' (looked in ",
    "absent.wsgi": "importing absent.wsgi: ModuleNotFoundError: No module named 'absent' (looked in ",
    "needs": "importing needs: ModuleNotFoundError: No module named 'a_library_that_is_not_there'",
    "raises": "importing raises: ValueError: bad config",
    "exits": "importing exits called sys.exit(0)",
    "interrupts": "importing interrupts: KeyboardInterrupt",
    "syntax": "importing syntax: SyntaxError: invalid syntax",
    "noted": "importing noted: ValueError: the cause",
    "mute": "importing mute: mute.Mute: (its str() fails)",
    "wrong": "module wrong has no attribute application; did you mean applicatoin?",
    "wrong:app": "wrong:app is not a WSGI application: an int is not callable",
    "wrong:app()": "wrong:app is not callable, it is an int",
    "good:ns.nope": "module good has no attribute ns.nope",
    "trap:app": "looking up trap:app: RuntimeError: lazy app",
    "factory:fails()": "calling factory:fails(): RuntimeError: no database",
    "factory:gives_none()": "factory:gives_none() is not a WSGI application: a NoneType is not callable",
    "factory:create_app(1, 2)": "calling factory:create_app(1, 2): TypeError:",
    "factory:create_app(name)": "a factory's arguments must be literals",
    "good:app[0]": "'app[0]' is not a name or a call",
    "good:(": "'(' is not a name or a call",
}


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in MODULES.items():
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        ("good", [b"default"]),
        ("good:app", [b"named"]),
        ("good:ns.app", [b"named"]),
        ("factory:create_app()", [b"x", b"0"]),
        ("factory:create_app('prod', debug=True)", [b"prod", b"1"]),
    ],
)
def test_loads(spec: str, body: list[bytes]) -> None:
    assert load_app(spec)({}, lambda *_: None) == body


@pytest.mark.parametrize("spec", BROKEN)
def test_broken_is_one_line_with_the_cause(spec: str) -> None:
    with pytest.raises(AppError) as caught:
        load_app(spec)
    assert caught.value.reason.startswith(BROKEN[spec]) or BROKEN[spec] in caught.value.reason
    assert "\n" not in caught.value.reason


def test_an_app_that_is_not_there_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AppError) as caught:
        load_app("absent")
    assert caught.value.reason == (
        f"importing absent: ModuleNotFoundError: No module named 'absent' (looked in {tmp_path}; "
        "--chdir or --release name another directory)"
    )
    assert caught.value.detail == "ModuleNotFoundError: No module named 'absent'\n"
    with pytest.raises(AppError) as caught:
        load_app("needs")
    assert "looked in" not in caught.value.reason


def test_where_it_was_looked_for_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(AppError, match="looked in a directory that is gone"):
        load_app("absent")


def test_the_error_of_a_broken_file_stands_without_our_frames() -> None:
    with pytest.raises(AppError) as caught:
        load_app("syntax")
    assert "syntax.py" in caught.value.detail.splitlines()[0]
    assert "importlib" not in caught.value.detail and "load.py" not in caught.value.detail


def test_the_traceback_begins_in_the_app() -> None:
    with pytest.raises(AppError) as caught:
        load_app("raises")
    lines = caught.value.detail.splitlines()
    assert lines[0].startswith("Traceback")
    assert lines[1].strip().startswith('File "') and "raises.py" in lines[1]
    assert "load.py" not in caught.value.detail
    assert "importlib" not in caught.value.detail
