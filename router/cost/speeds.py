"""The speed of each instance, by the model, device and settings that it reports."""

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


class _SpeedKey(NamedTuple):
    model: str
    device: str
    tp: int
    forward_tokens: int
    fetched_page: int


class Speeds:
    """`profile`: a file of `memserve calibrate` for all instances; "auto": a built-in one, by device.

    A model without a config.json here, or without a cost model (MoE, MLA), counts as a dense one of 8B, with
    a warning. All instances are taken to compute in the profile's dtype. `by_instance`: those that `of` has
    found already; an entry goes when the instance reports something else or leaves. Raises ProfileError.
    """

    def __init__(self, profile: str = AUTO_PROFILE) -> None:
        self._profile = None if profile == AUTO_PROFILE else load_profile(Path(profile))
        self.by_instance: dict[Instance, Speed] = {}
        self._by_key: dict[_SpeedKey, Speed] = {}

    def of(self, instance: Instance) -> Speed:
        """Of one that has not reported its model and device yet, the slowest that is known."""
        if (cached := self.by_instance.get(instance)) is not None:
            return cached
        if instance.server_info is None:
            known = [speed for key, speed in self._by_key.items() if key.model]
            return max(known, key=_FORWARD) if known else self._of_info(_UNKNOWN)
        speed = self._of_info(instance.server_info)
        if not instance.leaving:
            self.by_instance[instance] = speed
            instance.on_change(self.forget)
        return speed

    def forget(self, instance: Instance) -> None:
        """It has reported something else, or has left."""
        self.by_instance.pop(instance, None)

    async def prepare(self, instances: Iterable[Instance]) -> None:
        """Reads in a thread what `of` needs for these instances. Without it, `of` reads, which may block."""
        known = self.by_instance
        if new := [
            instance
            for instance in instances
            if instance not in known and instance.server_info and not instance.leaving
        ]:
            infos = {instance.server_info for instance in new if instance.server_info is not None}
            await asyncio.to_thread(lambda: [self._of_info(info) for info in infos])
            for instance in new:
                self.of(instance)

    def _of_info(self, server_info: ServerInfo) -> Speed:
        page = server_info.page_size if server_info.instance else 0
        key = _SpeedKey(
            server_info.model, server_info.device, server_info.tp, server_info.forward_tokens, page
        )
        if key not in self._by_key:
            self._by_key[key] = self._new(key)
        return self._by_key[key]

    def _new(self, key: _SpeedKey) -> Speed:
        profile = self._profile or built_in(key.device)
        if key.model and self._profile is None:
            logger.info(
                "prices %s on %s by the built-in profile of %s; memserve calibrate makes your own --profile",
                *(key.model, key.device or "an unknown device", profile.device),
            )
        try:
            return Speed(profile, shape_of(key.model, profile.dtype), *key[2:])
        except (OSError, ValueError) as error:
            if key.model:
                logger.warning("%s is priced as a dense model of 8B at TP 1: %s", key.model, error)
        return Speed(profile, msgspec.structs.replace(_DEFAULT, dtype=profile.dtype), 1, *key[3:])


def shape_of(model: str, dtype: str) -> ModelShape:
    """Raises OSError without a config.json on this machine, ShapeError for a model without a cost model."""
    if not model:
        raise ShapeError("the instance does not report its model")
    config = orjson.loads(model_file(model, "config.json").read_bytes())
    if not isinstance(config, dict):
        raise ShapeError("config.json holds no object")
    return ModelShape.from_config(config, dtype)


def built_in(device: str) -> Profile:
    """By SGLang's word for a device: a CPU's, and an H100's for all else."""
    return load_profile(_BUILT_IN / ("cpu.json" if device == "cpu" else "h100.json"))
