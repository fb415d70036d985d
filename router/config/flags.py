"""From command line, environment and configuration file to a RouterConfig.

argparse reads the flags, because sglang_router's command lines must work as they are: `--prefill URL PORT`
with its optional second value, flags that are accepted without effect, and `--model-path` for `--tokenizer`.
pydantic-settings' own command line has no such forms. It does the rest.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from router.config import sglang_router
from router.config.explain import ConfigError
from router.config.parser import Parser
from router.config.settings import OneOf, RouterConfig, prefill_url
from router.config.sources import check_variables, load

ENV_PREFIX = "MEMSERVE_ROUTER_"
_LISTED = ("prefill", "decode", "colocated")
_SETTINGS = {
    name: field for name, field in RouterConfig.model_fields.items() if field.description is not None
}
NAMES = (*_LISTED, *_SETTINGS)
"""What a configuration file may set."""
VARIABLES = {name: ENV_PREFIX + name.upper() for name in NAMES}
# The first that is given counts.
_TOKENIZERS = ("tokenizer", "tokenizer_path", "model_path")

_DESCRIPTION = """\
One HTTP endpoint for a group of SGLang instances: prefill/decode pairs, colocated servers, or both.

  python -m router.launch_router --pd-disaggregation --prefill http://10.0.0.1:30001 8998 --decode http://10.0.0.2:30002
  python -m router.launch_router --worker-urls http://10.0.0.1:30001 http://10.0.0.2:30001
  python -m router.launch_router --config router.yaml

A setting comes from its flag, else from the environment (MEMSERVE_ROUTER_PORT for --port, and so on), else
from the YAML file of --config (port: 30000), else from its default. In the environment and in the file, the
instances are prefill ("URL" or "URL BOOTSTRAP_PORT"), decode and colocated.
sglang_router's other flags are accepted with a warning, or refused: see docs/guides/from-sglang-router.md."""


def make_parser(*, add_help: bool = True) -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m router.launch_router",
        add_help=add_help,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"memserve {version('sglang-memserve')}")
    parser.add_argument("-f", "--config", type=Path, metavar="FILE", help="YAML file with settings by name")
    instances = parser.add_argument_group("instances")
    instances.add_argument(
        "--prefill", nargs="+", action="append", metavar=("URL", "BOOTSTRAP_PORT"),
        help="a prefill instance and its --disaggregation-bootstrap-port ('none' or absent: the port that "
        "the decode instance assumes); repeat for more",
    )  # fmt: skip
    instances.add_argument("--decode", nargs="+", action="append", metavar="URL", help="decode instances")
    instances.add_argument("--worker-urls", nargs="*", metavar="URL", help="colocated instances")
    instances.add_argument(
        "--pd-disaggregation",
        action="store_true",
        help="insist on prefill/decode pairs (--prefill and --decode imply it)",
    )
    settings = parser.add_argument_group("settings")
    for name, field in _SETTINGS.items():
        settings.add_argument(f"--{name.replace('_', '-')}", help=_help(field), **_kind(field))
    for name in _TOKENIZERS[1:]:
        settings.add_argument(f"--{name.replace('_', '-')}", help="sglang_router's name for --tokenizer")
    sglang_router.add_to(parser)
    return parser


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> RouterConfig:
    """The configuration that flags, then environment, then file, then defaults make.

    Raises ConfigError for values that make no sense; exits with code 2 for flags that argparse refuses.
    """
    given = make_parser().parse_args(argv)
    check_variables(environ, ENV_PREFIX, VARIABLES.values())
    config = load(
        RouterConfig, NAMES, flags=_flags(given), variables=VARIABLES, environ=environ, file=given.config
    )
    if given.pd_disaggregation and not (config.prefill or config.decode):
        raise ConfigError("--pd-disaggregation without instances: give --prefill URL PORT and --decode URL")
    return config


def _flags(given: argparse.Namespace) -> dict[str, Any]:
    """What the command line sets, by field."""
    values = {name: value for name in _SETTINGS if (value := getattr(given, name)) is not None}
    if given.prefill:
        values["prefill"] = tuple(prefill_url(" ".join(words)) for words in given.prefill)
    if given.decode:
        values["decode"] = tuple(url for urls in given.decode for url in urls)
    if given.worker_urls:
        values["colocated"] = tuple(given.worker_urls)
    if tokenizer := next((path for name in _TOKENIZERS if (path := getattr(given, name))), None):
        values["tokenizer"] = tokenizer
    if ignored_flags := sglang_router.ignored_flags(given):
        values["ignored_flags"] = ignored_flags
    return values


def _help(field: FieldInfo) -> str:
    default = field.default or "none"
    if isinstance(field.default, bool):
        default = "on" if field.default else "off"
    return f"{field.description} (default: {default})"


def _kind(field: FieldInfo) -> dict[str, Any]:
    """How argparse takes it. Its value stays text, which RouterConfig reads as it does the environment's."""
    if field.default is True:
        return {"action": argparse.BooleanOptionalAction, "default": None}
    if field.annotation is bool:
        return {"action": "store_const", "const": True}
    if isinstance(field.default, tuple):
        return {"nargs": "*"}
    functions = [item.func for item in field.metadata if isinstance(item, AfterValidator)]
    choices = next((function.choices for function in functions if isinstance(function, OneOf)), ())
    return {"choices": tuple(filter(None, choices)) or None, "metavar": None if field.repr else "KEY"}
