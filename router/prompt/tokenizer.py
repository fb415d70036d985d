"""The tokenizer of a model, without its engine. Everything here blocks: call it from a thread."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import orjson
from tokenizers import Tokenizer as Encoder

from router.prompt.request import TokenArray
from router.prompt.template import ChatTemplate, Unrenderable

_TOKENIZER, _CONFIG, _TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
# Texts of so many characters together keep their tokens in memory.
_MAX_CACHED_CHARS = 16 << 20
# The bookkeeping of a text takes the memory of so many characters.
_ENTRY_CHARS = 256


class Fingerprint(NamedTuple):
    """SHA-256 of tokenizer.json and of the chat template, 32 hex characters each; None if unreadable."""

    tokenizer: str | None = None
    template: str | None = None


class ModelTokenizer:
    """`encoder`: for texts. `template`: for chats; without one, chats have no tokens."""

    def __init__(self, encoder: Encoder, template: ChatTemplate | None) -> None:
        self._encoder = encoder
        self._template = template
        self._pieces = _PieceCache(encoder)

    @classmethod
    def load(cls, where: str) -> ModelTokenizer:
        """From a model's folder, a tokenizer.json, or a name in this machine's Hugging Face cache.

        Raises OSError if it is not there, and ValueError if it is no tokenizer.
        """
        try:
            encoder = Encoder.from_file(str(model_file(where, _TOKENIZER)))
        except Exception as error:
            # The library raises plain Exceptions.
            raise ValueError(f"{where}: {error}") from error
        config = _read_config(where)
        template = _template(where, config)
        return cls(encoder, ChatTemplate(template, _specials(config)) if template else None)

    def text(self, text: str) -> TokenArray:
        """The tokens of a prompt, with those that the tokenizer puts around it."""
        return _encoded(self._encoder, text, specials=True)

    def chat(self, fields: Mapping[str, Any]) -> TokenArray:
        """The tokens of a /v1/chat/completions body. Raises Unrenderable."""
        if self._template is None:
            raise Unrenderable("no template")
        return self._pieces.tokens(self._template.render(fields))


def fingerprint(where: str) -> Fingerprint:
    """Of the tokenizer at a place that `ModelTokenizer.load` takes. Never raises."""
    try:
        tokenizer = _digest(model_file(where, _TOKENIZER).read_bytes())
        template = _template(where, _read_config(where))
    except (OSError, ValueError):
        return Fingerprint()
    return Fingerprint(tokenizer, None if template is None else _digest(template.encode()))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


class _PieceCache:
    """Encodes a text in pieces, cut at special tokens, and keeps the tokens of the pieces.

    So the earlier turns of a chat are not encoded again. A tokenizer whose pieces give other tokens than the
    whole text is used on whole texts.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._lock = Lock()
        self._known: OrderedDict[str, TokenArray] = OrderedDict()
        self._chars = 0
        tokens = encoder.get_added_tokens_decoder().values()
        plain = [added.content for added in tokens if not (added.normalized or added.lstrip or added.rstrip)]
        split = "|".join(re.escape(text) for text in sorted(plain, key=len, reverse=True))
        self._split = re.compile(f"({split})") if split else None
        probe = "".join(f"{text} Hi  there\n{text}\nit's" for text in plain[:4])
        if self._split and self.tokens(probe).tolist() != self._whole(probe).tolist():
            self._split = None

    def tokens(self, text: str) -> TokenArray:
        if self._split is None:
            return self._whole(text)
        pieces = [self._piece(piece) for piece in self._split.split(text) if piece]
        return np.concatenate(pieces) if pieces else np.empty(0, dtype=np.int32)

    def _piece(self, piece: str) -> TokenArray:
        with self._lock:
            if (known := self._known.get(piece)) is not None:
                self._known.move_to_end(piece)
                return known
        tokens = self._whole(piece)
        with self._lock:
            if piece not in self._known:
                self._known[piece] = tokens
                self._chars += len(piece) + _ENTRY_CHARS
            while self._chars > _MAX_CACHED_CHARS:
                oldest, _ = self._known.popitem(last=False)
                self._chars -= len(oldest) + _ENTRY_CHARS
        return tokens

    def _whole(self, text: str) -> TokenArray:
        return _encoded(self._encoder, text, specials=False)


def _encoded(encoder: Encoder, text: str, specials: bool) -> TokenArray:
    # Only the library's methods for batches let other threads run meanwhile.
    (encoding,) = encoder.encode_batch_fast([text], add_special_tokens=specials)
    return np.array(encoding.ids, dtype=np.int32)


def model_file(where: str, name: str) -> Path:
    """Where the file of a model is. Raises OSError if it is not on this machine."""
    path = Path(where)
    if path.is_file():
        return path.parent / name
    if path.is_dir():
        return path / name
    if path.is_absolute() or where.startswith("."):
        raise FileNotFoundError(f"there is no {where} on this machine")
    from huggingface_hub import try_to_load_from_cache

    # What an instance names must not send a router to the internet. hf_hub_download asks the hub who calls
    # it, with local_files_only too, and waits 3 s where there is no network.
    found = try_to_load_from_cache(where, name)
    if not isinstance(found, str):
        raise FileNotFoundError(f"there is no {name} of {where} in this machine's Hugging Face cache")
    return Path(found)


def _read_config(where: str) -> dict[str, Any]:
    try:
        config = orjson.loads(model_file(where, _CONFIG).read_bytes())
    except OSError:
        return {}
    return config if isinstance(config, dict) else {}


def _template(where: str, config: Mapping[str, Any]) -> str | None:
    """The chat template in a file of its own, else that in the configuration (of several, the default)."""
    try:
        return model_file(where, _TEMPLATE).read_text()
    except OSError:
        template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _specials(config: Mapping[str, Any]) -> dict[str, str]:
    tokens = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {
        name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}
