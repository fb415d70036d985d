"""The fitted operators of one kind of device: `memserve calibrate` writes them, the router reads them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from router.cost.attention import PrefillAttention, Request
from router.cost.collective import AllReduce
from router.cost.gemm import Gemm
from router.cost.streams import MemoryBound, Overhead

VERSION = 1


class ProfileError(ValueError):
    """A profile that cannot be used; the text says which, and why."""


class Prefill(NamedTuple):
    """A measured batch of (cached, new) tokens, and the seconds that it took."""

    batch: tuple[Request, ...]
    seconds: float


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`streams`: by the names of ModelShape.streams, and "embedding"; an absent one costs nothing.

    `errors`: mean relative errors of the fits, by operator, on the rows that they were fitted on. `about`:
    for a reader (where, when, on what model). None: not measured. `prefills`: the whole prefills of an
    instance that `overhead` was fitted on.
    """

    device: str
    dtype: str
    gemm: Gemm
    prefill_attention: PrefillAttention
    decode_attention: MemoryBound
    streams: dict[str, MemoryBound]
    overhead: Overhead = Overhead()
    all_reduce: AllReduce | None = None
    transfer: MemoryBound | None = None
    swap_in: MemoryBound | None = None
    prefills: tuple[Prefill, ...] = ()
    errors: dict[str, float] = {}
    about: dict[str, str] = {}
    version: int = VERSION

    def save(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


class _Versioned(msgspec.Struct):
    version: int


def load_profile(path: Path) -> Profile:
    """Raises ProfileError for a file that is not there, is no profile, or is of another version."""
    try:
        text = path.read_bytes()
        version = msgspec.json.decode(text, type=_Versioned).version
        if version != VERSION:
            raise ProfileError(f"{path}: version {version}, not {VERSION}; run memserve calibrate again")
        return msgspec.json.decode(text, type=Profile)
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror})"
        raise ProfileError(f"{reason}: memserve calibrate writes it") from error
    except msgspec.DecodeError as error:
        raise ProfileError(f"{path} is not a profile of memserve calibrate: {error}") from error
