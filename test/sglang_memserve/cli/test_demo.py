import pytest

from sglang_memserve.cli.chat_turn import chat_turn
from sglang_memserve.cli.demo import examples, run_chat
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.errors import ClusterError

HI = [{"role": "user", "content": "Hi"}]


async def test_three_turns_each_with_what_was_said_before(router, capsys):
    await run_chat(router.url)
    roles = [[message["role"] for message in body["messages"]] for body in router.asked]
    assert roles == [
        ["user"],
        ["user", "assistant", "user"],
        ["user", "assistant", "user", "assistant", "user"],
    ]
    assert router.asked[-1]["messages"][1]["content"] == "The answer."
    out = capsys.readouterr().out
    assert out.count("The answer.") == 3
    assert out.count("prompt 44 tokens, 32 cached") == 3
    assert out.count("prefill to decode: 1.50 MB") == 3


async def test_uncounted_bytes_are_not_made_up(router, capsys):
    router.kv_bytes = None
    await run_chat(router.url)
    assert capsys.readouterr().out.count("prefill to decode: n/a") == 3


@pytest.mark.parametrize(
    ("events", "words"),
    [([{"error": {"message": "decode died"}}], "decode died"), ([{"choices": [{"delta": {}}]}], "no text")],
)
async def test_a_stream_without_an_answer_is_an_error(router, events, words):
    router.events = events
    async with probe.client() as session:
        with pytest.raises(ClusterError, match=words):
            await chat_turn(session, router.url, HI, max_tokens=8)


async def test_a_refusal_is_shown(router):
    router.status = 400
    async with probe.client() as session:
        with pytest.raises(ClusterError, match="400: no such thing"):
            await chat_turn(session, router.url, HI, max_tokens=8)


async def test_the_chat_presents_the_key(router):
    router.api_key = "K"
    await run_chat(router.url, "K")
    with pytest.raises(ClusterError, match="401"):
        await run_chat(router.url)


def test_the_examples_name_the_key_only_where_there_is_one():
    assert examples("http://x").count("MEMSERVE_API_KEY") == 0
    assert examples("http://x", keyed=True).count("MEMSERVE_API_KEY") == 3


def test_the_examples_name_the_cluster():
    assert examples("http://127.0.0.1:31000").count("http://127.0.0.1:31000") == 3
