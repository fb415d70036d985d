"""From command line and environment to a RouterConfig."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from router.config import sglang_router
from router.config.settings import ConfigError, PrefillUrl, RouterConfig, trimmed

ENV_PREFIX = "MEMSERVE_ROUTER_"
_SWITCHED = {"1": True, "true": True, "0": False, "false": False}
# The first that is given counts.
_TOKENIZERS = ("tokenizer_path", "model_path")

_DESCRIPTION = """\
One HTTP endpoint for a group of SGLang instances: prefill/decode pairs, colocated servers, or both.

  python -m router.launch_router --pd-disaggregation --prefill http://10.0.0.1:30001 8998 --decode http://10.0.0.2:30002
  python -m router.launch_router --worker-urls http://10.0.0.1:30001 http://10.0.0.2:30001

A setting is taken from its flag, else from the environment (MEMSERVE_ROUTER_PORT for --port, and so on), else
from its default. sglang_router's other flags are taken with a warning, or refused: see docs/router.md."""


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m router.launch_router",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    instances = parser.add_argument_group("instances")
    instances.add_argument(
        "--prefill", nargs="+", action="append", default=[], metavar=("URL", "BOOTSTRAP_PORT"),
        help="a prefill instance and its --disaggregation-bootstrap-port ('none' or absent: the one that the "
        "decode instance assumes); repeat for more",
    )  # fmt: skip
    instances.add_argument(
        "--decode", nargs="+", action="append", default=[], metavar="URL", help="decode instances"
    )
    instances.add_argument("--worker-urls", nargs="*", default=[], metavar="URL", help="colocated instances")
    instances.add_argument(
        "--pd-disaggregation",
        action="store_true",
        help="insist on prefill/decode pairs (--prefill and --decode imply it)",
    )
    settings = parser.add_argument_group("settings")
    for setting in _settings():
        if setting.default is True:
            kind: dict[str, Any] = {"action": argparse.BooleanOptionalAction, "default": None}
        elif setting.default is False:
            kind = {"action": "store_const", "const": True}
        else:
            kind = {"type": setting.metadata["kind"], "choices": setting.metadata["choices"]}
            kind["metavar"] = "KEY" if _is_secret(setting) else None
        default = setting.default or "none"
        if isinstance(default, bool) or setting.default is False:
            default = "on" if setting.default else "off"
        settings.add_argument(
            _flag(setting.name), help=f"{setting.metadata['help']} (default: {default})", **kind
        )
    for name in _TOKENIZERS:
        settings.add_argument(_flag(name), help="sglang_router's name for --tokenizer")
    sglang_router.add_to(parser)
    return parser


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> RouterConfig:
    """The configuration that flags, then environment, then defaults make.

    Raises ConfigError for values that make no sense; exits with code 2 for flags that argparse refuses.
    """
    given = make_parser().parse_args(argv)
    prefill = tuple(_prefill(values) for values in given.prefill)
    decode = tuple(trimmed(url) for urls in given.decode for url in urls)
    without_effect = sglang_router.without_effect(given)
    if given.pd_disaggregation and not (prefill or decode):
        raise ConfigError("--pd-disaggregation without instances: give --prefill URL PORT and --decode URL")
    values: dict[str, Any] = {}
    for setting in _settings():
        value = getattr(given, setting.name)
        value = _from_environment(setting, environ) if value is None else value
        if value is not None:
            values[setting.name] = value
        if value == "" and _is_secret(setting):
            raise ConfigError(f"{_flag(setting.name)} is empty: give a key, or leave flag and variable out")
    for name in _TOKENIZERS:
        if told := getattr(given, name):
            values.setdefault("tokenizer", told)
    colocated = tuple(trimmed(url) for url in given.worker_urls)
    return RouterConfig(prefill, decode, colocated, without_effect, **values)


def _settings() -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(RouterConfig) if "help" in field.metadata]


def _is_secret(setting: dataclasses.Field[Any]) -> bool:
    return "secret" in setting.metadata


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _prefill(values: list[str]) -> PrefillUrl:
    url, *rest = values
    if len(rest) > 1:
        raise ConfigError(
            f"--prefill {' '.join(values)}: one URL and one bootstrap port at most; repeat the flag for more"
        )
    if not rest or rest[0].lower() == "none":
        return PrefillUrl(trimmed(url))
    try:
        return PrefillUrl(trimmed(url), int(rest[0]))
    except ValueError:
        raise ConfigError(f"--prefill {url} {rest[0]}: the bootstrap port is a number, or none") from None


def _from_environment(setting: dataclasses.Field[Any], environ: Mapping[str, str]) -> Any:
    name = ENV_PREFIX + setting.name.upper()
    if name not in environ:
        return None
    kind: Any = setting.metadata["kind"]
    try:
        return _SWITCHED[environ[name].lower()] if kind is bool else kind(environ[name])
    except KeyError:
        raise ConfigError(f"{name}={environ[name]!r}: expected {' or '.join(_SWITCHED)}") from None
    except ValueError:
        raise ConfigError(f"{name}={environ[name]!r}: expected {kind.__name__}") from None
