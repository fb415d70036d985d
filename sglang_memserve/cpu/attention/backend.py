"""SGLang's attention backend on top of `plan` and `compute`."""

from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

from sglang_memserve.cpu.attention import compute
from sglang_memserve.cpu.attention.limits import refuse_unsupported
from sglang_memserve.cpu.attention.plan import DecodeGroup, ExtendPart, plan_decode, plan_extend


class MemServeCpuAttention(AttentionBackend):
    """Raises Unsupported for a model, pool or argument that it cannot serve."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__()
        refuse_unsupported(model_runner)
        self._pool = model_runner.token_to_kv_pool
        self._req_to_token = model_runner.req_to_token_pool.req_to_token
        self._page_size: int = model_runner.page_size
        self._dtype: torch.dtype = model_runner.dtype
        self._groups: list[DecodeGroup] = []
        self._parts: list[ExtendPart] = []

    def support_triton(self) -> bool:
        return False

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Once before each forward."""
        mode, batch = forward_batch.forward_mode, forward_batch
        self._groups, self._parts = [], []
        if mode.is_decode():
            self._groups = plan_decode(
                self._req_to_token,
                batch.req_pool_indices,
                batch.seq_lens.tolist(),
                self._page_size,
                self._dtype,
            )
        elif not mode.is_idle():
            self._parts = plan_extend(
                self._req_to_token,
                batch.req_pool_indices,
                batch.extend_prefix_lens_cpu,
                batch.extend_seq_lens_cpu,
                self._page_size,
            )

    def forward_decode(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """`q`: `[requests, heads * dim]`, one new token each; `k`, `v`: `[requests, kv_heads, dim]`."""
        k_cache, v_cache = self._stored(k, v, layer, forward_batch, save_kv_cache)
        query, out = _by_head(q, layer)
        for group in self._groups:
            out[group.rows] = compute.decode(
                query[group.rows], k_cache, v_cache, group, self._page_size, layer.scaling
            )
        return out.view(len(out), -1)

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        layer: Any,
        forward_batch: Any,
        save_kv_cache: bool = True,
    ) -> torch.Tensor:
        """`q`: `[tokens, heads * dim]`, all requests' new tokens; `k`, `v`: `[tokens, kv_heads, dim]`."""
        k_cache, v_cache = self._stored(k, v, layer, forward_batch, save_kv_cache)
        query, out = _by_head(q, layer)
        for part in self._parts:
            compute.extend(
                query[part.rows], k_cache, v_cache, part, self._page_size, layer.scaling, out[part.rows]
            )
        return out.view(len(out), -1)

    def _stored(
        self, k: torch.Tensor, v: torch.Tensor, layer: Any, forward_batch: Any, save: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's K and V buffers of the pool, once the new tokens' are in them."""
        if save and k is not None:
            self._pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        return self._pool.get_key_buffer(layer.layer_id), self._pool.get_value_buffer(layer.layer_id)


def _by_head(q: torch.Tensor, layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`q` as `[tokens, heads, dim]`, and an empty tensor for its output."""
    query = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
    return query, query.new_empty(*query.shape[:2], layer.v_head_dim)
