"""How much context caching a prefill-decode split does (arXiv 2406.17565, section 5).

A leaf without imports of its own: the router and the doctor read it too, and neither may load torch.
"""

from enum import StrEnum


class CachingMode(StrEnum):
    """The values of `--memserve-caching`, and of `caching` at an instance's `/server_info`.

    Each mode adds to the one before it.
    """

    # PD-Basic: nothing is kept once a request has ended.
    BASIC = "basic"
    # PD-Caching-1: prefill keeps the KV that it computed.
    PREFILL_ONLY = "1"
    # PD-Caching-2: decode keeps KV too, and prefill sends it only what it lacks.
    BOTH_SIDES = "2"
    # PD-Caching-3: decode also sends the KV of the answer back to prefill.
    WRITE_BACK = "3"

    @property
    def writes_back(self) -> bool:
        """Whether decode sends the KV of answers back to prefill."""
        return self is CachingMode.WRITE_BACK

    def keeps_kv(self, role: str) -> bool:
        """Whether an instance of this role (prefill, decode, colocated) keeps the KV of ended requests."""
        if role == "decode":
            return self in (CachingMode.BOTH_SIDES, CachingMode.WRITE_BACK)
        return self is not CachingMode.BASIC
