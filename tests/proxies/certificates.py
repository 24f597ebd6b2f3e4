"""Certificates for the tests, made by openssl. Shell; runs in pytest."""

import os
import subprocess
from dataclasses import dataclass

from tests.process.components import require
from tests.process.stock import environ

NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files; `both` has the two others in it, as HAProxy wants them."""

    chain: str
    key: str
    both: str


def self_signed(directory: str, name: str, *extra: str) -> Certificate:
    """One that vouches for itself, for `localhost` and 127.0.0.1."""
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    return _made(directory, name, "-x509", "-days", "2", *names, *extra)


def signed(directory: str, name: str, by: Certificate) -> Certificate:
    """A client's, signed by an authority."""
    request = _made(directory, f"{name}-request", "-subj", f"/CN={name}")
    chain = os.path.join(directory, f"{name}.pem")
    _openssl("x509", "-req", "-in", request.chain, "-CA", by.chain, "-CAkey", by.key, "-days", "2", "-out", chain)
    return Certificate(chain, request.key, "")


def _made(directory: str, name: str, *options: str) -> Certificate:
    made = Certificate(*(os.path.join(directory, f"{name}{end}") for end in (".pem", ".key", ".both")))
    _openssl("req", *NEW_KEY, *options, "-keyout", made.key, "-out", made.chain)
    with open(made.both, "w", encoding="ascii") as both:
        for part in (made.chain, made.key):
            with open(part, encoding="ascii") as file:
                both.write(file.read())
    return made


def _openssl(*argv: str) -> None:
    program = require("openssl", "openssl")
    done = subprocess.run([program, *argv], capture_output=True, check=False, env=environ(), timeout=20)
    assert done.returncode == 0, done.stderr.decode()
