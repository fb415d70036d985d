"""The secret that all processes of one cluster share, and the keys that are derived from it."""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_VARIABLE = "MEMSERVE_CLUSTER_KEY"
FILE_VARIABLE = "MEMSERVE_CLUSTER_KEY_FILE"
MAKE_KEY = "make one with `openssl rand -hex 32`"

_SHORTEST, _LONGEST = 32, 4096
_SALT = b"memserve cluster key, version 1"


class ClusterKeyError(ValueError):
    """A cluster key that cannot be read, or must not be used. The message never holds the secret."""


class ClusterKey:
    """One secret, from which each purpose gets a key of its own (HKDF-SHA256).

    Whoever has the secret belongs to the cluster. A derived key tells nothing of the secret, or of the keys
    for other purposes. Two objects with the same secret are equal. `repr` hides it.
    """

    def __init__(self, secret: str | bytes) -> None:
        """White space around the secret does not count. Raises ClusterKeyError for one of a wrong length."""
        data = (secret.encode() if isinstance(secret, str) else secret).strip()
        if not _SHORTEST <= len(data) <= _LONGEST:
            raise ClusterKeyError(
                f"a cluster key of {len(data)} bytes: give {_SHORTEST} to {_LONGEST}, {MAKE_KEY}"
            )
        self._secret = data

    @classmethod
    def generate(cls) -> "ClusterKey":
        return cls(secrets.token_hex(32))

    @classmethod
    def read(cls, path: str | Path) -> "ClusterKey":
        """From a file that nobody but its owner may read or write. Raises ClusterKeyError."""
        try:
            # A pipe that nobody writes to would be waited for.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ClusterKeyError(f"cannot read the cluster key {path}: {error.strerror}") from None
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ClusterKeyError(f"the cluster key {path} is no regular file")
            if mode & 0o077:
                raise ClusterKeyError(
                    f"the cluster key {path} has mode {stat.S_IMODE(mode):04o}, so that others may reach it: "
                    f"`chmod 600 {path}`"
                )
            data = os.read(descriptor, _LONGEST + 2)
        finally:
            os.close(descriptor)
        try:
            return cls(data)
        except ClusterKeyError as error:
            raise ClusterKeyError(f"{path}: {error}") from None

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] | None = None, *, file: str = ""
    ) -> "ClusterKey | None":
        """From `file` (a flag's), or the file or the text in the environment, whichever is there first.

        None where there is none. Raises ClusterKeyError.
        """
        environ = os.environ if environ is None else environ
        if path := file or environ.get(FILE_VARIABLE, ""):
            return cls.read(path)
        text = environ.get(KEY_VARIABLE, "")
        if not text:
            return None
        try:
            return cls(text)
        except ClusterKeyError as error:
            raise ClusterKeyError(f"{KEY_VARIABLE}: {error}") from None

    def derive(self, purpose: str, length: int = 32) -> bytes:
        """The key for `purpose`: the same in every process of the cluster."""
        # An object of HKDF derives once.
        return HKDF(SHA256(), length, salt=_SALT, info=purpose.encode()).derive(self._secret)

    def to_environment(self) -> dict[str, str]:
        """The variables with which a child process finds this key. They hold the secret."""
        return {KEY_VARIABLE: self._secret.decode("utf-8", "surrogateescape"), FILE_VARIABLE: ""}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClusterKey) and secrets.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.derive("hash"))

    def __repr__(self) -> str:
        return "ClusterKey(...)"

    def __reduce__(self) -> str:
        raise TypeError("a cluster key is not pickled: pass it in the environment")
