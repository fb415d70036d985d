"""Flags for SGLang are known by name before anything starts."""

import json

import pytest

from sglang_memserve.cluster import sglang_flags
from sglang_memserve.cluster.errors import UsageError
from sglang_memserve.cluster.sglang_flags import check_flags, flag_names


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """How often SGLang itself was asked for its flags; the cache is empty at first."""
    calls = []

    async def names(timeout_s):
        calls.append(timeout_s)
        return ["--page-size", "--tp"]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sglang_flags, "_from_sglang", names)
    return calls


async def test_flags_of_sglang_and_of_instances_pass(asked):
    await check_flags(["--page-size=16", "--tp", "2", "--memserve-caching", "3", "--", "-1"], 5)


@pytest.mark.parametrize(
    ("flag", "hint"),
    [("--page-sise=16", "did you mean --page-size?"), ("--memserve-dran", "--memserve-dram?")],
)
async def test_another_flag_is_refused_with_the_nearest(asked, flag, hint):
    with pytest.raises(UsageError) as error:
        await check_flags(["--tp", "2", flag], 5)
    assert str(error.value).startswith(f"{flag.partition('=')[0]}: SGLang ")
    assert hint in str(error.value)


async def test_sglang_is_asked_once_for_a_version(asked, tmp_path):
    for _ in range(2):
        assert await flag_names(5) == ["--page-size", "--tp"]
    assert asked == [5]
    (cache,) = (tmp_path / "memserve").glob("sglang-flags-*.json")
    assert json.loads(cache.read_text()) == ["--page-size", "--tp"]


async def test_a_damaged_cache_is_made_again(asked, tmp_path):
    await flag_names(5)
    (cache,) = (tmp_path / "memserve").glob("sglang-flags-*.json")
    cache.write_text("{")
    assert await flag_names(5) == ["--page-size", "--tp"]
    assert len(asked) == 2


async def test_without_flags_sglang_is_not_asked(asked):
    await check_flags([], 5)
    assert asked == []
