"""The settings of `memserve up`: from flags, environment and a cluster file."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from router.config.explain import ConfigError
from router.config.flags import NAMES as ROUTER_NAMES
from router.config.settings import RouterConfig
from router.config.sources import as_key, load
from sglang_memserve.cluster.config import ROLES, ClusterConfig
from sglang_memserve.cluster.errors import UsageError
from sglang_memserve.cluster.spec import ROUTER_ADMIN_KEY_VARIABLE, ROUTER_KEY_VARIABLES
from sglang_memserve.launch_server import API_KEY_VARIABLE, given
from sglang_memserve.options import port_flags

_SETTINGS = {
    name: field for name, field in ClusterConfig.model_fields.items() if field.description is not None
}
VARIABLES = {
    **{f"{role}.count": f"MEMSERVE_{role.upper()}" for role in ROLES},
    **{name: f"MEMSERVE_{name.upper()}" for name in _SETTINGS},
}
"""The environment variable of each setting."""
_COUNTS = {
    "prefill": "prefill instances",
    "decode": "decode instances",
    "colocated": "instances that do both",
}
# A router's settings that follow from the cluster's.
_SET_BY_UP = (
    "host",
    "port",
    "prefill",
    "decode",
    "colocated",
    "api_key",
    "admin_api_key",
    "worker_api_key",
    "cluster_key_file",
)
EXAMPLE = """\
a cluster file (memserve up -f cluster.yaml) has the same settings by name, and flags of SGLang's by role:
  model: /models/mine
  prefill: {count: 2, args: [--mem-fraction-static, "0.8"]}
  decode: {count: 1, args: [--max-running-requests, "64"]}
  args: [--context-length, "8192"]      # for every instance
  router: {policy: cost_model, log_level: debug}"""


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The flags, without defaults: those are ClusterConfig's."""
    parser.add_argument("-f", "--config", type=Path, metavar="FILE", help="cluster file (YAML), see below")
    for role, text in _COUNTS.items():
        parser.add_argument(f"--{role}", metavar="N", help=text)
    for name, field in _SETTINGS.items():
        flag, metavar = f"--{name.replace('_', '-')}", name.split("_")[-1].upper()
        parser.add_argument(flag, metavar=metavar, help=str(field.description).format(field.default))


def read(args: argparse.Namespace, passed_on: list[str], environ: Mapping[str, str]) -> ClusterConfig:
    """The configuration; `passed_on` are flags of SGLang's. Raises UsageError or ConfigError."""
    flags: dict[str, Any] = {name: value for name in _SETTINGS if (value := getattr(args, name)) is not None}
    flags |= {role: {"count": count} for role in ROLES if (count := getattr(args, role)) is not None}
    config = load(
        ClusterConfig,
        ClusterConfig.model_fields,
        flags=flags,
        variables=VARIABLES,
        environ={name: value for name, value in environ.items() if value},
        file=args.config,
    )
    config = config.model_copy(update={"args": (*config.args, *passed_on)})
    _check_router(config.router, args.config)
    _check_keys(config, environ)
    _check_ports(config, environ)
    return config


def _check_router(settings: dict[str, Any], file: Path) -> None:
    if not settings:
        return
    shown = as_key(file, "router")
    for name in settings:
        if name in _SET_BY_UP:
            raise ConfigError(f"{shown((name,), None)}: `memserve up` sets it: leave it out of `router`")
    names = [name for name in ROUTER_NAMES if name not in _SET_BY_UP]
    unknown = next((name for name in settings if name not in names), None)
    if unknown == "ignored_flags":
        raise ConfigError(f"{shown((unknown,), None)}: there is no such setting")
    RouterConfig.model_validate(settings, context={"shown": shown})


def _check_ports(config: ClusterConfig, environ: Mapping[str, str]) -> None:
    """Raises UsageError where several instances would listen at one port."""
    for flag, variable in port_flags().items():
        users = sum(config.of(role).count for role in ROLES if given(list(config.args_of(role)), flag))
        if users > 1:
            raise UsageError(f"{flag}: {users} instances cannot listen at one port: leave it out")
        if environ.get(variable, "0") not in ("", "0") and config.instances > 1:
            raise UsageError(
                f"{variable} is set, and {config.instances} instances cannot listen there: unset it"
            )


def _check_keys(config: ClusterConfig, environ: Mapping[str, str]) -> None:
    if any(given(list(config.args_of(role)), "--api-key") for role in ROLES):
        raise UsageError("--api-key after `--`: give it before, so that the router knows it too")
    foreign = [name for name in (*ROUTER_KEY_VARIABLES, API_KEY_VARIABLE) if name in environ]
    if foreign and not config.api_key:
        raise UsageError(f"{foreign[0]} is set: set MEMSERVE_API_KEY for the whole cluster instead")
    if ROUTER_ADMIN_KEY_VARIABLE in environ and not config.admin_api_key:
        raise UsageError(f"{ROUTER_ADMIN_KEY_VARIABLE} is set: set MEMSERVE_ADMIN_API_KEY instead")
    if config.admin_api_key and config.admin_api_key == config.api_key:
        raise UsageError("MEMSERVE_ADMIN_API_KEY is the clients' key: give another one")
