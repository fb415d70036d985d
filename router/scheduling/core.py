"""The router's decisions put together: the server and the simulator run the same composition."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from router.config.names import POLICY_ALIASES
from router.config.settings import ConfigError, RouterConfig
from router.cost.estimator import CostEstimator
from router.cost.profile import ProfileError
from router.cost.speeds import Speeds
from router.instances.registry import Registry
from router.policies import POLICIES, PerRolePolicy, Policy
from router.prefix_tree import EventTree, PromptTree, ResponseTree
from router.prompt.tokens import Tokens
from router.scheduling.placement import Timer
from router.scheduling.scheduler import Scheduler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RouterCore:
    """What decides. `tree` is of EventTree where instances' events are followed."""

    tree: PromptTree
    estimator: CostEstimator
    scheduler: Scheduler


def router_core(
    config: RouterConfig,
    registry: Registry,
    tokens: Tokens,
    *,
    timer: Timer,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    rng: random.Random | None = None,
) -> RouterCore:
    """`timer`: an event loop, or a simulator's. `clock`: seconds, monotonic, the same as the instances';
    `wall_clock`: since 1970. `rng` draws wherever instances are equal.

    Raises ConfigError for a --profile that cannot be read.
    """
    tree = _tree(config, clock)
    rng = rng or random.Random()
    estimator = _estimator(config, clock, rng)
    policy = _policy(config, tree, estimator, rng)
    scheduler = Scheduler(
        config, registry, policy, tree, tokens, estimator, timer=timer, wall_clock=wall_clock
    )
    return RouterCore(tree, estimator, scheduler)


def _estimator(config: RouterConfig, clock: Callable[[], float], rng: random.Random) -> CostEstimator:
    try:
        return CostEstimator(Speeds(config.profile), clock=clock, rng=rng)
    except ProfileError as error:
        raise ConfigError(f"--profile {error}") from error


def _tree(config: RouterConfig, clock: Callable[[], float]) -> PromptTree:
    if config.tree_update == "response":
        return ResponseTree(config.tree_ttl, config.max_tree_size, clock)
    return EventTree(config.tree_ttl, config.prediction_ttl, config.max_tree_size, clock)


def _policy(config: RouterConfig, tree: PromptTree, estimator: CostEstimator, rng: random.Random) -> Policy:
    given = config.prefill_policy or config.policy, config.decode_policy or config.policy
    for name in sorted(set(given) & POLICY_ALIASES.keys()):
        logger.info("policy %s of sglang_router is %s here", name, POLICY_ALIASES[name])
    prefill, decode = (POLICY_ALIASES.get(name, name) for name in given)
    policy = POLICIES[prefill](tree, estimator, rng)
    return policy if prefill == decode else PerRolePolicy(policy, POLICIES[decode](tree, estimator, rng))
