"""Who serves a request, what that is charged, and what is learned from the answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

import numpy as np

from router.config.settings import RouterConfig
from router.cost.estimator import CostEstimator
from router.errors import BadRequest, NoInstance
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.policies import Policy, Route
from router.prefix_tree import NOTHING, PromptTree
from router.prompt.request import RoutingRequest, TokenArray, guessed_tokens, routing_request
from router.prompt.tokens import Tokens
from router.protocol import bootstrap
from router.protocol.answer import Answer
from router.protocol.usage import Outcome, watched
from router.scheduling.decisions import Decision, Decisions
from router.scheduling.hints import hint_fields
from router.scheduling.reservation import PrefillReservation

_ONE_SAMPLE = (
    "no prefill/decode pair here is known to keep the samples of a prompt apart (stock SGLang does not); "
    "send the prompt once for each"
)


class Scheduler:
    """Asks the policy, and keeps what it decides by up to date."""

    def __init__(
        self,
        config: RouterConfig,
        registry: Registry,
        policy: Policy,
        tree: PromptTree,
        tokens: Tokens,
        prices: CostEstimator,
    ) -> None:
        self.decisions = Decisions(config.decisions_kept)
        self._config = config
        self._registry = registry
        self._policy = policy
        self._tree = tree
        self._tokens = tokens
        self._prices = prices

    @property
    def needs_tokens(self) -> bool:
        return self._policy.needs_tokens

    async def choose(self, fields: dict[str, Any], path: str, size: int) -> Placement:
        """For a generation request with this body, of `size` bytes. Raises NoInstance and BadRequest.

        Charge the choice before anything else is awaited.
        """
        placement = await self.explain(fields, path, size)
        self.decisions.add(placement.decision)
        return placement

    async def explain(self, fields: dict[str, Any], path: str, size: int) -> Placement:
        """What `choose` would choose now, and why; not on record, and not to be charged."""
        if self._policy.needs_prices:
            await self._prices.speeds.prepare(self._registry.instances)
        tokens = await self._tokens.of(fields, path, size) if self.needs_tokens else None
        refusal = None
        if several := bootstrap.several_samples(fields, path):
            refusal = f"n={several}: {_ONE_SAMPLE}"
        if too_many := bootstrap.pd_unsupported_reason(fields, path, self._config.max_batch_prompts):
            refusal = too_many
        ask = routing_request(
            fields,
            size,
            tokens=tokens,
            colocated_only=too_many is not None,
            several_samples=several is not None,
        )
        if (placement := self._decided(self._candidates(ask), ask, path)) is not None:
            return placement
        if reason := self._registry.unservable():
            raise NoInstance(reason)
        if several and any(one.healthy and one.server_info is None for one in self._registry.instances):
            raise NoInstance("no instance has told yet whether it takes n > 1")
        raise BadRequest(refusal or "no instance takes this request")

    def again(self, before: Placement, failed: Collection[str]) -> Placement:
        """Another choice for the same request, at none of the `failed` URLs if possible.

        Raises NoInstance.
        """
        ask, path = before.ask, before.decision.path
        candidates = self._candidates(ask)
        placement = self.decide(candidates.without(failed), ask, path) or self.decide(candidates, ask, path)
        if placement is None:
            raise NoInstance(self._registry.unservable() or "no instance takes this request just now")
        return placement

    def colocated(self, path: str, size: int) -> Placement | None:
        """For what a colocated instance alone can answer, whatever it is."""
        ask = RoutingRequest(prompt_tokens=guessed_tokens(size), colocated_only=True)
        return self.decide(self._candidates(ask), ask, path)

    def _candidates(self, ask: RoutingRequest) -> Candidates:
        candidates = self._registry.candidates
        return candidates.only(lambda one: one.takes_samples) if ask.several_samples else candidates

    def decide(self, candidates: Candidates, ask: RoutingRequest, path: str) -> Placement | None:
        """The policy's choice among `candidates`, on record. None: nobody can serve this."""
        if (placement := self._decided(candidates, ask, path)) is not None:
            self.decisions.add(placement.decision)
        return placement

    def _decided(self, candidates: Candidates, ask: RoutingRequest, path: str) -> Placement | None:
        began = time.perf_counter()
        route = self._policy.route(candidates, ask)
        if route is None:
            return None
        took = time.perf_counter() - began
        # No tuples: the garbage collector would go through all of them, decision by decision.
        healthy = [one for one in candidates.instances if one.healthy]
        loads = [one.charged for one in healthy]
        known = ask.tokens is not None
        decision = Decision(self._config.policy, path, ask.prompt_tokens, known, route, healthy, loads, took)
        return Placement(self, ask, decision)

    def began(self, placement: Placement) -> None:
        """The first of a stream has come: whoever prefilled has the prompt now, whatever the rest will be."""
        self._store(placement, placement.route.first)

    def answered(self, placement: Placement, outcome: Outcome) -> None:
        """An answer has come to its end."""
        first = placement.route.first
        forgot = first.cache_epoch != placement.cache_epochs[first]
        self.decisions.ended(placement.decision, outcome, forgot=forgot)
        self._observe(placement.decision, outcome)
        for instance in placement.cache_epochs:
            self._store(placement, instance, outcome.output_ids if _gets_answers(instance) else ())

    def _observe(self, decision: Decision, outcome: Outcome) -> None:
        first = decision.route.first
        price = decision.route.price(first) if decision.alone else None
        # One that had more or less of the prompt than was thought is not slow or fast for that.
        told = outcome.prompt_tokens, outcome.cached_tokens
        as_thought = told == (decision.prompt_tokens, decision.predicted)
        if price is not None and decision.prefilled is not None and as_thought:
            self._prices.observe(first, price, decision.prefilled)

    def _store(self, placement: Placement, instance: Instance, output_ids: tuple[int, ...] = ()) -> None:
        ask = placement.ask
        keeps = instance.server_info is None or instance.server_info.keeps_prefixes
        # One that forgot in the meantime has nothing of this.
        if ask.tokens is not None and keeps and instance.cache_epoch == placement.cache_epochs[instance]:
            self._tree.stored(instance, _with_answer(ask.tokens, output_ids), ask.namespace)

    def forget(self, instance: Instance) -> None:
        """It has left for good."""
        self._prices.forget(instance)

    def describe(self) -> dict[str, Any]:
        return {
            "policy": self._config.policy,
            "needs_tokens": self._policy.needs_tokens,
            "tokenizer": self._tokens.describe(),
            "tokenising": dict(self._tokens.counts),
            "answers": dict(self.decisions.counts),
            "predictions": dict(self.decisions.prediction_outcomes),
            "tree": self._tree.sizes(),
            "residuals": {url: asdict(one) for url, one in self._prices.residuals.exported().items()},
        }


