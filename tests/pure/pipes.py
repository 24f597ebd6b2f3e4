"""Reading a pipe, the write end of which is under test."""

import os


def drain(fd: int) -> str:
    """All that can be read now."""
    parts = []
    while True:
        try:
            part = os.read(fd, 65536)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()
