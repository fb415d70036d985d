"""What an instance tells of itself so that others can see whether they fit together."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from sglang_memserve.model.digest import model_digest
from sglang_memserve.options import InstanceOptions

_TOKENIZER = "tokenizer.json"


def identity(scheduler: Any) -> dict[str, Any]:
    """MemServe's version, digests of model, tokenizer and chat template, the dtype that KV is kept in, and
    the registries by which it knows others. None for what cannot be told.

    Digests are 32 hex characters. That of the tokenizer is the SHA-256 of its tokenizer.json, that of the
    template of its text: a router makes the same of its own.
    """
    args = scheduler.server_args
    allocator = getattr(scheduler, "token_to_kv_pool_allocator", None)
    dtype = None if allocator is None else getattr(allocator.get_kvcache(), "dtype", None)
    return {
        "version": importlib.metadata.version("sglang-memserve"),
        "model": model_digest(args.model_path),
        "tokenizer": tokenizer_digest(args.tokenizer_path or args.model_path),
        "template": template_digest(args.chat_template, getattr(scheduler, "tokenizer", None)),
        "kv_dtype": str(dtype).removeprefix("torch.") if dtype is not None else None,
        "registries": InstanceOptions.from_environment().all_registries,
    }


def tokenizer_digest(where: str) -> str | None:
    """Of a local folder, or of a hub name whose files are on this machine."""
    folder = Path(where)
    file = folder / _TOKENIZER if folder.is_dir() else _cached(where)
    return None if file is None else _digest(file)


def template_digest(given: str | None, tokenizer: Any) -> str | None:
    """Of SGLang's --chat-template, a file or the name of one of its own; else the tokenizer's."""
    if given:
        return _digest(Path(given)) or _hexdigest(given.encode())
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    return _hexdigest(template.encode()) if isinstance(template, str) else None


def _cached(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, _TOKENIZER)
    except ValueError:
        return None
    return Path(found) if isinstance(found, str) else None


def _digest(file: Path) -> str | None:
    try:
        return _hexdigest(file.read_bytes())
    except OSError:
        return None


def _hexdigest(told: bytes) -> str:
    return hashlib.sha256(told).hexdigest()[:32]
