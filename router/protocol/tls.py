"""TLS: certificates and keys out of files, checked when they are read."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from router.config.explain import ConfigError

_VERSION = ssl.TLSVersion.TLSv1_2


class ServerTls:
    """What the router presents to clients. `reload` reads the files again, for connections from then on."""

    def __init__(self, cert: str, key: str) -> None:
        self._files = cert, key
        self.reload()

    def reload(self) -> None:
        """Raises ConfigError for files that do not serve; what was read before stays then."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = _VERSION
        # A client could ask for one handshake after another.
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        _load_pair(context, *self._files, flags=("--tls-cert-path", "--tls-key-path"))
        self.context = context


class ClientTls:
    """Whom the router believes at https:// URLs, and what it presents there.

    `authorities`: files of CA certificates that are believed instead of the system's. `cert` and `key`: what
    instances that ask for one get. `context` is aiohttp's: True for what it does by itself.
    """

    def __init__(self, authorities: tuple[str, ...] = (), cert: str = "", key: str = "") -> None:
        self._authorities = authorities
        self._files = cert, key
        self.context: ssl.SSLContext | bool = True
        self.reload()

    @property
    def reads_files(self) -> bool:
        return bool(self._authorities or self._files[0])

    def reload(self) -> None:
        """Reads the files again, for connections from then on. Raises ConfigError as a server's does."""
        cert, key = self._files
        if not self.reads_files:
            return
        context = _empty_context() if self._authorities else ssl.create_default_context()
        context.minimum_version = _VERSION
        for file in self._authorities:
            _read("--ca-cert-paths", file, partial(context.load_verify_locations, file))
        if cert:
            _load_pair(context, cert, key, flags=("--client-cert-path", "--client-key-path"))
        self.context = context


def pinned(cert: str | None) -> ClientTls | None:
    """Believes a server that presents this very certificate, whatever its name; None without a file.

    For a server of this machine whose certificate names the host that clients know. Raises ConfigError.
    """
    if not cert:
        return None
    tls = ClientTls((cert,))
    assert isinstance(tls.context, ssl.SSLContext)
    tls.context.check_hostname = False
    tls.context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return tls


def _empty_context() -> ssl.SSLContext:
    """It checks certificates and names, and believes nobody yet."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _load_pair(context: ssl.SSLContext, cert: str, key: str, flags: tuple[str, str]) -> None:
    for flag, file in zip(flags, (cert, key), strict=True):
        _read(flag, file, Path(file).read_bytes)

    def no_password() -> str:
        raise ConfigError(f"{flags[1]} {key}: the key is encrypted: give one that is not, of mode 0600")

    try:
        context.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{flags[1]} {key} is not the key of {flags[0]} {cert}") from None
        raise ConfigError(f"{flags[0]} {cert}, {flags[1]} {key}: no certificate and key in PEM") from None


def _read(flag: str, file: str, read: Callable[[], object]) -> None:
    try:
        read()
    except ssl.SSLError:
        raise ConfigError(f"{flag} {file}: there is no certificate in PEM in it") from None
    except OSError as error:
        raise ConfigError(f"{flag} {file}: {error.strerror or error}") from None
