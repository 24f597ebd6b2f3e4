"""What a worker serves, and how. Shell; made by `main`, read by all parts of a worker."""

import ssl
from dataclasses import dataclass

from graceserve.config import Settings
from graceserve.logs import Log
from graceserve.template.load import WSGIApplication
from graceserve.worker.access_log import AccessLog
from graceserve.worker.draining import Draining
from graceserve.worker.environ import Environs
from graceserve.worker.http.port import Heads, Limits
from graceserve.worker.ledger import Ledger
from graceserve.worker.patience import Patience
from graceserve.worker.preface import Expected


@dataclass(frozen=True, slots=True)
class Service:
    """See the module."""

    app: WSGIApplication
    environs: Environs
    heads: Heads
    limits: Limits
    patience: Patience
    settings: Settings
    connections_max: int
    draining: Draining
    log: Log
    ledger: Ledger
    expected: Expected | None = None  # the PROXY protocol
    tls: ssl.SSLContext | None = None
    access: AccessLog | None = None
