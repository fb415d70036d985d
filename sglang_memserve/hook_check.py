"""The check that each hook took hold.

SGLang only logs a hook whose target is gone, and the server comes up without it. Every process that is about
to serve with MemServe therefore calls `require_applied` first.
"""

from sglang_memserve import compat
from sglang_memserve.hook_targets import targets


def require_applied() -> None:
    """Raises RuntimeError with the names of the targets that SGLang could not hook."""
    from sglang.srt.plugins.hook_registry import HookRegistry

    missing = [target for target in targets() if target not in HookRegistry._patched]
    if missing:
        raise RuntimeError(
            f"MemServe cannot serve: SGLang has no {', no '.join(missing)} to hook into. "
            f"Tested with SGLang {', '.join(compat.TESTED_SGLANG)}."
        )
