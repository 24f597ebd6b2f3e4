"""A worker as the template would fork it: `python -m tests.http.worker_program JSON`, descriptors inherited."""

import json
import socket
import sys

from graceserve.config import Settings
from graceserve.template.load import load_app
from graceserve.wire.channel import Channel, Inbox
from graceserve.worker.board import Board
from graceserve.worker.main import Post, run


def main() -> int:
    told = json.loads(sys.argv[1])
    settings = Settings.load(told["settings"])
    listeners = [(name, socket.socket(fileno=fd)) for name, fd in told["listeners"]]
    for _, sock in listeners:
        sock.set_inheritable(False)
    app = load_app(settings.app) if settings.preload else None
    post = Post(
        generation=told["generation"], worker=told["worker"], slot=1, settings=settings, release="", app=app,
        board=Board(),
    )  # fmt: skip
    return run(post, Channel.of_fd(told["channel"]), Inbox(*map(Channel.of_fd, told["inbox"])), listeners)


if __name__ == "__main__":
    sys.exit(main())
