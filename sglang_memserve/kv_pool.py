"""SGLang's KV pool as the MemPool's paged buffers: the one place that knows its layout."""

from typing import Any

from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers


def paged_buffers(pool: Any) -> PagedBuffers:
    """`pool`: an MHATokenToKVPool or MLATokenToKVPool whose layers are `[slots, heads, dim]` each."""
    (pool_info,) = pool.get_device_pool_infos()
    info = pool_info.buffer_info
    mha = hasattr(info, "head_num")
    k_planes = list(info.buffers.k) if mha else list(info.buffers)
    v_planes = list(info.buffers.v) if mha else []
    layout = BlockLayout(
        kind="mha" if mha else "mla",
        # What SGLang stores it as, `info.dtype`, is uint8 for each of the 8-bit floats.
        dtype=str(pool.dtype).removeprefix("torch."),
        page_size=info.page_size,
        layers=len(k_planes),
        heads=info.head_num if mha else 1,
        k_plane_bytes=k_planes[0][: info.page_size].nbytes,
        v_plane_bytes=v_planes[0][: info.page_size].nbytes if mha else 0,
    )
    return PagedBuffers(k_planes + v_planes, layout)
