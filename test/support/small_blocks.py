"""Small blocks of 4 tokens, which the tests of pools publish and send."""

import numpy as np

from mempool.address import Medium
from mempool.layout import BlockLayout

PAGE = 4
LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=PAGE, layers=3, heads=1, k_plane_bytes=256, v_plane_bytes=128
)
HBM, DRAM = Medium.HBM, Medium.DRAM


def tokens(blocks, first=0):
    return np.arange(first, first + blocks * PAGE)
