"""Bodies of all sizes: `/` 12 bytes, `/big` a million, `POST /upload` reads all, `/file` sends the file $DATA_FILE."""

import os
import zlib

BIG = b"0123456789abcdef" * 62_500
BLOCK_BYTES = 1 << 18


def app(environ, start_response):
    """By path."""
    match environ["PATH_INFO"]:
        case "/big":
            return _answer(start_response, BIG)
        case "/upload":
            return _answer(start_response, _read(environ["wsgi.input"]))
        case "/file":
            return _send(environ, start_response, os.environ["DATA_FILE"])
        case _:
            return _answer(start_response, b"Hello, world")


def _answer(start_response, body):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def _read(source):
    """Length and checksum of the body, as text."""
    length, checksum = 0, 1
    while block := source.read(BLOCK_BYTES):
        length += len(block)
        checksum = zlib.adler32(block, checksum)
    return f"{length} {checksum}".encode()


def _send(environ, start_response, path):
    file = open(path, "rb")  # noqa: SIM115 - the server closes it (PEP 3333, file_wrapper)
    length = os.fstat(file.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))])
    wrapper = environ.get("wsgi.file_wrapper")
    return wrapper(file, BLOCK_BYTES) if wrapper else iter(lambda: file.read(BLOCK_BYTES), b"")
