"""Whether the engine is installed: a router-only install has neither SGLang nor torch."""

import importlib.util

from sglang_memserve.cluster.errors import UsageError

PUT_AFTER = "put flags of SGLang after `--`"


def require_engine(command: str) -> None:
    """Raises UsageError where `command` cannot work for lack of SGLang."""
    if importlib.util.find_spec("sglang") is None:
        raise UsageError(f"{command} needs sglang: pip install '.[gpu]' (without a GPU: scripts/setup.sh)")
