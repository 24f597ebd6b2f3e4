"""TLS, for those without a proxy that ends it. Shell (reads files); used in a worker, before it is ready."""

import ssl

from graceserve.config import Settings
from graceserve.template.load import AppError


def context(settings: Settings) -> ssl.SSLContext | None:
    """The server's context, None without `--certfile`. Raises `AppError`: a release with a bad certificate is broken.

    Each worker reads the files when it starts, so a reload takes over a certificate that was renewed.
    """
    if not settings.certfile:
        if settings.keyfile or settings.ca_certs or settings.ciphers:
            raise AppError("--keyfile, --ca-certs and --ciphers are for TLS; give --certfile, too")
        return None
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)  # TLS 1.2 and 1.3, Python's choice of ciphers
    made.set_alpn_protocols(["http/1.1"])
    try:
        made.load_cert_chain(settings.certfile, settings.keyfile or None, password=_no_password)
    except (OSError, ValueError) as error:
        named = f"--certfile {settings.certfile}" + (f" --keyfile {settings.keyfile}" if settings.keyfile else "")
        raise AppError(f"{named}: {_what(error)}; give a PEM chain and its unencrypted private key") from None
    try:
        if settings.ca_certs:
            made.load_verify_locations(settings.ca_certs)
            made.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ValueError) as error:
        raise AppError(f"--ca-certs {settings.ca_certs}: {_what(error)}; give PEM certificates") from None
    try:
        if settings.ciphers:
            made.set_ciphers(settings.ciphers)
    except ssl.SSLError as error:
        raise AppError(f"--ciphers {settings.ciphers}: {_what(error)}; give an OpenSSL cipher list") from None
    return made


def _no_password() -> str:
    """Without it OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted")


def _what(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error.args[-1]}".replace("_", " ").lower()
    return getattr(error, "strerror", None) or str(error)
