"""Prompts without tokens are refused, and nothing else is."""

from types import SimpleNamespace

import pytest

from sglang_memserve.hooks.prompts import refuse_batch, refuse_without_tokens


def tokenizer(*, begins_with=()):
    """One token a character, after those that it begins every text with."""
    return SimpleNamespace(encode=lambda text: [*begins_with, *map(ord, text)])


PLAIN = SimpleNamespace(tokenizer=tokenizer())
WITH_BOS = SimpleNamespace(tokenizer=tokenizer(begins_with=[1]))


def batch(**prompts):
    return SimpleNamespace(**{"text": None, "input_ids": None, "input_embeds": None} | prompts)


@pytest.mark.parametrize(
    ("manager", "prompts"),
    [
        (PLAIN, {"text": ["a", ""]}),
        (PLAIN, {"text": ["", "a"]}),
        (PLAIN, {"input_ids": [[1, 2], []]}),
        (PLAIN, {"input_ids": [[]]}),
        (WITH_BOS, {"input_ids": [[1], []]}),
        (PLAIN, {"input_embeds": [[[0.5]], []]}),
    ],
)
def test_a_batch_with_a_prompt_without_tokens_is_refused(manager, prompts):
    with pytest.raises(ValueError, match="has no tokens"):
        refuse_batch(manager, batch(**prompts))


@pytest.mark.parametrize(
    ("manager", "prompts"),
    [
        (PLAIN, {"text": ["a", " "]}),
        (PLAIN, {"input_ids": [[1], [2]]}),
        (WITH_BOS, {"text": ["", "a"]}),
        (PLAIN, {"input_embeds": [[[0.5]]]}),
        # Of another kind of request, which has no such field.
        (PLAIN, {}),
    ],
)
def test_a_batch_whose_prompts_have_tokens_passes(manager, prompts):
    refuse_batch(manager, batch(**prompts))


def test_a_text_that_turns_out_to_have_no_tokens_is_refused():
    with pytest.raises(ValueError, match="has no tokens"):
        refuse_without_tokens(PLAIN, batch(text=" "), [])
    refuse_without_tokens(PLAIN, batch(text="a"), [97])
    refuse_without_tokens(PLAIN, batch(input_embeds=[[0.5]]), None)
