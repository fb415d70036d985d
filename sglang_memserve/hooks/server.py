"""What a server refuses at start, keeps out of its log, and says of itself at `/server_info`."""

from typing import Any

from sglang_memserve.hook_check import require_applied
from sglang_memserve.hooks.scheduler_state import scheduler_state


def refuse_unsupported(result: object, server_args: Any) -> None:
    """After SGLang's own check of the arguments. Raises Unsupported, and RuntimeError for a missing hook."""
    from sglang_memserve import limits

    if limits.serves_with_memserve(server_args):
        require_applied()
        limits.refuse_unsupported_args(server_args)


def redact_keys(settings: dict[str, Any], server_args: Any) -> None:
    """In what SGLang writes to its log and shows at `/server_info`."""
    for name in ("api_key", "admin_api_key"):
        if settings.get(name):
            settings[name] = "<redacted>"


def advertise(result: dict[str, Any], scheduler: Any) -> None:
    """In `/server_info`: what a router may send here beyond what a stock server takes, and where it can
    follow the caches' events.
    """
    from sglang_memserve import limits
    from sglang_memserve.options import InstanceOptions

    if limits.serves_with_memserve(scheduler.server_args):
        caching = InstanceOptions.from_environment().caching.value
        result["memserve"] = {"room_per_sample": True, "caching": caching}
    agent = scheduler_state(scheduler).agent
    if agent is not None:
        result["memserve"] = result.get("memserve", {}) | agent.advertised


def identify(result: dict[str, Any], scheduler: Any) -> None:
    """In `/server_info`: what must agree among instances. Called after `advertise`."""
    from sglang_memserve.identity import identity

    if "memserve" in result or scheduler_state(scheduler).agent is not None:
        result["memserve"] = result.get("memserve", {}) | identity(scheduler)