class Placement:
    """A choice, for as long as its request lasts."""

    def __init__(self, routing: Scheduler, ask: RoutingRequest, decision: Decision) -> None:
        self.ask = ask
        self.decision = decision
        self.route: Route = decision.route
        self.cache_epochs = {one: one.cache_epoch for one in self.route[:2] if one is not None}
        self._routing = routing

    def charge(self, instance: Instance) -> int:
        """Tokens: what is left to prefill, and for one that decodes what the answer may have."""
        ask, route = self.ask, self.route
        if route.prefill is not None and instance is route.decode:
            return ask.prompt_tokens + ask.new_tokens
        left = max(1, ask.prompt_tokens - route.cached.get(instance, NOTHING).tokens)
        return left if instance is route.prefill else left + ask.new_tokens

    def work(self, instance: Instance) -> PrefillReservation | None:
        """The prefill that it is charged with from now on. None: not one that was priced."""
        price = self.route.price(instance)
        if price is None or price.way is None:
            return None
        fetch = price.way.fetch
        work = PrefillReservation(
            instance, price.work, fetch and fetch.source, price.way.sending, self._prefilled
        )
        if fetch is not None:
            asyncio.get_running_loop().call_later(price.queue + price.way.fetch_s, work.fetched)
        if not self.ask.tells_first and instance.role is Role.COLOCATED:
            asyncio.get_running_loop().call_later(price.prefilled, work.drop)
        return work

    def hint(self, fields: dict[str, Any], path: str) -> dict[str, Any]:
        """What the body for whoever prefills has to say of a fetch; empty without one."""
        fetch = self.route.fetch
        return {} if fetch is None else hint_fields(fields, path, fetch, self.route.first)

    def _prefilled(self, seconds: float, alone: bool) -> None:
        self.decision.prefilled, self.decision.alone = seconds, alone

    def watched(self, answer: Answer) -> Answer:
        """The same answer; what it says at its end is learned from, if there are tokens to learn about."""
        if self.ask.tokens is None or answer.status != 200 or answer.failure is not None:
            return answer
        # The client's bytes first.
        soon = asyncio.get_running_loop().call_soon
        if answer.rest is not None:
            soon(self._routing.began, self)

        def told(outcome: Outcome) -> None:
            soon(self._routing.answered, self, outcome)

        return watched(answer, told)


def _gets_answers(instance: Instance) -> bool:
    writes_back = instance.server_info is not None and instance.server_info.writes_back
    return writes_back or instance.role is not Role.PREFILL


def _with_answer(prompt: TokenArray, output_ids: tuple[int, ...]) -> TokenArray:
    """The last token of an answer is never fed back: there is no KV of it."""
    fed = output_ids[:-1]
    return np.concatenate([prompt, np.array(fed, dtype=np.int32)]) if fed else prompt
