"""The three families of errors. Pure; used in every process.

*Operator*: `OperatorError`, one line that names the option and the fix; exit 2, or a failed reload.
*Peer*: a status for the client (`worker/http/policy.py`), never a traceback.
*Bug*: any other exception; the process crashes and its parent replaces it.
"""


class OperatorError(Exception):
    """Something that the operator can put right. `str()` is one line: what is wrong, with which option, and the fix."""


class WireError(Exception):
    """A datagram between graceserve's processes that is no message, or too large for one."""
