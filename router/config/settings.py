"""The router's settings: every default is stated here, once."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from router.config.explain import ConfigError, SettingsModel, did_you_mean
from router.config.fields import Count, Key, NotNegative, Port, Positive, port_number
from router.config.names import AUTO_PROFILE, POLICY_ALIASES, POLICY_NAMES

__all__ = ["ConfigError", "OneOf", "PrefillUrl", "RouterConfig", "check_port", "check_url", "normalized"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_POLICY_NAMES = (*POLICY_NAMES, *POLICY_ALIASES)


@dataclass(frozen=True, slots=True)
class PrefillUrl:
    """A prefill instance. Without a bootstrap port the decode side assumes its own setting."""

    url: str
    bootstrap_port: int | None = None


class OneOf:
    """Validates that a text is one of `choices`."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices

    def __call__(self, value: str, info: ValidationInfo) -> str:
        if value not in self.choices:
            known = ", ".join(filter(None, self.choices))
            hint = did_you_mean(value, self.choices)
            raise ValueError(f"{info.field_name} {value!r} is unknown; known: {known}{hint}")
        return value


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError("must be a number from 0 to 1")
    return value


def _path(value: str) -> str:
    if not value.startswith("/"):
        raise ValueError("must begin with /")
    return value


def _urls(value: Any) -> Any:
    """URLs in a list, or in one text with commas between them."""
    if isinstance(value, str):
        value = [url.strip() for url in value.split(",") if url.strip()]
    return [normalized(url) if isinstance(url, str) else url for url in value] if _is_list(value) else value


def _prefill_urls(value: Any) -> Any:
    """Each is a PrefillUrl, a text "URL" or "URL PORT", or its two fields by name."""
    if isinstance(value, str):
        value = [url.strip() for url in value.split(",") if url.strip()]
    return [prefill_url(url) if isinstance(url, str) else url for url in value] if _is_list(value) else value


def _paths(value: Any) -> Any:
    """Paths in a list, or in one text with commas between them."""
    return [path.strip() for path in value.split(",") if path.strip()] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """Names in a list, or in one text with commas or spaces between them."""
    return value.replace(",", " ").split() if isinstance(value, str) else value


def _normalized(specs: tuple[PrefillUrl, ...]) -> tuple[PrefillUrl, ...]:
    return tuple(replace(spec, url=normalized(spec.url)) for spec in specs)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def prefill_url(text: str) -> PrefillUrl:
    """Reads "URL" or "URL BOOTSTRAP_PORT", where the port may be none. Raises ConfigError."""
    url, *rest = text.split()
    if len(rest) > 1:
        raise ConfigError(
            f"--prefill {text}: one URL and one bootstrap port at most; repeat the flag for more"
        )
    if not rest or rest[0].lower() == "none":
        return PrefillUrl(url)
    try:
        return PrefillUrl(url, int(rest[0]))
    except ValueError:
        raise ConfigError(f"--prefill {url} {rest[0]}: the bootstrap port is a number, or none") from None


