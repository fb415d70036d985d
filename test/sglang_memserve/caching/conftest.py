"""SGLang's real trees and allocators on the CPU, with agents between them; no servers."""

from array import array
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, InsertParams, MatchPrefixParams
from sglang.srt.mem_cache.cache_init_params import CacheInitParams
from sglang.srt.mem_cache.radix_cache import RadixKey
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from waiting import until

from mempool.endpoints import SHM_URL
from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from sglang_memserve.caching.agent import CachingAgent
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.namespace import Namespace
from sglang_memserve.caching.tree import MemServeRadixCache

PAGE, LAYERS, HEADS, DIM = 4, 2, 2, 8
PLAIN = Namespace(None, None)


class Instance:
    """A tree over a pool of `pages`, and an agent. `core`: rust or python. `events`: SGLang's own.
    `device`: what the pool is on, where it is not the CPU; forwards run on its stream `forward_stream`.
    """

    def __init__(self, name, role, *, pages=32, core="rust", dram="64 blocks", writes_back=True, decode=None,
                 events=False, max_bandwidth=0, ports=(), device=None, forward_stream=None):  # fmt: skip
        self.device = device
        self.pages = pages
        self.planes = [torch.zeros((pages + 1) * PAGE, HEADS, DIM) for _ in range(2 * LAYERS)]
        self.allocator = PagedTokenToKVPoolAllocator(
            pages * PAGE, PAGE, torch.float32, "cpu", SimpleNamespace(), need_sort=False
        )
        self.tree = MemServeRadixCache(
            CacheInitParams(
                disable=False,
                req_to_token_pool=SimpleNamespace(),
                token_to_kv_pool_allocator=self.allocator,
                page_size=PAGE,
                tree_components=(ComponentType.FULL,),
                tree_core_backend=core,
                enable_kv_cache_events=events,
            )
        )
        config = CachingAgentConfig(
            name=name,
            role=role,
            host="127.0.0.1",
            dram=dram,
            writes_back=writes_back,
            max_bandwidth=max_bandwidth,
            fabric_urls=() if max_bandwidth else (SHM_URL,),
            **dict(ports),
        )
        buffers = (self.buffers(), self.buffers())
        if device is not None:
            self.allocator.alloc = lambda count, alloc=self.allocator.alloc: device.own(alloc(count))
        self.agent = CachingAgent(
            config, tree=self.tree, buffers=buffers, forward_stream=forward_stream, decode=decode
        )

    def buffers(self):
        plane = PAGE * HEADS * DIM * 4
        layout = BlockLayout(
            kind="mha", dtype="float32", page_size=PAGE, layers=LAYERS, heads=HEADS,
            k_plane_bytes=plane, v_plane_bytes=plane,
        )  # fmt: skip
        return PagedBuffers(self.planes, layout, self.device)

    def compute(self, tokens, namespace=PLAIN):
        """As a forward would: KV of all the tokens, whole pages, that says which token it is of."""
        present = self.known(tokens, namespace)
        slots = self.allocator.alloc(len(tokens) - present)
        for layer, plane in enumerate(self.planes):
            plane[slots] = kv_of(tokens, layer)[present:, None, None].expand(-1, HEADS, DIM)
        key = key_of(tokens, namespace)
        node = self.tree.match_prefix(MatchPrefixParams(key=key)).last_device_node
        head = self.tree.path_device_indices(node)[:present]
        result = self.tree.insert(
            InsertParams(
                key=key,
                value=torch.cat([head, slots]),
                prev_prefix_len=present,
                inserted_len=len(tokens),
            )
        )
        return result.last_device_node

    def known(self, tokens, namespace=PLAIN):
        found = self.tree.match_prefix(MatchPrefixParams(key=key_of(tokens, namespace)))
        return int(found.device_prefix_len)

    def pages_of(self, tokens, namespace=PLAIN):
        """The pages that the tree has of it, one for each token block."""
        found = self.tree.match_prefix(MatchPrefixParams(key=key_of(tokens, namespace)))
        slots = self.tree.path_device_indices(found.last_device_node)
        return (slots[: int(found.device_prefix_len) : PAGE] // PAGE).tolist()

    def finish(self, tokens, namespace=PLAIN):
        """A request for these tokens, whole pages, that has ended; waits until DRAM has its KV."""
        node = self.compute(tokens, namespace)
        self.agent.requests.on_finish(ended(None, tokens, tokens, node, namespace), len(tokens))
        until(lambda: self.agent.tick() or self.everything_is_accounted_for())

    def ask(self, tokens, namespace=PLAIN, req=None, ends=True):
        """What a request finds in the tree when it is scheduled, in tokens; it has ended then, or `ends`
        not yet.
        """
        req = req or asked(tokens)
        found = self.tree.match_prefix(MatchPrefixParams(key=key_of(tokens, namespace), req=req))
        if req.cached_tokens is None:
            req.cached_tokens = int(found.device_prefix_len)
        if ends:
            self.tree.on_release(req, checkpointed=True)
        return int(found.device_prefix_len)

    def evict_all(self):
        self.tree.evict(EvictParams(num_tokens=self.pages * PAGE))
        assert self.allocator.available_size() == self.pages * PAGE

    def holds(self, tokens, namespace=PLAIN):
        """Whether the tree has all of it, and the bytes are those of these tokens."""
        key = key_of(tokens, namespace)
        found = self.tree.match_prefix(MatchPrefixParams(key=key))
        if int(found.device_prefix_len) != len(tokens):
            return False
        slots = self.tree.path_device_indices(found.last_device_node)
        return all(
            torch.equal(plane[slots], kv_of(tokens, layer)[:, None, None].expand(-1, HEADS, DIM))
            for layer, plane in enumerate(self.planes)
        )

    def everything_is_accounted_for(self):
        tree = self.tree
        return (
            self.allocator.available_size() + tree.full_evictable_size() == self.pages * PAGE
            and self.agent._pool.counts("dram")[1] == 0
        )

    def meet(self, other):
        """As the membership has instances meet."""
        self.agent._pool.introduce(other.agent._pool.info)
        other.agent._pool.introduce(self.agent._pool.info)

    def arrive(self, room, tokens, hint, **how):
        """A request that SGLang has taken in, with a hint or None."""
        custom = {"memserve.fetch": hint} if how.get("custom") else None
        action = SimpleNamespace(action_type=how.get("action", "memserve.fetch"), payload=hint)
        req = SimpleNamespace(
            rid="request",
            bootstrap_room=room,
            origin_input_ids=tokens,
            extra_key=None,
            cache_salt=None,
            multimodal_inputs=None,
            disagg_kv_sender=object(),
            kv_hints=None if custom or hint is None else SimpleNamespace(actions=[action]),
            sampling_params=SimpleNamespace(custom_params=custom),
        )
        self.agent.on_arrival(req)
        return req

    def close(self):
        self.agent.close()


def kv_of(tokens, layer):
    """Attention has seen all before it."""
    return torch.tensor(tokens, dtype=torch.float32).cumsum(0) * (layer + 1)


def key_of(tokens, namespace=PLAIN):
    return RadixKey(array("q", tokens), namespace.extra_key, cache_salt=namespace.cache_salt)


def asked(tokens, room=None, cached=None):
    """A request of SGLang's that is not scheduled yet. `cached`: the tokens that it reports in the end."""
    return SimpleNamespace(
        bootstrap_room=room,
        rid="request",
        session=None,
        origin_input_ids=tokens,
        cached_tokens=cached,
        finished=lambda: True,
    )


def ended(room, prompt, tokens, node, namespace, reason=None, multimodal=None):
    """A request of SGLang's that has ended. `tokens`: prompt and answer."""
    return SimpleNamespace(
        bootstrap_room=room,
        rid="request",
        origin_input_ids=prompt,
        full_untruncated_fill_ids=array("q", tokens),
        last_node=node,
        extra_key=namespace.extra_key,
        cache_salt=namespace.cache_salt,
        finished_reason=reason,
        multimodal_inputs=multimodal,
        skip_radix_cache_insert=False,
    )


def answered(instance, room, prompt, answer, namespace=PLAIN, **how):
    """A request that decode has finished: all of it but the last token is in its tree."""
    tokens = prompt + answer
    stop = (len(tokens) - 1) // PAGE * PAGE
    node = instance.compute(tokens[:stop], namespace)
    req = ended(room, prompt, tokens, node, namespace, how.get("reason"), how.get("multimodal"))
    instance.agent.requests.on_finish(req, len(tokens) - 1)
    return tokens[:stop]


@pytest.fixture
def make_instance():
    made = []

    def make(name, role, **how):
        made.append(Instance(name, role, **how))
        return made[-1]

    yield make
    for instance in made:
        instance.close()


@pytest.fixture
def tools():
    return SimpleNamespace(
        answered=answered, asked=asked, until=until, key_of=key_of, PAGE=PAGE, Namespace=Namespace
    )
