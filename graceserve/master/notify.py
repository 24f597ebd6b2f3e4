"""What systemd is told: sd_notify(3). Shell; datagrams to `$NOTIFY_SOCKET`, never waited for."""

import socket
import time
from collections.abc import Mapping


class Notify:
    """Silent where there is no `$NOTIFY_SOCKET`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s: float | None = int(usec) / 2e6 if self._address and usec.isdecimal() and int(usec) else None

    def ready(self, status: str) -> None:
        """The workers are ready; also ends a reload."""
        self._send(f"READY=1\nSTATUS={status}")

    def reloading(self, status: str) -> None:
        """`MONOTONIC_USEC` is what systemd needs to know which reload this is."""
        usec = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS={status}")

    def stopping(self) -> None:
        """A stop was asked for."""
        self._send("STOPPING=1\nSTATUS=stopping")

    def watchdog(self) -> None:
        """The loop turns."""
        self._send("WATCHDOG=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError:
            pass  # nobody listens, its queue is full, or there is no descriptor left: the service goes on
