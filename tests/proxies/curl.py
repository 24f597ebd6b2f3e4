"""curl, and what it says of its transfers. Shell; runs in pytest."""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from typing import Any

from tests.process.components import require
from tests.process.procs import Nursery
from tests.process.stock import environ

TIMEOUT_S = 15


@dataclass(frozen=True, slots=True)
class Answer:
    """All that one call of curl got: `facts` are curl's variables (`man curl`, --write-out), one dict a transfer.

    `heads` are the heads of all responses, also of interim ones and redirects. `code` is curl's exit code.
    """

    code: int
    body: bytes
    heads: tuple[str, ...]
    facts: tuple[dict[str, Any], ...]
    complaint: str

    @property
    def status(self) -> int:
        """Of the last response."""
        return int(self.facts[-1]["response_code"])

    @property
    def statuses(self) -> list[int]:
        """Of each transfer."""
        return [int(fact["response_code"]) for fact in self.facts]

    @property
    def connects(self) -> list[int]:
        """New connections that each transfer made."""
        return [int(fact["num_connects"]) for fact in self.facts]

    @property
    def headers(self) -> dict[str, str]:
        """Of the last response, names in lower case."""
        lines = self.heads[-1].splitlines()[1:]
        return {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}

    @property
    def json(self) -> Any:
        """The body as JSON, of a single transfer."""
        return json.loads(self.body)

    @property
    def jsons(self) -> list[Any]:
        """Several JSON bodies after each other."""
        decoder, text, found, at = json.JSONDecoder(), self.body.decode(), [], 0
        while at < len(text):
            one, at = decoder.raw_decode(text, at)
            found.append(one)
        return found


def argv(*arguments: str) -> list[str]:
    """A command line that nothing on the machine has a say in."""
    return [require("curl", "curl"), "-q", "-sS", "--noproxy", "*", "--max-time", str(TIMEOUT_S), *arguments]


def curl(*arguments: str, body: bytes = b"") -> Answer:
    """Run it to its end; `body` is its standard input."""
    with tempfile.TemporaryDirectory(prefix="gs-curl-") as directory:
        heads = os.path.join(directory, "heads")
        told = ("-D", heads, "-w", "%{stderr}%{json}\n")
        done = subprocess.run(
            argv(*told, *arguments), input=body, capture_output=True, check=False, env=environ(),
            timeout=TIMEOUT_S + 5,
        )  # fmt: skip
        read = ""
        if os.path.exists(heads):
            with open(heads, encoding="latin-1", newline="") as file:
                read = file.read()
    lines = done.stderr.decode().splitlines()
    return Answer(
        done.returncode, done.stdout, tuple(filter(None, read.split("\r\n\r\n"))),
        tuple(json.loads(line) for line in lines if line.startswith("{")),
        "\n".join(line for line in lines if not line.startswith("{")),
    )  # fmt: skip


def begin(nursery: Nursery, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start it; what it gets comes to `stdout` unbuffered."""
    return nursery.start(
        argv("-N", *arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=environ(),
    )  # fmt: skip
