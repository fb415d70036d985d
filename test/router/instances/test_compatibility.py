"""Instances that do not fit together, as the router finds out when they join."""

import asyncio
import json
import logging

import pytest

from router.config.settings import PrefillUrl, RouterConfig
from router.http.server import serving
from router.instances.compatibility import by_instance
from router.instances.instance import Instance, Role
from router.instances.server_info import CompatibilityFields, parse_server_info

PREFILL = {"disaggregation_mode": "prefill", "page_size": 16, "tp_size": 1, "kv_cache_dtype": "auto"}
FIRST = "colocated instance http://a:1"
RUNS_AS_DECODE = "it runs as decode (--disaggregation-mode), and is given as"
DIGESTS = {"model": "m" * 32, "tokenizer": "t" * 32, "template": "c" * 32, "kv_dtype": "bfloat16"}


def new_instance(name, role="colocated", **info):
    instance = Instance(f"http://{name}:1", Role(role))
    instance.learn(parse_server_info(info))
    return instance


def test_compatibility_fields_are_read():
    assert parse_server_info({**PREFILL, "memserve": DIGESTS}).compatibility == CompatibilityFields(
        "prefill", "m" * 32, "t" * 32, "c" * 32, 16, "bfloat16", None, 1
    )
    assert parse_server_info({**PREFILL, "disaggregation_mode": "null"}).compatibility == CompatibilityFields(
        role="colocated", page_size=16, kv_flag="auto", tp_size=1
    )


@pytest.mark.parametrize("info", [None, [], {"memserve": [], "page_size": True, "tp_size": "1"}])
def test_a_field_of_a_wrong_type_is_ignored(info):
    assert parse_server_info(info).compatibility == CompatibilityFields()


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"page_size": 64}, f"page size 64, where {FIRST} has 16"),
        ({"tp_size": 2}, "tensor parallelism (--tp-size) 2, where"),
        ({"memserve": {**DIGESTS, "model": "x"}}, f"model x, where {FIRST} has {'m' * 32}"),
        ({"memserve": {**DIGESTS, "tokenizer": "x"}}, "tokenizer x, where"),
        ({"memserve": {**DIGESTS, "template": "x"}}, "chat template x, where"),
        ({"memserve": {**DIGESTS, "kv_dtype": "float16"}}, "KV dtype float16, where"),
        ({"disaggregation_mode": "decode"}, f"{RUNS_AS_DECODE} colocated"),
    ],
)
def test_an_incompatibility_names_both_values(info, words):
    same = {**PREFILL, "disaggregation_mode": "null", "memserve": DIGESTS}
    fitting, odd = new_instance("a", **same), new_instance("b", **{**same, **info})
    assert list(by_instance([fitting, odd, new_instance("c", **same)])) == [odd]
    ((word,),) = by_instance([fitting, odd]).values()
    assert word.startswith(words)


def test_the_instance_that_differs_is_named_wherever_it_stands():
    odd, *rest = (new_instance(name, page_size=size) for name, size in (("a", 64), ("b", 16), ("c", 16)))
    assert by_instance([odd, *rest]) == {odd: ["page size 64, where colocated instance http://b:1 has 16"]}


def test_instances_that_are_down_or_do_not_report_are_left_out():
    down = new_instance("c", page_size=64)
    down.down("gone")
    stock = new_instance("b", page_size=16, kv_cache_dtype="fp8_e4m3")
    assert (
        by_instance([new_instance("a", page_size=16, memserve=DIGESTS), stock, down, new_instance("d")]) == {}
    )
    # Among those that tell no more than the flag, it is what can be compared.
    assert list(by_instance([new_instance("e", kv_cache_dtype="auto"), stock])) == [stock]


async def workers(cluster):
    async with cluster.session.get(cluster.url + "/workers") as response:
        return await response.json()


def warnings(caplog):
    return [record.message for record in caplog.records if record.levelno >= logging.WARNING]


