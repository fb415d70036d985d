"""Instances and their registry, made from the configuration."""

from __future__ import annotations

import math

from router.config.settings import RouterConfig
from router.instances.breaker import Breaker
from router.instances.instance import Instance, Role
from router.instances.registry import Registry


def new_breaker(config: RouterConfig) -> Breaker:
    most = math.inf if config.disable_circuit_breaker else config.cb_failure_threshold
    return Breaker(
        most, config.cb_success_threshold, config.cb_timeout_duration_secs, config.cb_window_duration_secs
    )


def new_instance(config: RouterConfig, url: str, role: Role, bootstrap_port: int | None = None) -> Instance:
    return Instance(url, role, bootstrap_port, new_breaker(config))


def new_registry(config: RouterConfig) -> Registry:
    """The instances that the configuration names: prefill, decode, then colocated ones."""
    return Registry(
        [
            *(new_instance(config, spec.url, Role.PREFILL, spec.bootstrap_port) for spec in config.prefill),
            *(new_instance(config, url, Role.DECODE) for url in config.decode),
            *(new_instance(config, url, Role.COLOCATED) for url in config.colocated),
        ]
    )
