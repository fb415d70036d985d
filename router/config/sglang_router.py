"""sglang_router's flags that the router does not have: those it ignores, and those it refuses."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple

from router.config.explain import ConfigError

_ONE, _ANY, _SOME, _SWITCH = None, "*", "+", 0


class Flag(NamedTuple):
    """`nargs` is argparse's, 0 for a switch. `harmless`: values that describe what the router does anyway."""

    nargs: int | str | None
    words: str
    harmless: tuple[str, ...] = ()


# What they tune does not exist here, or belongs to the instances.
IGNORED: dict[str, Flag] = {
    **dict.fromkeys(
        ("cache-threshold", "balance-abs-threshold", "balance-rel-threshold", "eviction-interval-secs",
         "eviction-interval", "bucket-adjust-interval-secs", "max-idle-secs", "assignment-mode"),
        Flag(_ONE, "tunes a policy of sglang_router's"),
    ),
    "dp-aware": Flag(_SWITCH, "instances balance their own ranks"),
    "mini-lb": Flag(_SWITCH, "there is one router"),
    **dict.fromkeys(
        ("worker-startup-timeout-secs", "worker-startup-check-interval"),
        Flag(_ONE, "the router waits for no instance: it serves once a probe has reached it"),
    ),
    "health-success-threshold": Flag(_ONE, "one successful probe is enough", ("1",)),
    "disable-health-check": Flag(_SWITCH, "an instance serves once a probe has reached it"),
    "log-dir": Flag(_ONE, "logs go to stderr"),
    **dict.fromkeys(
        ("selector", "prefill-selector", "decode-selector"), Flag(_SOME, "of service discovery")
    ),
    **dict.fromkeys(
        ("service-discovery-port", "service-discovery-namespace"), Flag(_ONE, "of service discovery")
    ),
    "prometheus-duration-buckets": Flag(_SOME, "the buckets are fixed"),
    "cors-allowed-origins": Flag(_ANY, "the instances answer OPTIONS"),
    "chat-template": Flag(_ONE, "the tokenizer's own is taken"),
    **dict.fromkeys(
        ("tokenizer-cache-enable-l0", "tokenizer-cache-enable-l1"),
        Flag(_SWITCH, "what was tokenised is remembered anyway"),
    ),
    **dict.fromkeys(
        ("tokenizer-cache-l0-max-entries", "tokenizer-cache-l1-max-memory"),
        Flag(_ONE, "what was tokenised is remembered anyway"),
    ),
    **dict.fromkeys(("reasoning-parser", "tool-call-parser"), Flag(_ONE, "the instances parse")),
    **dict.fromkeys(
        ("oracle-wallet-path", "oracle-tns-alias", "oracle-connect-descriptor", "oracle-username",
         "oracle-password", "oracle-pool-min", "oracle-pool-max", "oracle-pool-timeout-secs",
         "postgres-db-url", "postgres-pool-max", "redis-url", "redis-pool-max", "redis-retention-days"),
        Flag(_ONE, "of a history backend"),
    ),
    "enable-trace": Flag(_SWITCH, "the router traces nothing; traceparent passes to the instances"),
    "otlp-traces-endpoint": Flag(_ONE, "the router traces nothing"),
    "control-plane-audit-enabled": Flag(_SWITCH, "changes of workers are logged anyway"),
}  # fmt: skip

_KEYS = "give --api-key for clients and --admin-api-key for what administers"
# Serving without these would be wrong, or insecure.
REFUSED: dict[str, Flag] = {
    "enable-igw": Flag(_SWITCH, "a router serves one model: run one for each"),
    "service-discovery": Flag(_SWITCH, "give the URLs, or add instances while it runs with POST /workers"),
    "mcp-config-path": Flag(_ONE, "the router calls no tools"),
    "backend": Flag(_ONE, "instances are SGLang servers", ("sglang",)),
    "history-backend": Flag(_ONE, "the router stores no answers", ("memory", "none")),
    "control-plane-api-keys": Flag(_ANY, _KEYS),
    **dict.fromkeys(("jwt-issuer", "jwt-audience", "jwt-jwks-uri"), Flag(_ONE, _KEYS)),
    "jwt-role-mapping": Flag(_ANY, _KEYS),
}  # fmt: skip


def add_to(parser: argparse.ArgumentParser) -> None:
    for name, flag in (IGNORED | REFUSED).items():
        kind: dict[str, Any] = {"action": "store_true"} if flag.nargs == _SWITCH else {"nargs": flag.nargs}
        parser.add_argument(f"--{name}", dest=_dest(name), help=argparse.SUPPRESS, **kind)


def ignored_flags(given: argparse.Namespace) -> tuple[str, ...]:
    """The given flags that have no effect here. Raises ConfigError for a flag that cannot be ignored."""
    for name, flag in REFUSED.items():
        if _says_something(given, name, flag):
            raise ConfigError(f"--{name} of sglang_router is not supported here: {flag.words}")
    return tuple(f"--{name}" for name, flag in IGNORED.items() if _says_something(given, name, flag))


def _says_something(given: argparse.Namespace, name: str, flag: Flag) -> bool:
    value = getattr(given, _dest(name))
    return value not in (None, False, []) and value not in flag.harmless


def _dest(name: str) -> str:
    return "foreign_" + name.replace("-", "_")
