"""Releases behind a symlink, as deploy tools lay them out, with environments that a real interpreter starts from."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from graceserve.files import RealFiles
from graceserve.release import Launch, Pin, read_release

REPOSITORY = str(Path(__file__).parents[2])
PROBE = """\
import json, os, sys
from graceserve.files import RealFiles
from graceserve.release import Launch

def main():
    launch = Launch.of(sys.orig_argv, sys.argv[0], sys.executable, os.environ, RealFiles())
    print(json.dumps(launch.dump()))

if __name__ == "__main__":
    main()
"""
BODY = "import sys\nfrom probe import main\nsys.exit(main())\n"


class Tree:
    """`root/current -> releases/41`, beside `releases/42`."""

    def __init__(self, root: Path, style: str = "pip", venv: str = "venv") -> None:
        self.root = root
        self.current = root / "current"
        self.venv = venv
        (root / "lib").mkdir(parents=True)
        (root / "lib" / "probe.py").write_text(PROBE)
        for number in ("41", "42"):
            self.add(number, style)
        self.current.symlink_to("releases/41")

    def add(self, number: str, style: str = "pip") -> Path:
        release = self.root / "releases" / number
        (release / "src").mkdir(parents=True)
        (release / "graceserve.toml").write_text(f'app = "shop:app"\nname = "toml-{number}"\n')
        environment(release / self.venv, style)
        return release

    def release(self, number: str) -> Path:
        return self.root / "releases" / number

    def flip(self, number: str) -> None:
        """As a deploy: rename(2) of a new symlink."""
        new = self.root / "current.new"
        new.symlink_to(f"releases/{number}")
        new.rename(self.current)

    def start(self, command: Sequence[str | Path], cwd: str | Path = "/", **environ: str) -> Launch:
        """What a process that was started so makes of it. `PWD` only if given."""
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": f"{REPOSITORY}:{self.root / 'lib'}"} | environ
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return Launch.load(json.loads(done.stdout))


def environment(venv: Path, style: str = "pip") -> None:
    """What pip, uv or virtualenv leave behind, as far as it matters here."""
    bin_ = venv / "bin"
    bin_.mkdir(parents=True)
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (venv / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    if style == "pip":  # python3 -m venv: python -> python3 -> the base interpreter
        (bin_ / "python3").symlink_to(base)
        (bin_ / "python").symlink_to("python3")
    else:  # uv, virtualenv: python -> the base interpreter, python3 -> python
        (bin_ / "python").symlink_to(base)
        (bin_ / "python3").symlink_to("python")
    script(bin_ / "graceserve", bin_ / "python", style)


def script(path: Path, python: Path, style: str = "pip") -> None:
    """A console script. uv, and pip where the path is too long for a `#!` line, go through /bin/sh."""
    line = f"#!{python}\n"
    if style == "uv":
        line = f"#!/bin/sh\n'''exec' {shlex.quote(str(python))} \"$0\" \"$@\"\n' '''\n"
    path.write_text(line + BODY)
    path.chmod(0o755)


def pinned(launch: Launch, environ: Mapping[str, str] | None = None) -> Pin:
    """The release of now."""
    return read_release(launch, environ or {}, RealFiles())[1]
