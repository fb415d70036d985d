"""What each value of `--memserve-caching` means for an instance."""

import subprocess
import sys

import pytest

from mempool.caching_mode import CachingMode


@pytest.mark.parametrize(
    ("value", "prefill", "decode", "colocated", "writes_back"),
    [
        ("basic", False, False, False, False),
        ("1", True, False, True, False),
        ("2", True, True, True, False),
        ("3", True, True, True, True),
    ],
)
def test_each_mode_keeps_and_sends_back_what_it_says(value, prefill, decode, colocated, writes_back):
    mode = CachingMode(value)
    assert [mode.keeps_kv(role) for role in ("prefill", "decode", "colocated")] == [
        prefill,
        decode,
        colocated,
    ]
    assert mode.writes_back is writes_back


def test_the_mode_is_read_without_loading_torch():
    source = "import sys, mempool.caching_mode; assert not {'torch', 'sglang'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", source], check=True)
