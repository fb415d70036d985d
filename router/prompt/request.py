"""What a policy sees of a request: its tokens, where the policy needs them, and what is cheap to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from router.errors import BadRequest, shown

TokenArray = npt.NDArray[np.int32]

_SESSIONS = ("session_id", "routing_key", "conversation_id", "user")
# Where the client names no session, so much of the prompt's beginning stands for it.
_OPENING_CHARS = 1024
_OPENING_TOKENS = 256
_BYTES_PER_TOKEN = 4
# A length guessed from bytes may be that of a picture.
MAX_GUESSED_TOKENS = 32_768
# The tree keeps a namespace as long as it keeps its prompts.
_MAX_NAME_CHARS = 1024
_BETWEEN_NAMES = "\0"
# No namespace of tokens begins so: names have no NUL, and there are two between three names.
_OF_TEXT = "\0\0\0"
_SGLANG_NEW_TOKENS = 128
# Clients' limits are generous as a rule: answers rarely use them up.
_MAX_NEW_TOKENS = 512


class Prefix(NamedTuple):
    """What the tree knows a prompt by: its tokens, else its text, in a namespace that no tokens have."""

    tokens: TokenArray
    namespace: str


@dataclass(frozen=True, slots=True, eq=False)
class RoutingRequest:
    """`tokens`: the prompt's ids, int32 `[n]`; None where they are not needed or not known.

    `text`: its text in their place, in chunks of about a token, where there is no tokenizer. `namespace`:
    what must be equal for KV to be shared, beside the tokens. `session`: the client's name for it, else how
    the prompt begins. `prompt_tokens` and `new_tokens` (of the answer) are guesses; with
    `tokens`, the first is exact. `colocated_only`: no pair can serve it. `several_samples`: only instances
    with `takes_samples` can. `first_token_visible`: whether the router sees when a colocated instance has the
    first token, as it does where the answer is streamed.
    """

    tokens: TokenArray | None = None
    namespace: str = ""
    session: str | None = None
    prompt_tokens: int = 1
    new_tokens: int = 0
    colocated_only: bool = False
    several_samples: bool = False
    first_token_visible: bool = True
    text: TokenArray | None = None

    @property
    def prefix(self) -> Prefix | None:
        if self.tokens is not None:
            return Prefix(self.tokens, self.namespace)
        return None if self.text is None else Prefix(self.text, _OF_TEXT + self.namespace)


def routing_request(
    fields: Mapping[str, Any],
    size: int,
    *,
    tokens: TokenArray | None = None,
    text: TokenArray | None = None,
    colocated_only: bool = False,
    several_samples: bool = False,
) -> RoutingRequest:
    """From the `fields` of a body of `size` bytes."""
    prompt_tokens = guessed_tokens(size) if tokens is None else len(tokens)
    return RoutingRequest(
        tokens,
        namespace_of(fields),
        session_of(fields) or opening_of(fields),
        prompt_tokens,
        new_tokens_of(fields),
        colocated_only,
        several_samples,
        bool(fields.get("stream")),
        # In UTF-16 a body may be shorter than its text is here.
        None if text is None else text[:prompt_tokens],
    )


def guessed_tokens(size: int) -> int:
    """How many tokens a body of `size` bytes may have."""
    return size // _BYTES_PER_TOKEN + 1


def namespace_of(fields: Mapping[str, Any]) -> str:
    """Extra key, cache salt and LoRA adapter (which may follow a colon in `model`); "" without any.

    Raises BadRequest for names that the prompt tree cannot keep.
    """
    model = fields.get("model")
    adapter = model.partition(":")[2] if isinstance(model, str) else ""
    named = {
        "extra_key": fields.get("extra_key"),
        "cache_salt": fields.get("cache_salt"),
        "lora_path": adapter or fields.get("lora_path"),
    }
    if not any(named.values()):
        return ""
    parts = [_name(field, value) for field, value in named.items()]
    return _BETWEEN_NAMES.join(parts) if any(parts) else ""


def _name(field: str, value: Any) -> str:
    """Of a single prompt. A batch has a list of names; it has no tokens, so its names do not matter."""
    names = value if isinstance(value, list) else [value]
    for name in names:
        if not isinstance(name, str | None):
            raise BadRequest(f"{field} {shown(name)}: text is wanted, or a list of texts for a batch")
        if name and (len(name) > _MAX_NAME_CHARS or _BETWEEN_NAMES in name):
            raise BadRequest(f"{field}: a name of at most {_MAX_NAME_CHARS} characters, none NUL, is wanted")
    return (names[0] or "") if len(names) == 1 else ""


def is_of_text(namespace: str) -> bool:
    """Whether prompts are known there by their text."""
    return namespace.startswith(_OF_TEXT)


def reported_namespace(namespace: str) -> str | None:
    """The same as instances report it: SGLang's extra key and cache salt as JSON, null where empty.

    None with a LoRA adapter: SGLang appends an id of its own for it to the extra key. None also for text that
    JSON cannot hold.
    """
    if not namespace:
        return "[null,null]"
    extra_key, salt, *rest = namespace.split(_BETWEEN_NAMES)
    if rest != [""]:
        return None
    try:
        return msgspec.json.encode((extra_key or None, salt or None)).decode()
    except UnicodeEncodeError:
        return None


def session_of(fields: Mapping[str, Any]) -> str | None:
    """The first of `session_id`, `routing_key`, `conversation_id`, `user` that is text or a number."""
    for name in _SESSIONS:
        value = fields.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value != "":
            return f"{name}={value}"
    return None


def opening_of(fields: Mapping[str, Any]) -> str | None:
    """How the prompt begins: a chat up to its first user message, any other prompt by its first words."""
    for name in ("messages", "input"):
        messages = fields.get(name)
        if isinstance(messages, list) and messages and isinstance(messages[0], dict):
            return _opening_of_chat(messages)
    named = (fields.get(name) for name in ("text", "input_ids", "prompt", "input"))
    prompt = next((value for value in named if value), None)
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, list):
        return _opening_of_tokens(prompt)
    return prompt[:_OPENING_CHARS] if isinstance(prompt, str) else None


def new_tokens_of(fields: Mapping[str, Any]) -> int:
    """A guess at the answer's length: the client's limit, within reason."""
    params = fields.get("sampling_params")
    given = (fields.get("max_completion_tokens"), fields.get("max_tokens"), fields.get("max_output_tokens"))
    limit = params.get("max_new_tokens") if isinstance(params, dict) else next(filter(None, given), None)
    if not isinstance(limit, int):
        return _SGLANG_NEW_TOKENS
    return min(max(limit, 0), _MAX_NEW_TOKENS)


def _opening_of_tokens(tokens: list[Any]) -> str | None:
    try:
        return orjson.dumps(tokens[:_OPENING_TOKENS]).decode()
    except TypeError:
        # No tokens: integers beyond 64 bits, or anything nested.
        return None


def _opening_of_chat(messages: list[Any]) -> str | None:
    """None if the messages are no chat."""
    parts = []
    for message in messages:
        if not isinstance(message, dict):
            return None
        role = message.get("role")
        parts.append(f"{role if isinstance(role, str) else ''}: {_text_of(message.get('content'))}")
        if role == "user":
            break
    return "\n".join(parts) or None


def _text_of(content: Any) -> str:
    """How the text of a message begins; images and the like have none."""
    if isinstance(content, str):
        return content[:_OPENING_CHARS]
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))[:_OPENING_CHARS]
