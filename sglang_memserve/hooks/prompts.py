"""Prompts without tokens, refused before anything of their request is dispatched.

SGLang 0.5.23 serves such a prompt inside a batch and ends its scheduler with a lone one; a split ends both
schedulers with either.
"""

from typing import Any

NO_TOKENS = "The prompt has no tokens: a prompt needs at least one."


def refuse_without_tokens(manager: Any, request: Any, input_ids: list[int] | None) -> None:
    """Before `TokenizerManager._validate_one_request`. Raises ValueError, which SGLang answers with 400."""
    if input_ids is not None and not len(input_ids) and getattr(request, "input_embeds", None) is None:
        raise ValueError(NO_TOKENS)


def refuse_batch(manager: Any, batch: Any) -> None:
    """The same for all prompts of a batch, of which SGLang dispatches the first before it reads the last."""
    texts, ids, embeds = (getattr(batch, name, None) for name in ("text", "input_ids", "input_embeds"))
    if texts is not None:
        without = any(text == "" for text in texts) and not manager.tokenizer.encode("")
    else:
        without = any(not len(prompt) for prompt in (embeds if embeds is not None else ids) or ())
    if without:
        raise ValueError(NO_TOKENS)
