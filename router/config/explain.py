"""What is wrong with a setting, in one line: where it was set, its value, and what to give instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

Location = tuple[int | str, ...]
Shown = Callable[[Location, Any], str]
"""Takes where a setting is, and its value (None to leave it out): how the user wrote it."""

_EXPECTED = {
    "greater_than": "must be a number greater than {gt:g}",
    "greater_than_equal": "must be a number from {ge:g} up",
    "finite_number": "must be a finite number",
    "int_parsing": "expected int",
    "int_from_float": "expected int",
    "int_type": "expected int",
    "float_parsing": "expected float",
    "float_type": "expected float",
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "string_type": "expected text",
    "tuple_type": "expected a list",
    "model_type": "expected settings by name",
    "dict_type": "expected settings by name",
}


class ConfigError(Exception):
    """A setting that cannot be worked with; the text says which, and what to give instead."""


class SettingsModel(BaseModel):
    """Settings by name. The first that is wrong raises ConfigError.

    The context's `shown` (a `Shown`) says how the user wrote a setting; without it, as flags.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="wrap")
    @classmethod
    def _explained(cls, values: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            shown = (info.context or {}).get("shown", as_flag)
            raise ConfigError(_explain(cls, error, shown)) from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint at the nearest of the known names, to go behind a message; empty if none is near."""
    near = nearest(name, known)
    return f": did you mean {near}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like this one, if it is like any."""
    known = list(known)
    begun = [full for full in known if full.startswith(name)] if len(name) > 2 else []
    return next(iter([*begun[:1], *difflib.get_close_matches(name, known, n=1, cutoff=0.7)]), None)


def as_flag(location: Location, value: Any) -> str:
    """As on a command line: --request-timeout-secs 5; text that is no number is quoted."""
    flag = "--" + str(location[0]).replace("_", "-") if location else ""
    return flag if value is None else f"{flag} {value if _is_number(value) else repr(value)}"


def _explain(model: type[BaseModel], error: ValidationError, shown: Shown) -> str:
    """The first thing that is wrong. The value of a field that is not in the model's repr is not shown."""
    first = error.errors(include_url=False)[0]
    location, value = first["loc"], first["input"]
    if first["type"] == "extra_forbidden":
        hint = did_you_mean(str(location[-1]), _names_at(model, location))
        return f"{shown(location, None)}: there is no such setting{hint}"
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else _reason(first)
    if not location:
        return reason
    field = model.model_fields.get(str(location[0]))
    secret = field is not None and not field.repr
    return f"{shown(location, None if secret else value)}: {reason}"


def _names_at(model: type[BaseModel], location: Location) -> list[str]:
    """The settings that there are beside the one at this place."""
    for step in location[:-1]:
        field = model.model_fields.get(str(step))
        nested = [field.annotation, *get_args(field.annotation)] if field is not None else []
        model = next(
            (kind for kind in nested if isinstance(kind, type) and issubclass(kind, BaseModel)), model
        )
    return list(model.model_fields)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _reason(error: Any) -> str:
    words = _EXPECTED.get(error["type"])
    return words.format(**error.get("ctx", {})) if words else str(error["msg"]).lower()
