"""Which speed each instance has: by its model, its device and its settings, as it tells them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
import orjson

from router.config.names import AUTO_PROFILE
from router.cost.profile import Profile, load_profile
from router.cost.shape import ModelShape, ShapeError
from router.cost.speed import Speed
from router.instances.instance import Instance
from router.instances.server_info import ServerInfo
from router.prompt.tokenizer import model_file

logger = logging.getLogger(__name__)

_BUILT_IN = Path(__file__).parent / "profiles"
_UNKNOWN = ServerInfo()
_FORWARD = attrgetter("max_forward_s")
# A dense model of 8B, as Llama-3.1-8B is.
_DEFAULT = ModelShape(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate=14_336,
    vocab=128_256,
    dtype="bfloat16",
)


class _Kind(NamedTuple):
    model: str
    device: str
    tp: int
    forward_tokens: int
    fetched_page: int


class Speeds:
    """`profile`: a file of `memserve calibrate`, for all instances; "auto": a built-in one by device.

    A model whose config.json is not here, or that is not priced (MoE, MLA), is taken for a dense one of 8B,
    with a warning. All are taken to compute in the profile's dtype. `by_instance`: those that `of` has found
    already; an entry goes when the instance reports something else or leaves. Raises ProfileError.
    """

    def __init__(self, profile: str = AUTO_PROFILE) -> None:
        self._profile = None if profile == AUTO_PROFILE else load_profile(Path(profile))
        self.by_instance: dict[Instance, Speed] = {}
        self._kinds: dict[_Kind, Speed] = {}

    def of(self, instance: Instance) -> Speed:
        """Of one that has not reported its model and device yet, the slowest that is known."""
        if (cached := self.by_instance.get(instance)) is not None:
            return cached
        if instance.server_info is None:
            known = [speed for kind, speed in self._kinds.items() if kind.model]
            return max(known, key=_FORWARD) if known else self._kind(_UNKNOWN)
        speed = self._kind(instance.server_info)
        if not instance.leaving:
            self.by_instance[instance] = speed
            instance.on_change(self.forget)
        return speed

    def forget(self, instance: Instance) -> None:
        """It has reported something else, or has left."""
        self.by_instance.pop(instance, None)

    async def prepare(self, instances: Iterable[Instance]) -> None:
        """Read what `of` needs for these, unless that is done. Without it, `of` reads: that may block."""
        known = self.by_instance
        if new := [one for one in instances if one not in known and one.server_info and not one.leaving]:
            infos = {one.server_info for one in new if one.server_info is not None}
            await asyncio.to_thread(lambda: [self._kind(info) for info in infos])
            for instance in new:
                self.of(instance)

    def _kind(self, server_info: ServerInfo) -> Speed:
        page = server_info.page_size if server_info.instance else 0
        kind = _Kind(server_info.model, server_info.device, server_info.tp, server_info.forward_tokens, page)
        if kind not in self._kinds:
            self._kinds[kind] = self._made(kind)
        return self._kinds[kind]

    def _made(self, kind: _Kind) -> Speed:
        profile = self._profile or built_in(kind.device)
        if kind.model and self._profile is None:
            logger.info(
                "prices %s on %s by the built-in profile of %s; memserve calibrate makes your own --profile",
                *(kind.model, kind.device or "an unknown device", profile.device),
            )
        try:
            return Speed(profile, shape_of(kind.model, profile.dtype), *kind[2:])
        except (OSError, ValueError) as error:
            if kind.model:
                logger.warning("%s is priced as a dense model of 8B at TP 1: %s", kind.model, error)
        return Speed(profile, msgspec.structs.replace(_DEFAULT, dtype=profile.dtype), 1, *kind[3:])


def shape_of(model: str, dtype: str) -> ModelShape:
    """Raises OSError for no config.json on this machine, ShapeError for one of a model that is not priced."""
    if not model:
        raise ShapeError("the instance does not tell its model")
    config = orjson.loads(model_file(model, "config.json").read_bytes())
    if not isinstance(config, dict):
        raise ShapeError("config.json holds no object")
    return ModelShape.from_config(config, dtype)


def built_in(device: str) -> Profile:
    """By SGLang's word for a device: there is one of a CPU, and one of an H100 for all else."""
    return load_profile(_BUILT_IN / ("cpu.json" if device == "cpu" else "h100.json"))
