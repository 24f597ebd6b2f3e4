"""Which parser reads the heads: `--http`. Shell (imports it); used in a worker."""

from graceserve.template.load import AppError
from graceserve.worker.http.h11_port import H11Heads
from graceserve.worker.http.port import Heads


def heads(name: str) -> Heads:
    """`httptools`, `h11`, or for `auto` the first of them that is installed. Raises `AppError`."""
    if name != "h11":
        try:
            from graceserve.worker.http.httptools_port import HttptoolsHeads  # noqa: PLC0415  # may be missing

            return HttptoolsHeads()
        except ImportError:
            if name == "httptools":
                raise AppError("--http httptools: httptools is not installed; install it, or give --http h11") from None
    return H11Heads()
