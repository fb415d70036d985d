"""The router's own tokenising: as the engine's, off the event loop, and never at a request's cost."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo
from router.prompt.template import ChatTemplate, Unrenderable
from router.prompt.tokenizer import ModelTokenizer as Ours
from router.prompt.tokens import Tokens

TEMPLATE = (
    "{% for m in messages %}"
    "{{ '<|start|>' + m['role'] + '\n' + m['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder with a byte-level tokenizer of one token a byte, and a chat template."""
    folder = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    encoder = Tokenizer(models.BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    encoder.add_special_tokens([AddedToken(name, normalized=False) for name in ("<|start|>", "<|end|>")])
    encoder.save(str(folder / "tokenizer.json"))
    config = {"chat_template": TEMPLATE, "bos_token": "<|start|>", "eos_token": {"content": "<|end|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
async def tokens():
    """`tokens(load)`: with one instance that tells of a tokenizer, ready."""
    made = []

    async def make(load, timeout_s=5.0):
        instance = Instance("http://a:1", Role.COLOCATED)
        instance.learn(ServerInfo(tokenizer="told"))
        made.append(Tokens([instance], "", timeout_s, load))
        made[-1].prepare()
        await asyncio.wait([made[-1]._loading])
        return made[-1]

    yield make
    for tokens in made:
        await tokens.close()


class Held:
    """A tokenizer that takes until it is let go."""

    def __init__(self):
        self.begun, self.release = [], threading.Event()

    def text(self, text):
        self.begun.append(len(text))
        self.release.wait(10)
        return np.zeros(1, dtype=np.int32)


async def test_what_fits_in_no_context_is_not_tokenised(tokens):
    slow = Held()
    slow.release.set()
    made = await tokens(lambda _: slow)
    made._instances[0].learn(ServerInfo(max_prompt_tokens=1000))
    assert await made.of({"text": "a" * 20_000}, "/generate", 20_000) is None
    assert await made.of({"input_ids": [1] * 20_000}, "/generate", 60_000) is None
    assert (made.counts, slow.begun) == ({"too long": 2}, [])
    assert await made.of({"text": "a" * 15_000}, "/generate", 15_000) is not None


async def test_what_runs_on_after_its_time_is_bounded(tokens):
    slow = Held()
    made = await tokens(lambda _: slow, timeout_s=0.01)
    made._instances[0].learn(ServerInfo(max_prompt_tokens=1 << 20))
    text = "a" * (3 << 20)
    for _ in range(20):
        assert await made.of({"text": text}, "/generate", len(text)) is None
    assert sum(slow.begun) <= 8 << 20
    assert made.counts["busy"] > 0
    slow.release.set()
    while await made.of({"text": "a" * 4000}, "/generate", 4000) is None:
        await asyncio.sleep(0.01)


def chat(*contents):
    roles = ("system", "user", "assistant", "user")
    return {"messages": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


def test_a_chat_is_tokenised_as_its_template_says(folder):
    ours, encoder = Ours.load(str(folder)), Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "<|start|>system\nbe kind<|end|>\n<|start|>user\nhé <|end|> x<|end|>\n<|start|>assistant\n"
    got = ours.chat(chat("be kind", "hé <|end|> x"))
    assert got.dtype == np.int32
    assert got.tolist() == encoder.encode(text).ids


def test_later_turns_begin_with_the_tokens_of_earlier_ones(folder):
    ours, fresh = Ours.load(str(folder)), Ours.load(str(folder))
    first = ours.chat(chat("s" * 1000, "one"))
    later = ours.chat(chat("s" * 1000, "one", "two", "three"))
    assert later[: len(first)].tolist() == first.tolist()
    assert later.tolist() == fresh.chat(chat("s" * 1000, "one", "two", "three")).tolist()


def test_a_template_in_a_file_of_its_own_comes_first(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    with pytest.raises(Unrenderable):
        Ours.load(str(tmp_path)).chat(chat("a"))
    (tmp_path / "chat_template.jinja").write_text("<|start|>")
    assert len(Ours.load(str(tmp_path / "tokenizer.json")).chat(chat("a"))) == 1


@pytest.mark.parametrize("where", ["/no/such/folder", "./nowhere"])
def test_a_missing_tokenizer_is_named(where):
    with pytest.raises((OSError, ValueError), match=where):
        Ours.load(where)


@pytest.mark.parametrize(
    ("template", "fields", "text"),
    [
        (
            "{{ messages[0].content }}",
            {"messages": [{"content": [{"type": "text", "text": "a"}] * 2}]},
            "a a",
        ),
        (
            "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}",
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 2}]},
            "aa",
        ),
        ("{{ tools | tojson }}", {"messages": [], "tools": [{"function": {"name": "<f>"}}]}, None),
        (
            "{{ tools }}",
            {"messages": [], "tools": [{"function": {"name": "f"}}], "tool_choice": "none"},
            "None",
        ),
        ("{{ think }}", {"messages": [], "chat_template_kwargs": {"think": 1}}, "1"),
        (
            "{{ messages[0].tool_calls[0].function.arguments.x }}{{ messages[0].content }}",
            {"messages": [{"tool_calls": [{"function": {"arguments": '{"x": 5}'}}], "content": None}]},
            "5",
        ),
    ],
)
def test_chats_are_put_to_the_template_as_sglang_puts_them(template, fields, text):
    rendered = ChatTemplate(template, {}).render(fields)
    if text is not None:
        assert rendered == text
        return
    assert json.loads(rendered)[0] == {
        "type": "function",
        "function": {"name": "<f>", "description": None, "parameters": None},
        "defer_loading": None,
    }


@pytest.mark.parametrize(
    ("template", "messages"),
    [
        ("{{ raise_exception('no') }}", []),
        ("{{ messages[0].content }}", [{"content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
        ("{{ ''.__class__.__mro__ }}", []),
        ("{{ 1 + messages[0].content }}", [{"content": "a"}]),
        ("x", ["text"]),
    ],
)
def test_what_cannot_be_rendered_has_a_reason(template, messages):
    with pytest.raises(Unrenderable):
        ChatTemplate(template, {}).render({"messages": messages})


@pytest.mark.parametrize(
    ("fields", "path", "reason"),
    [
        ({"input_ids": [[1], [2]]}, "/generate", "batch"),
        ({"prompt": ["a", "b"]}, "/v1/completions", "batch"),
        ({"input_ids": [-1]}, "/generate", "no ids"),
        ({"input_ids": [1, None]}, "/generate", "no ids"),
        ({"input_ids": [1 << 40]}, "/generate", "no ids"),
        ({"input_ids": "abc"}, "/generate", "no prompt"),
        ({}, "/generate", "no prompt"),
        ({"input": "x"}, "/v1/responses", "endpoint"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, CHAT, "media"),
    ],
)
async def test_what_has_no_tokens_is_counted_by_its_reason(tokens, folder, fields, path, reason):
    prompts = await tokens(lambda _: Ours.load(str(folder)))
    assert await prompts.of(fields, path, size=99) is None
    assert dict(prompts.counts) == {reason: 1}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"input_ids": [104, 105]}, "/generate"),
        ({"input_ids": [[104, 105]]}, "/generate"),
        ({"prompt": [104, 105]}, "/v1/completions"),
        ({"input_ids": [104, 105], "messages": []}, CHAT),
    ],
)
async def test_ids_are_taken_as_they_are(tokens, fields, path):
    prompts = await tokens(lambda _: None)
    assert (await prompts.of(fields, path, size=99)).tolist() == [104, 105]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"text": "hi"}, "/generate"),
        ({"text": ["hi"]}, "/generate"),
        ({"prompt": "hi"}, "/v1/completions"),
        ({"prompt": ["hi"]}, "/v1/completions"),
    ],
)
@pytest.mark.parametrize("size", [99, 99_000])
async def test_a_long_text_is_tokenised_off_the_event_loop(tokens, fields, path, size):
    class Spy:
        def text(self, text):
            assert (threading.current_thread() is threading.main_thread()) == (size == 99)
            return np.array([len(text)], dtype=np.int32)

    prompts = await tokens(lambda _: Spy())
    assert (await prompts.of(fields, path, size)).tolist() == [2]


