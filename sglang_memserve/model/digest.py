"""Whether two instances serve the same model: only then does equal KV mean the same."""

import hashlib
from pathlib import Path

_HEAD_BYTES = 1 << 20


def model_digest(model: str) -> str:
    """Hex, 32 characters: of a local folder's configuration, and of the names, sizes and beginnings of its
    weights; of the name where there is no such folder.
    """
    digest = hashlib.sha256()
    folder = Path(model)
    if not folder.is_dir():
        digest.update(model.encode())
        return digest.hexdigest()[:32]
    config = folder / "config.json"
    digest.update(config.read_bytes() if config.is_file() else b"")
    for weights in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        digest.update(f"{weights.name} {weights.stat().st_size}".encode())
        with weights.open("rb") as file:
            digest.update(file.read(_HEAD_BYTES))
    return digest.hexdigest()[:32]
