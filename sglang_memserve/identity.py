"""What an instance publishes at `/server_info`, so that others can see whether they are compatible."""

import hashlib
import importlib.metadata
from pathlib import Path
from typing import Any

from sglang_memserve.model.digest import model_digest
from sglang_memserve.options import InstanceOptions

_TOKENIZER = "tokenizer.json"


def identity(scheduler: Any) -> dict[str, Any]:
    """MemServe's version, digests of model, tokenizer and chat template, the KV's dtype, and the registries.

    None for what is not known. Digests are 32 hex characters: of the SHA-256 of tokenizer.json, and of the
    template's text. A router computes the same for its own tokenizer.
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


def tokenizer_digest(name: str) -> str | None:
    """`name`: a local folder, or a hub name. None where its files are not on this machine."""
    folder = Path(name)
    file = folder / _TOKENIZER if folder.is_dir() else _cached(name)
    return None if file is None else _digest(file)


def template_digest(given: str | None, tokenizer: Any) -> str | None:
    """`given`: SGLang's --chat-template, a file or a name; None: the template of the tokenizer."""
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


def _hexdigest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