def test_tokenising_a_long_text_lets_other_threads_run(folder):
    ours, ticks = Ours.load(str(folder)), 0
    thread = threading.Thread(target=ours.text, args=("hello " * 200_000,))
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        ticks += 1
    assert ticks > 10


class Slow:
    def text(self, _):
        time.sleep(0.4)
        raise AssertionError("nobody waits for this")


class Broken:
    def text(self, _):
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("tokenizer", "reason"), [(Slow, "too slow"), (Broken, "failed"), (None, "no tokenizer")]
)
async def test_a_slow_or_broken_tokenizer_costs_no_request(start, monkeypatch, tokenizer, reason):
    def load(_):
        if tokenizer is None:
            raise OSError("nothing there")
        return tokenizer()

    monkeypatch.setattr("router.prompt.tokens.ModelTokenizer.load", load)
    settings = {"policy": "prompt_tree", "tokenize_timeout_secs": 0.05}
    cluster = await start(colocated=2, info={"model_path": "m"}, **settings)
    for number in range(3):
        body = {"text": f"hi {number}" * 1000}
        async with cluster.session.post(cluster.url + "/generate", json=body) as response:
            assert response.status == 200
        assert body in [seen for mock in cluster.colocated for seen in mock.bodies]
    async with cluster.session.get(cluster.url + "/workers") as response:
        assert (await response.json())["routing"]["tokenising"][reason] >= 2


