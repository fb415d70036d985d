"""Which instances serve a request, and what is learned from its answer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import asdict
from typing import Any

import numpy as np

from router.config.settings import RouterConfig
from router.cost.estimator import CostEstimator
from router.errors import BadRequest, NoInstance
from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.policies import Policy
from router.prefix_tree import PromptTree
from router.prompt.request import RoutingRequest, TokenArray, guessed_tokens, routing_request
from router.prompt.tokens import Tokens
from router.protocol import bootstrap
from router.protocol.usage import ReportedUsage
from router.scheduling.decisions import Decision, Decisions
from router.scheduling.placement import Placement, Timer

# SGLang's scheduler ends with such a prompt, in a split both schedulers.
_NO_TOKENS = "the prompt has no tokens: a prompt needs at least one"
_ONE_SAMPLE = (
    "no prefill/decode pair here is known to keep the samples of a prompt apart (stock SGLang does not); "
    "send the prompt once for each"
)

Admit = Callable[[int], Awaitable[None]]
"""Takes the length of a prompt in tokens; raises a Failure where it must not run."""


class Scheduler:
    """Asks the policy where a request goes, and keeps up to date what the policy decides by.

    `timer` is the server's event loop, or a simulator's. `wall_clock` (seconds since 1970) stamps decisions.
    """

    def __init__(
        self,
        config: RouterConfig,
        registry: Registry,
        policy: Policy,
        tree: PromptTree,
        tokens: Tokens,
        estimator: CostEstimator,
        *,
        timer: Timer,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.decisions = Decisions(config.decisions_kept)
        self._config = config
        self._registry = registry
        self._policy = policy
        self._tree = tree
        self._tokens = tokens
        self._estimator = estimator
        self._timer = timer
        self._wall_clock = wall_clock

    @property
    def needs_tokens(self) -> bool:
        return self._policy.needs_tokens

    async def choose(
        self, fields: dict[str, Any], path: str, size: int, admit: Admit | None = None
    ) -> Placement:
        """For a generation request with this body, of `size` bytes. Raises NoInstance and BadRequest, and as
        `admit` does.

        Reserve the choice before anything else is awaited.
        """
        placement = await self.explain(fields, path, size, admit)
        self.decisions.add(placement.decision)
        return placement

    async def explain(
        self, fields: dict[str, Any], path: str, size: int, admit: Admit | None = None
    ) -> Placement:
        """What `choose` would choose now, and why; not on record, and not to be reserved."""
        if self._policy.needs_estimates:
            await self._estimator.speeds.prepare(self._registry.instances)
        tokens = await self._tokens.of(fields, path, size) if self.needs_tokens else None
        by_text = self.needs_tokens and tokens is None
        if self._tokens.are_missing(fields, path) or (tokens is not None and not len(tokens)):
            raise BadRequest(_NO_TOKENS)
        refusal = None
        if several := bootstrap.several_samples(fields, path):
            refusal = f"n={several}: {_ONE_SAMPLE}"
        if pd_reason := bootstrap.pd_unsupported_reason(fields, path, self._config.max_batch_prompts):
            refusal = pd_reason
        request = routing_request(
            fields,
            size,
            tokens=tokens,
            text=self._tokens.text_of(fields, path, size) if by_text else None,
            colocated_only=pd_reason is not None,
            several_samples=several is not None,
        )
        if admit is not None:
            await admit(request.prompt_tokens)
        if (placement := self._decided(self._candidates(request), request, path)) is not None:
            return placement
        if reason := self._registry.unservable():
            raise NoInstance(reason)
        if several and any(
            instance.healthy and instance.server_info is None for instance in self._registry.instances
        ):
            raise NoInstance("no instance has reported yet whether it takes n > 1")
        raise BadRequest(refusal or "no instance takes this request")

    def again(self, before: Placement, failed: Collection[str]) -> Placement:
        """Another choice for the same request, at none of the `failed` URLs if possible.

        Raises NoInstance.
        """
        request, path = before.request, before.decision.path
        candidates = self._candidates(request)
        placement = self.decide(candidates.without(failed), request, path)
        placement = placement or self.decide(candidates, request, path)
        if placement is None:
            raise NoInstance(self._registry.unservable() or "no instance takes this request just now")
        return placement

    def colocated(self, path: str, size: int) -> Placement | None:
        """For a request that colocated instances alone can answer, whatever it is."""
        request = RoutingRequest(prompt_tokens=guessed_tokens(size), colocated_only=True)
        return self.decide(self._candidates(request), request, path)

    def _candidates(self, request: RoutingRequest) -> Candidates:
        candidates = self._registry.candidates
        if not request.several_samples:
            return candidates
        return candidates.only(lambda instance: instance.takes_samples)

    def decide(self, candidates: Candidates, request: RoutingRequest, path: str) -> Placement | None:
        """The policy's choice among `candidates`, on record. None: no instance can serve this."""
        if (placement := self._decided(candidates, request, path)) is not None:
            self.decisions.add(placement.decision)
        return placement

    def _decided(self, candidates: Candidates, request: RoutingRequest, path: str) -> Placement | None:
        # Wall time, in a simulation too: it measures the policy itself.
        began = time.perf_counter()
        route = self._policy.route(candidates, request)
        if route is None:
            return None
        decision_s = time.perf_counter() - began
        # Two lists, not pairs: decisions are kept, and thousands of pairs would lengthen each collection of
        # garbage.
        healthy = [instance for instance in candidates.instances if instance.healthy]
        decision = Decision(
            policy=self._config.policy,
            path=path,
            prompt_tokens=request.prompt_tokens,
            tokenised=request.tokens is not None,
            by_text=request.text is not None,
            route=route,
            healthy=healthy,
            charged=[instance.charged for instance in healthy],
            decision_s=decision_s,
            made_at=self._wall_clock(),
        )
        return Placement(request, decision, self._timer)

    def began(self, placement: Placement) -> None:
        """A stream has begun: the instance that prefilled has the prompt now, whatever the rest will be."""
        self._store(placement, placement.route.first)

    def answered(self, placement: Placement, outcome: ReportedUsage) -> None:
        """An answer has come to its end."""
        if placement.decision.tokenised:
            first = placement.route.first
            cache_lost = first.cache_epoch != placement.cache_epochs[first]
            self.decisions.ended(placement.decision, outcome, cache_lost=cache_lost)
            self._observe(placement.decision, outcome)
        else:
            # What was guessed proves nothing about tokenizers and speeds.
            placement.decision.answered(outcome)
        for instance in placement.cache_epochs:
            self._store(placement, instance, outcome.output_ids if _keeps_answers(instance) else ())

    def _observe(self, decision: Decision, outcome: ReportedUsage) -> None:
        first = decision.route.first
        estimate = decision.route.estimate(first) if decision.alone else None
        # An instance that had more or less of the prompt than predicted is not slow or fast for that.
        reported = outcome.prompt_tokens, outcome.cached_tokens
        as_predicted = reported == (decision.prompt_tokens, decision.predicted)
        if estimate is not None and decision.prefill_s is not None and as_predicted:
            self._estimator.observe(first, estimate, decision.prefill_s)

    def _store(self, placement: Placement, instance: Instance, output_ids: tuple[int, ...] = ()) -> None:
        request, info = placement.request, instance.server_info
        prefix, keeps = request.prefix, info is None or info.keeps_prefixes
        # An instance whose cache was lost in the meantime has nothing of this.
        if prefix is not None and keeps and instance.cache_epoch == placement.cache_epochs[instance]:
            answer = output_ids if request.tokens is not None else ()
            self._tree.stored(instance, _with_answer(prefix.tokens, answer), prefix.namespace)

    def forget(self, instance: Instance) -> None:
        """It has left for good."""
        self._estimator.forget(instance)

    def describe(self) -> dict[str, Any]:
        residuals = self._estimator.residuals.exported()
        return {
            "policy": self._config.policy,
            "needs_tokens": self._policy.needs_tokens,
            "tokenizer": self._tokens.describe(),
            "tokenising": dict(self._tokens.counts),
            "answers": dict(self.decisions.counts),
            "prediction_outcomes": dict(self.decisions.prediction_outcomes),
            "tree": self._tree.sizes(),
            "residuals": {url: asdict(residual) for url, residual in residuals.items()},
        }


def _keeps_answers(instance: Instance) -> bool:
    writes_back = instance.server_info is not None and instance.server_info.writes_back
    return writes_back or instance.role is not Role.PREFILL


def _with_answer(prompt: TokenArray, output_ids: tuple[int, ...]) -> TokenArray:
    """The last token of an answer is never fed back: there is no KV of it."""
    fed = output_ids[:-1]
    return np.concatenate([prompt, np.array(fed, dtype=np.int32)]) if fed else prompt
