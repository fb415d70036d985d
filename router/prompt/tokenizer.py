"""A model's own tokenizer, without its engine. Everything here blocks: call it from a thread."""

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
# Of texts whose tokens are remembered.
_REMEMBERED_CHARS = 16 << 20


class Fingerprint(NamedTuple):
    """32 hex characters of the SHA-256 of tokenizer.json, and of the chat template; None: cannot be read."""

    tokenizer: str | None = None
    template: str | None = None


class Tokenizer:
    """`encoder` does text, `template` chats; `specials` are all its special tokens by their text."""

    def __init__(self, encoder: Encoder, template: ChatTemplate | None) -> None:
        self._encoder = encoder
        self._template = template
        self._pieces = _Pieces(encoder)

    @classmethod
    def load(cls, where: str) -> Tokenizer:
        """From a model's folder, its tokenizer.json, or its name in this machine's Hugging Face cache.

        Raises OSError and ValueError for what is not there, or no tokenizer.
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
        """A prompt's tokens, with those that the tokenizer puts around it."""
        return _encoded(self._encoder, text, specials=True)

    def chat(self, fields: Mapping[str, Any]) -> TokenArray:
        """Those of a /v1/chat/completions body. Raises Unrenderable."""
        if self._template is None:
            raise Unrenderable("no template")
        return self._pieces.tokens(self._template.render(fields))


def fingerprint(where: str) -> Fingerprint:
    """Of a tokenizer as `Tokenizer.load` takes it. Never raises."""
    try:
        tokenizer = _digest(model_file(where, _TOKENIZER).read_bytes())
        template = _template(where, _read_config(where))
    except (OSError, ValueError):
        return Fingerprint()
    return Fingerprint(tokenizer, None if template is None else _digest(template.encode()))


def _digest(told: bytes) -> str:
    return hashlib.sha256(told).hexdigest()[:32]


class _Pieces:
    """Encodes what lies between special tokens piece by piece, and remembers the pieces.

    So a chat's earlier turns are not encoded again. Where pieces give other tokens, it encodes the whole.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._lock = Lock()
        self._known: OrderedDict[str, TokenArray] = OrderedDict()
        self._chars = 0
        tokens = encoder.get_added_tokens_decoder().values()
        plain = [one.content for one in tokens if not (one.normalized or one.lstrip or one.rstrip)]
        split = "|".join(re.escape(one) for one in sorted(plain, key=len, reverse=True))
        self._split = re.compile(f"({split})") if split else None
        probe = "".join(f"{one} Hi  there\n{one}\nit's" for one in plain[:4])
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
                self._chars += len(piece)
            while self._chars > _REMEMBERED_CHARS:
                oldest, _ = self._known.popitem(last=False)
                self._chars -= len(oldest)
        return tokens

    def _whole(self, text: str) -> TokenArray:
        return _encoded(self._encoder, text, specials=False)


def _encoded(encoder: Encoder, text: str, specials: bool) -> TokenArray:
    # Of the library's methods only those for batches let other threads run meanwhile.
    (encoding,) = encoder.encode_batch_fast([text], add_special_tokens=specials)
    return np.array(encoding.ids, dtype=np.int32)


def model_file(where: str, name: str) -> Path:
    """Raises OSError for what is not on this machine."""
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
    """The template in a file of its own, else the config's (the one called default, of several)."""
    try:
        return model_file(where, _TEMPLATE).read_text()
    except OSError:
        told = config.get("chat_template")
    if isinstance(told, list):
        told = {one.get("name"): one.get("template") for one in told if isinstance(one, dict)}.get("default")
    return told if isinstance(told, str) else None


def _specials(config: Mapping[str, Any]) -> dict[str, str]:
    told = {name: value for name, value in config.items() if name.endswith("_token")}
    texts = {name: one.get("content") if isinstance(one, dict) else one for name, one in told.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}
