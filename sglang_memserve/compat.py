"""The version gate, and SGLang's closed enum of transfer backends and registry of radix caches."""

import os
from importlib.metadata import version
from typing import Any

TESTED_SGLANG = ("0.5.23",)
OVERRIDE = "MEMSERVE_ALLOW_UNTESTED_SGLANG"
BACKEND = "memserve"


def untested_sglang() -> str | None:
    """Why this SGLang cannot be served with, or None."""
    installed = version("sglang")
    if installed in TESTED_SGLANG or os.environ.get(OVERRIDE) == "1":
        return None
    return (
        f"MemServe is tested with SGLang {', '.join(TESTED_SGLANG)}, found {installed}; "
        f"install a tested one, or set {OVERRIDE}=1 at your own risk"
    )


def add_transfer_backend() -> None:
    """Makes `--disaggregation-transfer-backend memserve` parse, and `TransferBackend("memserve")` valid.

    The enum is closed, and modules that have imported the class would keep the old one if it were replaced.
    So a member is added in place; the existing members keep their identity.
    """
    from sglang.srt.disaggregation.utils import TransferBackend
    from sglang.srt.server_args import add_disagg_transfer_backend_choices

    if BACKEND in TransferBackend._value2member_map_:
        return
    add_disagg_transfer_backend_choices([BACKEND])
    member = object.__new__(TransferBackend)
    name = BACKEND.upper()
    member._name_, member._value_ = name, BACKEND
    member._sort_order_ = len(TransferBackend._member_names_)
    type.__setattr__(TransferBackend, name, member)
    TransferBackend._member_map_[name] = member
    TransferBackend._member_names_.append(name)
    TransferBackend._value2member_map_[BACKEND] = member


def add_radix_cache() -> None:
    """Makes `--radix-cache-backend memserve` valid."""
    from sglang.srt.mem_cache.registry import get_radix_cache_factory, register_radix_cache_backend

    if get_radix_cache_factory(BACKEND) is None:
        register_radix_cache_backend(BACKEND, _radix_cache)


def _radix_cache(context: Any) -> Any:
    from sglang_memserve.caching.tree_factory import create

    return create(context)


def is_our_backend(transfer_backend: Any) -> bool:
    return bool(transfer_backend.value == BACKEND)
