"""An app whose import leaves no room for descriptors."""

import os
import resource

_spare = [os.open("/dev/null", os.O_RDONLY) for _ in range(4)]
resource.setrlimit(resource.RLIMIT_NOFILE, (_spare[-1] + 1, _spare[-1] + 1))


def app(environ, start_response):
    start_response("200 OK", [])
    return []
