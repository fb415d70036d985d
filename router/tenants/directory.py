"""Who the tenants are, by their keys; read again without losing what runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from router.config.explain import ConfigError
from router.tenants import file
from router.tenants.file import TenantEntry, TenantsFile
from router.tenants.quota import Quota, TenantLimits
from router.tenants.tenant import Tenant


class Tenants:
    """The tenants that the file at `path` names.

    `secret` stands in for one in the file. All routers need the same, and need it again when they restart:
    under another, all that is cached counts for nobody. Raises ConfigError.
    """

    def __init__(self, path: Path, secret: bytes = b"") -> None:
        self._path = path
        self._secret = secret
        self._quotas: dict[str, Quota] = {}
        self._by_digest: dict[str, Tenant] = {}
        self._replace(*self._read())

    def __iter__(self) -> Iterator[tuple[str, Quota]]:
        """Names, and what each uses; also of those gone from the file whose requests still run."""
        return iter(self._quotas.items())

    def of(self, key: str) -> Tenant | None:
        """Whose key this is."""
        # How long the look-up takes tells of the digest at most, and no digest tells its key.
        return self._by_digest.get(file.key_digest(key))

    def reload(self) -> None:
        """Takes the file as it is now. Raises ConfigError for one that is wrong, which changes nothing."""
        self._replace(*self._read())

    def _read(self) -> tuple[TenantsFile, bytes]:
        found = file.read(self._path)
        secret = found.secret.encode() or self._secret
        if not secret:
            raise ConfigError(
                f"{self._path}: secret: there is none, none in --tenants-secret, and no cluster key: "
                f"{file.MAKE_SECRET}; routers of one cluster need the same"
            )
        if len(secret) < file.SHORTEST_SECRET:
            raise ConfigError(
                f"--tenants-secret: give {file.SHORTEST_SECRET} characters or more: {file.MAKE_SECRET}"
            )
        return found, secret

    def _replace(self, found: TenantsFile, secret: bytes) -> None:
        running = {name: quota for name, quota in self._quotas.items() if quota.in_flight}
        before, self._quotas = self._quotas, running
        by_digest = {}
        for entry in found.tenants:
            quota = before.get(entry.name) or Quota(entry.name, TenantLimits())
            quota.limits = _limits(entry)
            self._quotas[entry.name] = quota
            tenant = Tenant(entry, secret, quota)
            by_digest.update(dict.fromkeys(entry.keys, tenant))
        self._by_digest = by_digest


def _limits(entry: TenantEntry) -> TenantLimits:
    return TenantLimits(entry.requests_in_flight, entry.tokens_per_minute, entry.prompt_tokens)
