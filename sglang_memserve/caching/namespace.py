"""What keeps equal tokens of different users apart, in SGLang's tree and in the MemPool."""

from typing import Any, NamedTuple

import msgspec

# The longest name that the MemPool carries.
_MAX_CHARS = 256


class Namespace(NamedTuple):
    """`extra_key`: SGLang's, with the LoRA adapter's id. `cache_salt`: the request's."""

    extra_key: str | None
    cache_salt: str | None

    @classmethod
    def of(cls, keyed: Any) -> "Namespace":
        """The namespace of one of SGLang's requests or radix keys."""
        return cls(keyed.extra_key, keyed.cache_salt)

    @classmethod
    def from_name(cls, name: str) -> "Namespace":
        """Raises msgspec.DecodeError for a name that is none."""
        return msgspec.json.decode(name, type=cls)

    @classmethod
    def is_name(cls, name: str) -> bool:
        """Whether it is the name of a namespace, spelt as `name` spells it."""
        try:
            return cls.from_name(name).name == name
        except msgspec.DecodeError:
            return False

    @property
    def name(self) -> str | None:
        """Its JSON, as the MemPool and the feeds have it; None where that is too long for the MemPool.

        `[null,null]` is the namespace of requests without a key and a salt.
        """
        name = msgspec.json.encode(self).decode()
        return name if len(name) <= _MAX_CHARS else None
