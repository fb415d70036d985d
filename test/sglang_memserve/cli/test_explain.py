import asyncio
import json

import pytest

from sglang_memserve.cli.explain import body_of, explain, summary, table
from sglang_memserve.cli.main import main
from sglang_memserve.cluster.errors import ClusterError


def price(how, total, **more):
    parts = dict.fromkeys(("queue_ms", "fetch_ms", "exec_ms", "sending_ms", "decoding_ms"), 1.5)
    return {"plan": how, "source": None, **parts, "total_ms": total, **more}


def candidate(url, role, priced=None, cached=0):
    counts = {"cached_tokens": cached, "cached_tokens_in_hbm": cached, "charged_tokens": 1234}
    return {"url": url, "role": role, **counts, "cost": priced}


P, D, C = "http://p:1", "http://d:1", "http://c:1"
RECORD = {
    "policy": "cost_model",
    "decision_us": 85.5,
    "prompt_tokens": 4096,
    "tokenised": True,
    "candidates": [
        candidate(P, "prefill", price("fetch", 12_345.67, source=D)),
        candidate(D, "decode", price(None, 1.0, queue_ms=None, exec_ms=None, fetch_ms=None), 4080),
        candidate(C, "colocated", price("recompute", 99.0)),
    ],
    "prefill": P,
    "decode": D,
    "fetch": {"source": D, "tokens": 4080, "deadline_ms": 250.4},
}


def test_the_table_has_a_line_for_each_candidate_and_marks_who_is_chosen():
    heading, *lines = table(RECORD).splitlines()
    assert [line.startswith("*") for line in lines] == [True, True, False]
    assert lines[0].split() == ["*", "prefill", P, "0", "0", "1,234", *["1.5"] * 5, "12,345.7"]
    assert lines[1].split()[-6:] == ["-", "-", "-", "1.5", "1.5", "1.0"]
    assert heading.index("url") == lines[2].index(C)
    assert heading.split()[-1] == "total"


def test_the_summary_says_what_is_fetched_from_whom():
    text = summary(RECORD)
    assert "4096 tokens" in text
    assert "about" not in text
    assert f"{P} prefills and {D} decodes, decided in 85.5 us" in text
    assert f"fetch KV from another instance: 4080 tokens from {D}, within 250.4 ms" in text


def test_a_guess_is_called_one_and_a_policy_without_prices_says_no_way():
    record = {**RECORD, "tokenised": False, "prefill": None, "decode": C, "fetch": None, "policy": "random"}
    record["candidates"] = [candidate(C, "colocated")]
    assert table(record).splitlines()[1].split() == ["*", "colocated", C, "0", "0", "1,234", *["-"] * 6]
    assert "about 4096 tokens" in summary(record)
    assert summary(record).endswith(f"random: {C} does both, decided in 85.5 us")


async def test_the_router_is_asked_with_the_body_of_a_request(router):
    router.decision = RECORD
    assert await explain(router.url, body_of("Hi", True, 7)) == RECORD
    await explain(router.url, body_of("Hi", False, 7))
    assert router.asked == [
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 7},
        {"text": "Hi", "sampling_params": {"max_new_tokens": 7}},
    ]


@pytest.mark.parametrize("answer", [[1], {}, {"candidates": [1]}])
async def test_what_is_no_decision_is_named(router, answer):
    router.decision = answer
    with pytest.raises(ClusterError, match="gave no decision"):
        await explain(router.url, {})


async def test_the_command_prints_json_or_a_table(router, capsys):
    router.decision = RECORD
    command = ["explain", "Hi", "--url", router.url]
    assert await asyncio.to_thread(main, [*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RECORD
    assert await asyncio.to_thread(main, command) == 0
    assert table(RECORD) in capsys.readouterr().out
