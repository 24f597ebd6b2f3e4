"""The stories of `transcripts/`: script and expected orders in one file (see `script`).

`GRACESERVE_REWRITE=1 pytest tests/fleet/test_transcripts.py` writes what the fleet does now into them; read the diff.
"""

import os
from pathlib import Path

import pytest

from tests.fleet.script import Script

FOLDER = Path(__file__).parent / "transcripts"
STORIES = sorted(FOLDER.glob("*.txt"))


def test_there_are_stories() -> None:
    assert len(STORIES) >= 20


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    told = Script().run(text)
    if os.environ.get("GRACESERVE_REWRITE") == "1":
        path.write_text(told)
    else:
        assert told == text
