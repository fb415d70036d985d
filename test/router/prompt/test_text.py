"""A prompt's text in the place of its tokens: bounded, and alike for prompts that begin alike."""

import json

import numpy as np
import pytest

from router.prompt.request import is_of_text, routing_request
from router.prompt.text import text_chunks

CHAT = "/v1/chat/completions"


def chunks(fields, path="/generate", size=1000):
    found = text_chunks(fields, path, size)
    return None if found is None else found.tolist()


def turns(*contents):
    return {"messages": [{"role": "user", "content": content} for content in contents]}


@pytest.mark.parametrize("text", ["one two three", "één twéé drie", "half \ud83d of a character"])
def test_each_chunk_is_four_bytes_of_the_text(text):
    found = text_chunks({"text": text}, "/generate", 100)
    assert found.dtype == np.int32
    whole = text.encode(errors="surrogatepass")
    assert found.tobytes() == whole[: len(whole) // 4 * 4]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"prompt": "The quick brown fox"}, "/v1/completions"),
        ({"prompt": ["The quick brown fox"]}, "/v1/completions"),
        ({"text": ["The quick brown fox"]}, "/generate"),
    ],
)
def test_a_prompt_has_the_same_chunks_wherever_it_stands(fields, path):
    assert chunks(fields, path) == chunks({"text": "The quick brown fox"})


def test_a_later_turn_begins_as_the_one_before():
    first, later = chunks(turns("be kind", "hello"), CHAT), chunks(turns("be kind", "hello", "more"), CHAT)
    assert len(first) < len(later)
    assert later[: len(first)] == first
    assert chunks(turns("be cruel", "hello"), CHAT)[: len(first)] != first


def test_tools_are_part_of_how_a_chat_begins():
    tools = [{"type": "function", "function": {"name": "weather"}}]
    assert chunks(turns("hi") | {"tools": tools}, CHAT)[:4] != chunks(turns("hi"), CHAT)[:4]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"text": ["several", "prompts"]}, "/generate"),
        ({"text": "abc"}, "/generate"),
        ({"text": {"a": 1}}, "/generate"),
        ({"input_ids": [[1, 2], [3]]}, "/generate"),
        ({"input": "text of another endpoint"}, "/v1/responses"),
        ({"messages": "no list"}, CHAT),
        ({"messages": [{"content": 1 << 70}]}, CHAT),
        ({"messages": [{"content": "\ud83d"}]}, CHAT),
        ({"messages": json.loads("[" * 400 + "]" * 400)}, CHAT),
        ({}, CHAT),
    ],
)
def test_what_is_no_single_text_has_no_chunks(fields, path):
    assert chunks(fields, path) is None


def test_what_is_kept_of_a_long_text_is_bounded():
    assert len(chunks({"text": "x" * (1 << 20)}, size=1 << 20)) == 32_768
    assert chunks({"text": "x" * 100}, size=5 << 20) is None
    # A body in UTF-16 may be shorter than its text is in UTF-8.
    text = text_chunks({"text": "好" * 1000}, "/generate", 100)
    assert len(routing_request({}, 100, text=text).text) == 26


def test_no_names_make_a_namespace_of_tokens_one_of_text():
    text = np.arange(4, dtype=np.int32)
    for fields in ({}, {"extra_key": "k"}, {"cache_salt": "s"}, {"lora_path": "l"}):
        by_tokens, by_text = routing_request(fields, 9, tokens=text), routing_request(fields, 9, text=text)
        assert not is_of_text(by_tokens.prefix.namespace)
        assert is_of_text(by_text.prefix.namespace)
    assert routing_request({}, 9, tokens=text, text=text).prefix.namespace == ""
