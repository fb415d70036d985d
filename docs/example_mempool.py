"""Two instances that give each other KV: `example_mempool.py REGISTRY a b`, and beside it `... b a`."""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from mempool import BlockLayout, Medium, MemPool, MemPoolConfig, device_buffers, dram_arena

registry, name, peer = sys.argv[1:]
# A plane: 16 tokens of 2 heads of 64 numbers in bfloat16.
layout = BlockLayout(
    kind="mha", dtype="bfloat16", page_size=16, layers=4, heads=2, k_plane_bytes=4096, v_plane_bytes=4096
)
hbm, dram = device_buffers(layout, "64 blocks"), dram_arena(layout, "8MiB")
prompts = {"a": np.arange(160), "b": np.arange(160)[::-1]}


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        if time.monotonic() > deadline:
            sys.exit(f"{name}: {peer} did not come")
        time.sleep(0.02)


config = MemPoolConfig(instance=name, registries=[registry])
with MemPool(config, stores={Medium.HBM: hbm, Medium.DRAM: dram}) as pool:
    blocks = pool.alloc_mem(10, Medium.HBM)
    kv = torch.full((10, layout.block_bytes), ord(name), dtype=torch.uint8)
    hbm.scatter(torch.from_numpy(blocks.blocks).long(), kv)
    pool.insert(prompts[name], blocks)

    wait_until(lambda: peer in pool.others)
    with pool.match(prompts[name]) as mine:
        landed = pool.transfer_with_insert(peer, prompts[name], mine.addresses)
    print(f"{name} sent {len(landed.addresses)} blocks to {landed.addresses.owner.instance}", flush=True)

    wait_until(lambda: pool.match(prompts[peer], lease_s=None).blocks == 10)
    with pool.match(prompts[peer]) as theirs:
        (found,) = theirs.addresses
        said = dram.rows[torch.from_numpy(found.blocks).long()].unique().tolist()
        print(f"{name} matched {theirs.tokens} tokens in {found.medium}, bytes {said}", flush=True)
    # The other one may not be through yet.
    sys.stdin.readline()
