"""Instances and their registry, made from the configuration."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from router.config.settings import RouterConfig
from router.instances.breaker import Breaker
from router.instances.instance import Instance, Role
from router.instances.registry import Registry


def new_breaker(config: RouterConfig, clock: Callable[[], float] = time.monotonic) -> Breaker:
    return Breaker(
        failure_threshold=math.inf if config.disable_circuit_breaker else config.cb_failure_threshold,
        success_threshold=config.cb_success_threshold,
        rest_s=config.cb_timeout_duration_secs,
        window_s=config.cb_window_duration_secs,
        clock=clock,
    )


def new_instance(
    config: RouterConfig,
    url: str,
    role: Role,
    bootstrap_port: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    *,
    api_key: str = "",
) -> Instance:
    return Instance(url, role, bootstrap_port, new_breaker(config, clock), clock, api_key)


def new_registry(config: RouterConfig, clock: Callable[[], float] = time.monotonic) -> Registry:
    """The instances that the configuration names: prefill, decode, then colocated ones. Each gets its key."""
    named = [
        *((spec.url, Role.PREFILL, spec.bootstrap_port) for spec in config.prefill),
        *((url, Role.DECODE, None) for url in config.decode),
        *((url, Role.COLOCATED, None) for url in config.colocated),
    ]
    key = config.worker_api_key
    return Registry(new_instance(config, *spec, clock=clock, api_key=key) for spec in named)
