"""A tenant: the namespace of its KV, and the names that are its alone."""

from __future__ import annotations

import hashlib
import hmac

from router.tenants.file import TenantEntry
from router.tenants.quota import Quota

# Answers' names begin so, and SGLang refuses any other.
_RESPONSE = "resp_"
_TAG_DIGITS = 24


class Tenant:
    """`tag` stands in every name that instances know the tenant's requests by, and in no answer.

    Nobody outside the cluster can know it: it comes from the secret, as the salts do. So routers of one
    secret agree on both.
    """

    def __init__(self, entry: TenantEntry, secret: bytes, quota: Quota) -> None:
        self.name = entry.name
        self.group = entry.sharing_group
        self.quota = quota
        self.tag = _derived(secret, "rid", self.name)[:_TAG_DIGITS] + "-"
        self._secret = secret

    def salt(self, own: str) -> str:
        """The `cache_salt` that instances get where the client gave `own` ("" for none).

        Members of one group who give the same share KV; nobody else can name it.
        """
        return _derived(self._secret, "cache_salt", self.group, own)

    def scoped(self, name: str) -> str:
        """The name that instances know a request by which the client calls `name`."""
        if name.startswith(_RESPONSE):
            return _RESPONSE + self.tag + name.removeprefix(_RESPONSE)
        return self.tag + name

    def owns(self, scoped: str) -> bool:
        return scoped.removeprefix(_RESPONSE).startswith(self.tag)

    def unscoped(self, text: bytes) -> bytes:
        """With the client's own names in the place of those that instances know."""
        return text.replace(self.tag.encode(), b"")


def _derived(secret: bytes, *parts: str) -> str:
    """Hexadecimal. Only the last part may hold a NUL, so no two lists of parts give the same."""
    message = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
