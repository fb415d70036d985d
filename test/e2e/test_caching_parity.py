"""Chats whose answers feed back go as with one stock server, whatever is kept, moved, evicted or fetched."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from http_json import get

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

TURNS, NEW = 8, 30
# Not through shared memory, where nothing is encrypted.
TCP = ("--memserve-fabrics", "stream")
DEADLINE_MS = 5000
PYTHON_CORE = {"SGLANG_UNIFIED_RADIX_TREE_CORE_BACKEND": "python"}
# Less than five chats have from the first turn on.
SMALL_POOL = ("--max-total-tokens", "2048", "--memserve-dram", "384MiB")


def caching(mode, *flags):
    return ("--memserve-caching", mode, *flags)


def counters(url, role):
    worker = next(worker for worker in get(f"{url}/workers")["workers"] if worker["role"] == role)
    return get(f"{worker['url']}/server_info")["internal_states"][0]["memserve"]


def check(from_stock, greedy, url, chats=2, opening=100, **fields):
    """Two chats at a time, each turn asked at once: what was before may be there, on its way, or gone."""
    talks = [list(range(3000 + 900 * chat, 3000 + 900 * chat + opening)) for chat in range(chats)]
    found = []

    def differences(turn):
        with ThreadPoolExecutor(2) as pool:
            for talk in talks:
                talk.extend(range(12_000 + 50 * turn, 12_000 + 50 * turn + NEW))
            prompts = [list(talk) for talk in talks]
            answers = list(pool.map(lambda ids: greedy.answer(url, {"input_ids": ids, **fields}), prompts))
        for talk, prompt, answer in zip(talks, prompts, answers, strict=True):
            talk.extend(answer["output_ids"])
            yield greedy.difference(by_stock(prompt), answer)

    def by_stock(ids):
        return from_stock(f"chat: {ids}", lambda stock: greedy.answer(stock, {"input_ids": ids}))

    for turn in range(TURNS):
        found += differences(turn)
    assert not [what for what in found if what not in (None, "tie")]
    assert found.count(None) >= len(found) / 2
    print(f"{found.count(None)} of {len(found)} exact")


def test_chats_that_ask_for_what_is_on_its_way(from_stock, one_p_one_d, greedy, fetch_from):
    """Each turn names the decode instance to fetch from, which is about to send the same by itself."""
    url = one_p_one_d.url
    decode = counters(url, "decode")["instance"]
    check(from_stock, greedy, url, **fetch_from(decode, DEADLINE_MS, role="prefill"))


@pytest.mark.full
@pytest.mark.parametrize(
    ("flags", "env"),
    [
        (caching("basic"), {}),
        (caching("1"), {}),
        (caching("2"), {}),
        (caching("3"), {}),
        (caching("3", "--memserve-transfer", "by-layer"), {}),
        (caching("3", "--memserve-transfer", "by-request"), {}),
        (caching("3", *TCP), {}),
        (caching("3", *TCP, "--memserve-encrypt", "on"), {}),
        (caching("3", *TCP, "--memserve-encrypt", "on", "--memserve-transfer", "by-layer"), {}),
        (caching("2"), PYTHON_CORE),
        (caching("3"), PYTHON_CORE),
    ],
    ids=[
        "basic",
        "1",
        "2",
        "3",
        "3 by-layer",
        "3 by-request",
        "3 over TCP",
        "3 encrypted",
        "3 by-layer encrypted",
        "2 Python core",
        "3 Python core",
    ],
)
def test_chats(from_stock, cluster_of, greedy, flags, env):
    with cluster_of.used("--prefill", "1", "--decode", "1", flags=flags, env=env) as cluster:
        check(from_stock, greedy, cluster.url)


@pytest.mark.full
@pytest.mark.parametrize("env", [{}, PYTHON_CORE], ids=["Rust core", "Python core"])
def test_chats_that_are_evicted_all_the_time(from_stock, cluster_of, greedy, env):
    with cluster_of.used("--prefill", "1", "--decode", "1", flags=SMALL_POOL, env=env) as cluster:
        check(from_stock, greedy, cluster.url, chats=5, opening=300)
        for role in ("prefill", "decode"):
            assert counters(cluster.url, role)["dram_hits_inserted"] > 0


@pytest.mark.full
@pytest.mark.parametrize("env", [{}, PYTHON_CORE], ids=["Rust core", "Python core"])
def test_chats_whose_answers_are_fetched(from_stock, cluster_of, greedy, fetch_from, env):
    flags = caching("2")
    with cluster_of.used("--prefill", "1", "--decode", "1", flags=flags, env=env) as cluster:
        decode = counters(cluster.url, "decode")["instance"]
        check(from_stock, greedy, cluster.url, **fetch_from(decode, DEADLINE_MS, role="prefill"))
        assert counters(cluster.url, "prefill")["fetches_completed"] > 0