async def test_one_warning_at_joining_and_a_word_in_workers(start, caplog):
    cluster = await start(prefill=1, decode=1, info={"page_size": 16}, health_check_interval_secs=0.02)
    assert [worker["incompatibilities"] for worker in (await workers(cluster))["workers"]] == [[], []]
    decode = cluster.decode[0]
    await decode.die()
    decode.info |= {"page_size": 64, "disaggregation_mode": "prefill"}
    while (await workers(cluster))["workers"][1]["healthy"]:
        await asyncio.sleep(0.01)
    caplog.clear()
    await decode.start()
    while not (incompatibilities := (await workers(cluster))["workers"][1]["incompatibilities"]):
        await asyncio.sleep(0.01)
    page = f"page size 64, where prefill instance {cluster.prefill[0].url} has 16"
    role = "it runs as prefill (--disaggregation-mode), and is given as decode"
    assert incompatibilities == [role, page]
    await decode.probed(times=3)
    assert warnings(caplog) == [f"decode instance {decode.url} does not fit: {role}; {page}"]


async def test_the_warning_is_about_the_instance_that_joins(start, caplog):
    """The one that others are compared with may join last: that is told once too."""
    cluster = await start(prefill=1, decode=1, info={"page_size": 16}, health_check_interval_secs=0.02)
    prefill, decode = cluster.prefill[0], cluster.decode[0]
    await prefill.die()
    prefill.info |= {"page_size": 64}
    while (await workers(cluster))["workers"][0]["healthy"]:
        await asyncio.sleep(0.01)
    caplog.clear()
    await prefill.start()
    while not (await workers(cluster))["workers"][1]["incompatibilities"]:
        await asyncio.sleep(0.01)
    (words,) = warnings(caplog)
    assert words.startswith(f"prefill instance {prefill.url} does not fit: page size 64")
    assert words.endswith(f"where decode instance {decode.url} has 16")


def a_tokenizer(folder, text):
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps({"version": text}))
    return str(folder)


async def test_stock_instances_are_compared_by_what_is_at_their_path(start, tmp_path, caplog, free_port):
    first, same, other = (a_tokenizer(tmp_path / name, name[0]) for name in ("a1", "a2", "b1"))
    cluster = await start(colocated=2)
    for mock, where in zip(cluster.colocated, (first, same), strict=True):
        mock.info |= {"tokenizer_path": where}
    urls = tuple(mock.url for mock in cluster.colocated)
    config = RouterConfig(colocated=urls, port=free_port(), policy="round_robin")
    async with serving(config):
        assert warnings(caplog) == []
    cluster.colocated[1].info |= {"tokenizer_path": other}
    async with serving(config.model_copy(update={"port": free_port()})):
        (words,) = warnings(caplog)
    assert "does not fit: tokenizer " in words


async def test_the_routers_own_tokenizer_is_compared_too(start, caplog):
    pytest.importorskip("sglang_memserve.model", reason="the embedded model is not installed")
    from sglang_memserve.model import resolve_model

    info = {"memserve": DIGESTS}
    cluster = await start(colocated=1, info=info, policy="prompt_tree", tokenizer=resolve_model(None))
    while not (tokenizer := (await workers(cluster))["routing"]["tokenizer"])["unlike"]:
        await asyncio.sleep(0.01)
    assert tokenizer["unlike"] == [cluster.colocated[0].url]
    assert tokenizer["loaded"] == resolve_model(None)
    assert any("another tokenizer or chat template" in words for words in warnings(caplog))


async def test_a_pair_given_the_wrong_way_round_is_warned_about(start, caplog, free_port):
    cluster = await start(colocated=2)
    for mock, mode in zip(cluster.colocated, ("decode", "prefill"), strict=True):
        mock.info |= {"disaggregation_mode": mode}
    first, last = (mock.url for mock in cluster.colocated)
    config = RouterConfig(prefill=(PrefillUrl(first),), decode=(last,), port=free_port())
    async with serving(config):
        of_decode, of_prefill = sorted(warnings(caplog))
    assert of_decode.startswith(f"decode instance {last} does not fit: it runs as prefill")
    assert of_prefill == f"prefill instance {first} does not fit: {RUNS_AS_DECODE} prefill"
