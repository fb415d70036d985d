"""What all instances of one router must have in common: the one list of it, for the router and the doctor."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Agreement(NamedTuple):
    """`name`: the field in words. `remedy`: what to do where instances differ, as an instruction."""

    name: str
    remedy: str


MUST_AGREE: Mapping[str, Agreement] = MappingProxyType(
    {
        "model": Agreement(
            "model",
            "start all with the same --model-path; where folders differ, compare config.json and weights",
        ),
        "tokenizer": Agreement(
            "tokenizer",
            "give all the same tokenizer.json (--tokenizer-path): other tokens find no KV",
        ),
        "template": Agreement(
            "chat template",
            "give all the same --chat-template, or the same files of the model: other prompts find no KV",
        ),
        "page_size": Agreement("page size", "start all with the same --page-size"),
        "kv_dtype": Agreement(
            "KV dtype", "start all with the same --dtype and --kv-cache-dtype; auto follows the device"
        ),
        "kv_flag": Agreement("--kv-cache-dtype", "start all with the same --kv-cache-dtype"),
        "tp_size": Agreement(
            "tensor parallelism (--tp-size)",
            "start all with the same --tp-size: a block of one layout is not cut for another yet",
        ),
    }
)
"""By the fields of `router.instances.server_info.CompatibilityFields`, except `role`."""