async def test_a_chat_goes_where_its_earlier_turn_went(start, folder):
    info = {"model_path": "elsewhere", "tokenizer_path": str(folder)}
    cluster = await start(colocated=4, info=info, policy="prompt_tree")
    usage = {"prompt_tokens": 64, "prompt_tokens_details": {"cached_tokens": 3}}
    for mock in cluster.colocated:
        mock.answer = json.dumps({"choices": [], "usage": usage}).encode()
    decisions = []
    while not decisions or not decisions[0]["tokenised"]:
        async with cluster.session.post(cluster.url + CHAT, json=chat("be kind", "one")) as response:
            assert response.status == 200
        async with cluster.session.get(cluster.url + "/decisions?last=1") as response:
            decisions = (await response.json())["decisions"]
    home = decisions[0]["decode"]
    async with cluster.session.post(cluster.url + CHAT, json=chat("be kind", "one", "two", "x")) as response:
        assert response.status == 200
    async with cluster.session.get(cluster.url + "/decisions?last=1") as response:
        (newest,) = (await response.json())["decisions"]
    assert newest["decode"] == home
    assert newest["predicted_cached_tokens"] > 30
    assert newest["actual_cached_tokens"] == 3


class Encoder:
    """One token a character, after `begins_with`."""

    def __init__(self, *begins_with):
        self.begins_with = begins_with

    def text(self, text):
        return np.array([*self.begins_with, *map(ord, text)], dtype=np.int32)


@pytest.mark.parametrize(
    ("fields", "path", "plain", "with_bos"),
    [
        ({"text": ""}, "/generate", True, False),
        ({"text": ["a", ""]}, "/generate", True, False),
        ({"text": [""]}, "/generate", True, False),
        ({"prompt": ""}, "/v1/completions", True, False),
        ({"prompt": ["", "a"]}, "/v1/completions", True, False),
        ({"input_ids": []}, "/generate", True, True),
        ({"input_ids": [[]]}, "/generate", True, True),
        ({"input_ids": [[1], []]}, "/generate", True, True),
        ({"prompt": [[1], []]}, "/v1/completions", True, True),
        ({"prompt": []}, "/v1/completions", True, True),
        ({"text": "a"}, "/generate", False, False),
        ({"text": ["a", "b"]}, "/generate", False, False),
        ({"input_ids": [1]}, "/generate", False, False),
        ({"input_ids": [[1], [2]]}, "/generate", False, False),
        ({"messages": []}, CHAT, False, False),
        ({}, "/generate", False, False),
    ],
)
async def test_a_prompt_without_tokens_is_found_in_any_place(tokens, fields, path, plain, with_bos):
    assert (await tokens(lambda where: Encoder())).are_missing(fields, path) is plain
    assert (await tokens(lambda where: Encoder(1))).are_missing(fields, path) is with_bos


def test_without_a_tokenizer_an_empty_text_is_left_to_the_instance():
    assert not Tokens([], "", 1.0).are_missing({"text": ""}, "/generate")
