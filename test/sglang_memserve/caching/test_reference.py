"""The page about caching lists every counter of an instance."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COUNTED = re.compile(r'\.add\(\s*"([a-z_]+)"')
MOVED = re.compile(r'\.(?:moving|moved)\(\s*"([a-z_]+)"')


def counters():
    for file in sorted((ROOT / "sglang_memserve").rglob("*.py")):
        text = file.read_text()
        yield from COUNTED.findall(text)
        yield from (f"{kind}_{what}" for kind in MOVED.findall(text) for what in ("bytes", "seconds"))


@pytest.mark.parametrize("name", sorted(set(counters())))
def test_the_manual_lists_every_counter(name):
    assert f"`{name}`" in (ROOT / "docs" / "caching.md").read_text()


def test_there_are_counters_to_look_for():
    assert {"fetches_started", "swap_in_bytes", "write_backs_sent"} <= set(counters())
