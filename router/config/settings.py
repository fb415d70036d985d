"""The router's settings: every default is stated here, once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from router.config.names import AUTO_PROFILE, POLICY_ALIASES, POLICY_NAMES

LOG_LEVELS = ("debug", "info", "warning", "warn", "error", "critical")
TREE_UPDATES = ("events", "response")
_SHARES = ("retry_jitter_factor",)
_POLICY_NAMES = (*POLICY_NAMES, *POLICY_ALIASES)


class ConfigError(ValueError):
    """A setting that the router cannot work with; the text says which, and what to give instead."""


@dataclass(frozen=True, slots=True)
class PrefillUrl:
    """A prefill instance. Without a bootstrap port the decode side assumes its own setting."""

    url: str
    bootstrap_port: int | None = None


def _setting(
    default: Any, help: str, choices: tuple[str, ...] | None = None, kind: type | None = None
) -> Any:
    """`kind`: the value's type, where the default is None."""
    metadata = {"help": help, "choices": choices, "kind": kind or type(default)}
    return field(default=default, metadata=metadata)


def _secret(help: str) -> Any:
    metadata = {"help": help, "choices": None, "kind": str, "secret": True}
    return field(default="", repr=False, metadata=metadata)


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """Everything that `python -m router.launch_router` can be told. Times are in seconds, sizes in bytes.

    Without instances it waits for some to be added. `without_effect`: flags of sglang_router's that were
    given and mean nothing here. Raises ConfigError for prefill without decode or the reverse, a malformed or
    repeated URL, and a number out of range. A profile is read when the router starts.
    """

    prefill: tuple[PrefillUrl, ...] = ()
    decode: tuple[str, ...] = ()
    colocated: tuple[str, ...] = ()
    without_effect: tuple[str, ...] = ()

    host: str = _setting("127.0.0.1", "address to listen on")
    port: int = _setting(30000, "port to listen on")
    policy: str = _setting("cost_model", "how an instance is chosen", choices=_POLICY_NAMES)
    prefill_policy: str = _setting("", "how who prefills is chosen, if otherwise", choices=_POLICY_NAMES)
    decode_policy: str = _setting("", "how who decodes is chosen, if otherwise", choices=_POLICY_NAMES)
    profile: str = _setting(
        AUTO_PROFILE,
        "of memserve calibrate, to price by: a file; auto: a built-in one of the instances' device",
    )
    tree_update: str = _setting(
        "events",
        "how the router learns what is cached where: from instances' events where they tell them, or from "
        "answers alone, as in the paper",
        choices=TREE_UPDATES,
    )
    tree_ttl: float = _setting(
        600.0, "how long what an instance answered counts as cached there, if it tells no events"
    )
    # Longer than an answer of a feed that was lost on the way takes: it is asked for again after 3 s.
    prediction_ttl: float = _setting(
        5.0, "how long what an instance answered counts as cached there, if its events are yet to say so"
    )
    max_tree_size: int = _setting(1 << 26, "most tokens that the tree of prompts keeps, 4 bytes each")
    tokenizer: str = _setting(
        "",
        "folder, or name in the Hugging Face cache, of the model's tokenizer; without it: as instances tell",
    )
    tokenize_timeout_secs: float = _setting(
        0.5, "longest that a request waits for its tokens; then it goes by load"
    )
    decisions_kept: int = _setting(1000, "how many of the latest decisions GET /decisions can tell")
    prometheus_port: int | None = _setting(
        None, "port to answer GET /metrics on too, without a key", kind=int
    )
    prometheus_host: str = _setting("", "address of that port; without it: that of --host")
    log_level: str = _setting("info", "how much to log", choices=LOG_LEVELS)
    access_log: bool = _setting(True, "one line for each request, at level info, on the logger router.access")
    api_key: str = _secret("key that clients must present; better set in the environment, which `ps` hides")
    worker_api_key: str = _secret("key that the router presents to instances; likewise")
    max_payload_size: int = _setting(
        256 << 20, "largest request body, and largest unstreamed answer, in bytes"
    )
    max_batch_prompts: int = _setting(
        4096,
        "most prompts of one request to a prefill/decode pair; colocated instances take any",
    )
    request_timeout_secs: float = _setting(
        1800.0, "longest silence of an instance, or of a client, during a request"
    )
    connect_timeout_secs: float = _setting(5.0, "longest wait for a connection to an instance")
    admin_timeout_secs: float = _setting(30.0, "deadline of an instance's part in what all are asked at once")
    health_generate_timeout_secs: float = _setting(
        20.0, "deadline of the request that /health_generate makes"
    )
    health_check_interval_secs: float = _setting(2.0, "pause between two probes of an instance")
    health_check_timeout_secs: float = _setting(5.0, "deadline of one probe")
    health_failure_threshold: int = _setting(
        3, "unanswered probes until an instance counts as down (refused: at once)"
    )
    health_check_endpoint: str = _setting(
        "/model_info", "path to probe; SGLang's /health makes the engine generate"
    )
    shutdown_grace_period_secs: float = _setting(
        5.0, "time that running requests get when the router is stopped"
    )
    retry_max_retries: int = _setting(5, "most tries of a request that fails before its answer begins")
    retry_initial_backoff_ms: float = _setting(50.0, "pause before the second try")
    retry_max_backoff_ms: float = _setting(30_000.0, "longest pause between two tries")
    retry_backoff_multiplier: float = _setting(1.5, "how much longer each pause is than the one before")
    retry_jitter_factor: float = _setting(0.2, "share of a pause by which it varies at random")
    disable_retries: bool = _setting(False, "try each request once")
    cb_failure_threshold: int = _setting(10, "failed requests in a row until an instance rests")
    cb_success_threshold: int = _setting(3, "requests one by one that must succeed after the rest")
    cb_timeout_duration_secs: float = _setting(60.0, "how long it rests")
    cb_window_duration_secs: float = _setting(120.0, "how long a failed request counts")
    disable_circuit_breaker: bool = _setting(False, "let no instance rest")

    def __post_init__(self) -> None:
        self._check_roles()
        for url in self.urls():
            check_url(url)
        self._check_unique()
        self._check_numbers()
        for name in ("api_key", "worker_api_key"):
            _check_key(name, getattr(self, name))

    @property
    def passes_credentials(self) -> bool:
        """Whether keys are between clients and instances: so they are if the router has none of its own."""
        return not (self.api_key or self.worker_api_key)

    def urls(self) -> Iterator[str]:
        yield from (spec.url for spec in self.prefill)
        yield from self.decode
        yield from self.colocated

    def _check_roles(self) -> None:
        if self.prefill and not self.decode:
            raise ConfigError(
                "--prefill without --decode: a prefill instance needs at least one --decode URL"
            )
        if self.decode and not self.prefill:
            raise ConfigError(
                "--decode without --prefill: a decode instance needs at least one --prefill URL"
            )

    def _check_unique(self) -> None:
        seen: set[str] = set()
        for url in self.urls():
            if url in seen:
                raise ConfigError(f"{url} is given twice: an instance has one role and one entry")
            seen.add(url)

    def _check_numbers(self) -> None:
        check_port("--port", self.port)
        if self.prometheus_port is not None:
            check_port("--prometheus-port", self.prometheus_port)
        for spec in self.prefill:
            check_port("bootstrap port", spec.bootstrap_port)
        for name in type(self).__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if name in _SHARES and not 0 <= value <= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be a number from 0 to 1")
            if name not in _SHARES and not 0 < value < math.inf:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: must be a number greater than 0")
        by_role = [(name, ("", *_POLICY_NAMES)) for name in ("prefill_policy", "decode_policy")]
        named = [
            ("policy", _POLICY_NAMES),
            *by_role,
            ("tree_update", TREE_UPDATES),
            ("log_level", LOG_LEVELS),
        ]
        for name, choices in named:
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} {getattr(self, name)!r} is unknown; known: {', '.join(choices)}")
        if not self.health_check_endpoint.startswith("/"):
            raise ConfigError(f"--health-check-endpoint {self.health_check_endpoint!r}: must begin with /")


def _check_key(name: str, key: str) -> None:
    if not all("!" <= character <= "~" for character in key):
        raise ConfigError(f"--{name.replace('_', '-')}: a key is made of printable ASCII without spaces")


def check_port(name: str, port: int | None) -> None:
    """Raises ConfigError."""
    if port is not None and not 0 < port < 65536:
        raise ConfigError(f"{name} {port}: a port is a number from 1 to 65535")


def trimmed(url: str) -> str:
    """Without the slash that a URL may end with."""
    return url if url.endswith("//") else url.removesuffix("/")


def check_url(url: str) -> None:
    """Whether this can be an instance's. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        # As the event loop will, which raises for an empty or too long label.
        (parts.hostname or "").encode("idna")
        bare = not (parts.path or parts.query or parts.fragment or parts.username)
    except ValueError:
        good = bare = False
    if not (good and bare):
        raise ConfigError(
            f"{url!r} is not an instance's URL: give scheme, host and port, as in http://127.0.0.1:30001"
        )
