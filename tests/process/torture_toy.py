"""A server that misbehaves at each HUP, as it is told to on its command line. Shell; a program of its own.

    python -m tests.process.torture_toy drop cut error announce idle die

It prints its port. The first HUP takes the first word, and so on; a HUP beyond the last one does nothing. `idle`: all
connections on which no request is running are closed. `die`: it exits. The other words befall the next request: `drop`
(closed without an answer), `cut` (closed within the body), `error` (503), `announce` (Connection: close), `hang` (no
answer, ever).
"""

import asyncio
import os
import signal
import sys

HEAD = "HTTP/1.1 {status}\r\nContent-Length: 5\r\n{more}\r\n"


class Toy:
    """Answers every request with five bytes."""

    def __init__(self, words: list[str]) -> None:
        self._words = words
        self._next: list[str] = []  # what befalls the next requests
        self._idle: set[asyncio.StreamWriter] = set()

    async def run(self) -> None:
        """For ever."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hup)
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    def _hup(self) -> None:
        word = self._words.pop(0) if self._words else ""
        if word == "idle":
            for writer in list(self._idle):
                writer.close()
        elif word == "die":
            os._exit(1)
        elif word:
            self._next.append(word)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._idle.discard(writer)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        self._idle.add(writer)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self._idle.discard(writer)
        length = head.partition("content-length:")[2].partition("\r\n")[0].strip()
        await reader.readexactly(int(length or 0))
        word = self._next.pop(0) if self._next else ""
        if word == "drop":
            return False
        if word == "hang":
            await asyncio.Event().wait()
        close = word == "announce" or "connection: close" in head
        status = "503 Service Unavailable" if word == "error" else "200 OK"
        body = b"he" if word == "cut" else b"hello"
        writer.write(HEAD.format(status=status, more="Connection: close\r\n" if close else "").encode() + body)
        await writer.drain()
        return not close and word != "cut"


if __name__ == "__main__":
    asyncio.run(Toy(sys.argv[1:]).run())