PolicyName = Annotated[str, AfterValidator(OneOf(*_POLICY_NAMES))]
RolePolicyName = Annotated[str, AfterValidator(OneOf("", *_POLICY_NAMES))]
Paths = Annotated[tuple[str, ...], BeforeValidator(_paths)]
Urls = Annotated[tuple[str, ...], BeforeValidator(_urls)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
PrefillUrls = Annotated[tuple[PrefillUrl, ...], BeforeValidator(_prefill_urls), AfterValidator(_normalized)]


class RouterConfig(SettingsModel):
    """All settings of `python -m router.launch_router`. Times are in seconds, sizes in bytes.

    Without instances it waits for some to be added. `ignored_flags`: flags of sglang_router's that were
    given and have no effect here. Raises ConfigError for prefill without decode or the reverse, a malformed
    or repeated URL, and a number out of range. A profile is read when the router starts.
    """

    prefill: PrefillUrls = ()
    decode: Urls = ()
    colocated: Urls = ()
    ignored_flags: tuple[str, ...] = ()

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(30000, description="port to listen on")
    policy: PolicyName = Field("cost_model", description="how an instance is chosen")
    prefill_policy: RolePolicyName = Field(
        "", description="policy for prefill instances (without it: --policy)"
    )
    decode_policy: RolePolicyName = Field(
        "", description="policy for decode instances (without it: --policy)"
    )
    profile: str = Field(
        AUTO_PROFILE,
        description="the cost model's profile: a file of memserve calibrate, or auto for a built-in one",
    )
    tree_update: Annotated[str, AfterValidator(OneOf("events", "response"))] = Field(
        "events",
        description="how the router learns what instances cache: from their events, or from answers alone",
    )
    tree_ttl: Positive = Field(
        600.0, description="how long a prefix counts as cached after an answer, at instances without events"
    )
    # Longer than a lost answer of a feed takes: the router requests it again after 3 s.
    prediction_ttl: Positive = Field(
        5.0, description="how long a predicted entry counts before events confirm it"
    )
    max_tree_size: Count = Field(
        1 << 26, description="maximum number of tokens in the prompt tree, 4 bytes each"
    )
    tokenizer: str = Field(
        "",
        description="the tokenizer's folder, or name in the Hugging Face cache (without it: the instances')",
    )
    tokenize_timeout_secs: Positive = Field(
        0.5, description="how long a request waits for its tokens before it is routed by load"
    )
    decisions_kept: Count = Field(1000, description="number of recent decisions that GET /decisions returns")
    prometheus_port: Port | None = Field(
        None, description="second port that answers GET /metrics, without a key"
    )
    prometheus_host: str = Field("", description="address of that port (without it: --host)")
    log_level: Annotated[
        str, AfterValidator(OneOf("debug", "info", "warning", "warn", "error", "critical"))
    ] = Field("info", description="how much to log")
    request_id_headers: Names = Field(
        (), description="headers that instances get too, beside those that SGLang reads"
    )
    access_log: bool = Field(
        True, description="one line for each request, at level info, on the logger router.access"
    )
    api_key: Key = Field(
        "",
        description="key that clients must present; set it in the environment, which `ps` does not show",
        repr=False,
    )
    admin_api_key: Key = Field(
        "",
        description="key that alone opens what administers the router (without it: --api-key); set it in the "
        "environment",
        repr=False,
    )
    metrics_require_key: bool = Field(
        False, description="ask for the admin key (without one: --api-key) at GET /metrics of --port too"
    )
    tenants: str = Field(
        "",
        description="YAML file of the tenants: digests of keys, limits, groups (SIGHUP reads it again)",
    )
    tenants_secret: Key = Field(
        "",
        description="secret of the tenants' namespaces, where their file has none; the same at every router; "
        "set it in the environment",
        repr=False,
    )
    worker_api_key: Key = Field(
        "", description="key that the router presents to instances; set it in the environment", repr=False
    )
    cluster_key_file: str = Field(
        "",
        description="file with the cluster's key, to follow the instances' events (or MEMSERVE_CLUSTER_KEY)",
    )
    tls_cert_path: str = Field(
        "", description="certificate (chain, PEM) that clients get: the router serves https with it"
    )
    tls_key_path: str = Field("", description="private key of --tls-cert-path (PEM)")
    ca_cert_paths: Paths = Field(
        (),
        description="CA certificates (PEM) that https:// instances are checked by, instead of the system's",
    )
    client_cert_path: str = Field("", description="certificate (PEM) for https:// instances that ask for it")
    client_key_path: str = Field("", description="private key of --client-cert-path (PEM)")
    max_payload_size: Count = Field(
        256 << 20, description="maximum size of a request body, and of an unstreamed answer, in bytes"
    )
    max_body_memory: Count | None = Field(
        None,
        description="maximum memory for request bodies, together, in bytes "
        "(without it: 1 GiB, or 4 times --max-payload-size if that is more)",
    )
    max_connections: Count | None = Field(
        None,
        description="maximum number of clients' connections (without it: a third of the file descriptors)",
    )
    max_connections_per_address: Count | None = Field(
        None,
        description="maximum number of connections from one address, or IPv6 /64 "
        "(without it: three quarters of --max-connections)",
    )
    client_header_timeout_secs: Positive = Field(
        10.0, description="deadline of a request's headers, from the connection's or the headers' first byte"
    )
    client_body_timeout_secs: Positive = Field(
        30.0, description="how long a client may be silent in a body; beyond it, 1 KiB must come each second"
    )
    send_timeout_secs: Positive = Field(
        60.0, description="how long a client may read nothing of its answer before it is cut off"
    )
    keepalive_timeout_secs: Positive = Field(
        75.0, description="how long a connection stays open between two requests"
    )
    max_concurrent_requests: int = Field(
        -1, description="maximum number of requests in flight; the others wait (-1: no limit)"
    )
    queue_size: NotNegative = Field(
        100, description="maximum number of requests that wait; one more gets 429 (0: none waits)"
    )
    queue_timeout_secs: Positive = Field(
        60.0, description="how long a request waits for its turn before it gets 408"
    )
    rate_limit_tokens_per_second: int = Field(
        0,
        description="requests that may begin each second, after a burst of --max-concurrent-requests "
        "(0: no limit)",
    )
    max_batch_prompts: Count = Field(
        4096, description="maximum number of prompts in one request to a prefill/decode pair"
    )
    request_timeout_secs: Positive = Field(
        1800.0, description="how long an instance or a client may be silent during a request"
    )
    connect_timeout_secs: Positive = Field(
        5.0, description="how long to wait for a connection to an instance"
    )
    admin_timeout_secs: Positive = Field(
        30.0, description="deadline of each instance's answer to a request that goes to all of them"
    )
    health_generate_timeout_secs: Positive = Field(
        20.0, description="deadline of the request that /health_generate makes"
    )
    health_check_interval_secs: Positive = Field(2.0, description="pause between two probes of an instance")
    health_check_timeout_secs: Positive = Field(5.0, description="deadline of one probe")
    health_failure_threshold: Count = Field(
        3, description="failed probes until an instance counts as down (a refused connection counts at once)"
    )
    health_check_endpoint: Annotated[str, AfterValidator(_path)] = Field(
        "/model_info", description="path to probe; SGLang's /health makes the engine generate"
    )
    shutdown_grace_period_secs: Positive = Field(
        5.0, description="how long running requests may continue when the router stops"
    )
    retry_max_retries: Count = Field(
        5, description="maximum number of tries of a request that fails before its answer begins"
    )
    retry_initial_backoff_ms: Positive = Field(50.0, description="pause before the second try")
    retry_max_backoff_ms: Positive = Field(30_000.0, description="longest pause between two tries")
    retry_backoff_multiplier: Positive = Field(
        1.5, description="factor by which each pause is longer than the one before"
    )
    retry_jitter_factor: Annotated[float, AfterValidator(_share)] = Field(
        0.2, description="share of a pause by which it varies at random"
    )
    disable_retries: bool = Field(False, description="try each request once")
    cb_failure_threshold: Count = Field(
        10, description="failed requests in a row until the circuit breaker opens"
    )
    cb_success_threshold: Count = Field(
        3, description="successful requests in a row until the circuit breaker closes again"
    )
    cb_timeout_duration_secs: Positive = Field(60.0, description="how long the circuit breaker stays open")
    cb_window_duration_secs: Positive = Field(120.0, description="how long a failed request counts")
    disable_circuit_breaker: bool = Field(False, description="never take an instance out for failed requests")

    @model_validator(mode="after")
    def _checked(self) -> Self:
        self._check_roles()
        for url in self.urls():
            check_url(url)
        for spec in self.prefill:
            check_port("bootstrap port", spec.bootstrap_port)
        self._check_unique()
        self._check_keys()
        return self

    @property
    def passes_credentials(self) -> bool:
        """Whether keys are between clients and instances: so they are if the router has none of its own."""
        return not (self.api_key or self.admin_api_key or self.worker_api_key or self.tenants)

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

    def _check_keys(self) -> None:
        if self.admin_api_key and self.admin_api_key in (self.api_key, self.worker_api_key):
            raise ConfigError("--admin-api-key is another key's value: clients or instances would administer")
        if self.metrics_require_key and not (self.admin_api_key or self.api_key):
            raise ConfigError("--metrics-require-key without a key to ask for: give --admin-api-key")
        for kind in ("tls", "client"):
            cert, key = (getattr(self, f"{kind}_{half}_path") for half in ("cert", "key"))
            if bool(cert) != bool(key):
                given, missing = ("cert", "key") if cert else ("key", "cert")
                raise ConfigError(f"--{kind}-{given}-path without --{kind}-{missing}-path: give both")

    def _check_unique(self) -> None:
        seen: set[str] = set()
        for url in self.urls():
            if url in seen:
                raise ConfigError(f"{url} is given twice: an instance has one role and one entry")
            seen.add(url)


def check_port(name: str, port: int | None) -> None:
    """Raises ConfigError."""
    if port is None:
        return
    try:
        port_number(port)
    except ValueError as error:
        raise ConfigError(f"{name} {port}: {error}") from None


def normalized(url: str) -> str:
    """The one way to write an instance's address, by which it is known; what is no such URL stays as it is.

    RFC 3986, section 6.2: case of scheme and host, default and zero-padded ports, an empty path.
    """
    url = url.strip()
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return url
    if not host or parts.scheme not in _DEFAULT_PORTS or parts.path not in ("", "/"):
        return url
    if parts.query or parts.fragment or parts.username is not None:
        return url
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    shown = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}")


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
