"""From a client's request to the instances that answer it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

import aiohttp
from aiohttp import web

from router.config.settings import RouterConfig
from router.errors import Failure, InstanceRefused, NoInstance
from router.forwarding import logprobs
from router.forwarding.aborted import Aborted
from router.forwarding.aborts import Aborts
from router.forwarding.pair import Pairs
from router.forwarding.retries import Retries
from router.forwarding.upstream import Request, UpstreamRequest
from router.instances.instance import Instance, Role
from router.instances.registry import Registry
from router.protocol import body, bootstrap, headers
from router.protocol.answer import Answer
from router.scheduling.scheduler import Placement, Scheduler

logger = logging.getLogger(__name__)

SERVED_BY = web.RequestKey("served_by", str)
"""The role of the instance whose answer a client gets."""


class Front:
    """Has it chosen who serves a request, and runs it there.

    `aborted` must hear what clients abort by name.
    """

    def __init__(
        self, config: RouterConfig, registry: Registry, routing: Scheduler, session: aiohttp.ClientSession
    ) -> None:
        self._config = config
        self._registry = registry
        self._routing = routing
        self._session = session
        self._pairs = Pairs()
        self._aborts = Aborts(session)
        self.aborted = Aborted()
        self._retries = Retries(config, self.aborted, self._aborts)

    async def close(self) -> None:
        await self._pairs.close()
        await self._aborts.close()

    @asynccontextmanager
    async def generate(self, request: web.Request, raw: bytes) -> AsyncIterator[Answer]:
        """The answer to a generation request; leaving the block early aborts it. Raises Failure."""
        parsed = body.parse(raw)
        if parsed is None:
            # SGLang refuses this, in its own words, before it does anything.
            async with self.anyone(request, raw) as answer:
                yield answer
            return
        fields, path = parsed.fields, request.path
        chosen = await self._routing.choose(fields, path, len(raw))

        def once(failed: Collection[str]) -> AbstractAsyncContextManager[Answer]:
            placement = self._routing.again(chosen, failed) if failed else chosen
            return self._generate(placement, request, parsed)

        async with self._retries.run(once, bootstrap.given_ids(fields)) as answer:
            yield answer

    @asynccontextmanager
    async def _generate(
        self, placement: Placement, request: web.Request, parsed: body.Body
    ) -> AsyncIterator[Answer]:
        """One try, with names of its own: what a failed one left behind must not meet them."""
        fields, path, route = parsed.fields, request.path, placement.route
        rid = bootstrap.request_id(fields, path, new=route.prefill is not None)
        added: dict[str, Any] = {}
        if route.prefill is not None:
            added = bootstrap.bootstrap_fields(
                fields, path, route.prefill.bootstrap_host, route.prefill.bootstrap_port
            )
            if rid and fields.get("rid") is None:
                added["rid"] = rid
        hint, style = placement.hint(fields, path), logprobs.style_of(fields, path)
        raw = parsed.replacing(bootstrap.BOOTSTRAP_PREFIX, added)
        hinted = parsed.replacing(bootstrap.BOOTSTRAP_PREFIX, added | hint) if hint else raw
        try:
            async with self._run(placement, request, raw, hinted, rid, style) as answer:
                yield placement.watched(answer)
        except InstanceRefused as refused:
            refused.body = bootstrap.without_echo(bootstrap.without_echo(refused.body, hint), added)
            raise

    @asynccontextmanager
    async def anyone(self, request: web.Request, raw: bytes = b"") -> AsyncIterator[Answer]:
        """The answer of some healthy instance to the request as it came. Raises Failure."""

        def once(failed: Collection[str]) -> AbstractAsyncContextManager[Answer]:
            instance = self._registry.any_healthy(failed)
            if instance is None:
                raise NoInstance(self._registry.unservable() or "no healthy instance")
            return self._single(instance, request, raw)

        async with self._retries.run(once) as answer:
            yield answer

    @asynccontextmanager
    async def _run(
        self,
        placement: Placement,
        request: web.Request,
        raw: bytes,
        hinted: bytes,
        rid: str | None,
        style: logprobs.Style | None,
    ) -> AsyncIterator[Answer]:
        """`hinted`: the body for whoever prefills."""
        first, last = placement.route[:2]
        if first is None:
            async with self._single(last, request, hinted, rid, placement) as answer:
                yield answer
            return
        prompts = style and logprobs.Prompts(style, self._config.max_payload_size)
        prefill = self._leg(first, request, hinted, rid, placement)
        decode = self._leg(last, request, raw, rid, placement)
        async with self._pairs.run(prefill, decode, prompts) as answer:
            yield answer

    @asynccontextmanager
    async def _single(
        self,
        instance: Instance,
        request: web.Request,
        raw: bytes,
        rid: str | None = None,
        placement: Placement | None = None,
    ) -> AsyncIterator[Answer]:
        leg = self._leg(instance, request, raw, rid, placement)
        try:
            yield await leg.answer()
        finally:
            leg.close()

    def _leg(
        self,
        instance: Instance,
        request: web.Request,
        raw: bytes,
        rid: str | None,
        placement: Placement | None,
    ) -> UpstreamRequest:
        request[SERVED_BY] = instance.role.value
        forwarded = headers.to_instance(request.headers, credentials=self._config.passes_credentials)
        begun = asyncio.get_running_loop().time()
        abandoned = partial(self._aborts.send, instance, rid, forwarded.copy(), begun) if rid else None
        if raw:
            forwarded["Content-Length"] = str(len(raw))
        sent = Request(request.method, request.path_qs, forwarded, raw)
        if placement is not None:
            sent = replace(sent, charge=placement.charge(instance), work=placement.work(instance))
        return UpstreamRequest(self._session, instance, sent, self._config, abandoned)

    @asynccontextmanager
    async def colocated(
        self, request: web.Request, raw: bytes, pd_unsupported_reason: str
    ) -> AsyncIterator[Answer]:
        """A colocated instance's answer to what no pair can answer, and why not. Raises Failure."""
        chosen = self._routing.colocated(request.path, len(raw))
        if chosen is None:
            raise self._registry.no_colocated(pd_unsupported_reason)

        def once(failed: Collection[str]) -> AbstractAsyncContextManager[Answer]:
            placement = self._routing.again(chosen, failed) if failed else chosen
            return self._single(placement.route.decode, request, raw, placement=placement)

        async with self._retries.run(once) as answer:
            yield answer

    @asynccontextmanager
    async def holder(
        self, request: web.Request, raw: bytes, pd_unsupported_reason: str
    ) -> AsyncIterator[Answer]:
        """The answer of the colocated instance that does not say 404. Raises Failure."""
        unknown: Failure = self._registry.no_colocated(pd_unsupported_reason)
        for instance in self._registry.healthy(Role.COLOCATED):
            async with AsyncExitStack() as stack:
                try:
                    answer = await stack.enter_async_context(self._single(instance, request, raw))
                except InstanceRefused as refused:
                    if refused.status != HTTPStatus.NOT_FOUND:
                        raise
                    unknown = refused
                else:
                    yield answer
                    return
        raise unknown
