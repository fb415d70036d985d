"""Settings out of flags, the environment and a YAML file: the first that has one counts, then the default.

pydantic-settings reads the file and puts one source over the other; the model validates what comes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel
from pydantic_settings import BaseSettings, InitSettingsSource, SettingsConfigDict, YamlConfigSettingsSource

from router.config.explain import ConfigError, Location, Shown, as_flag, did_you_mean, nearest

Model = TypeVar("Model", bound=BaseModel)

# Kubernetes sets these for a Service whose name begins as ours do; they are no settings.
_SERVICE_LINK = re.compile(r"_SERVICE_(HOST|PORT)|_PORT_\d+_(TCP|UDP)")


class _Layer(NamedTuple):
    values: dict[str, Any]
    shown: Shown


def load(
    model: type[Model],
    names: Iterable[str],
    *,
    flags: dict[str, Any],
    variables: Mapping[str, str],
    environ: Mapping[str, str],
    file: Path | None,
) -> Model:
    """The model that these sources make.

    `names`: fields that a file may set. `variables`: environment variables by field, or by "field.field".
    Raises ConfigError, and as the model does.
    """
    environment = _nested({name: environ[where] for name, where in variables.items() if where in environ})
    layers = [_Layer(flags, as_flag), _Layer(environment, _as_variable(variables))]
    if file is not None:
        layers.append(_Layer(read_file(file, list(names)), as_key(file)))
    return model.model_validate(_merged(layers), context={"shown": _shown(layers)})


def check_variables(environ: Mapping[str, str], prefix: str, known: Iterable[str]) -> None:
    """Raises ConfigError for a variable that begins with `prefix` and that nothing reads."""
    endings = {name.removeprefix(prefix): name for name in known}
    for name in environ:
        ending = name.removeprefix(prefix)
        if name.startswith(prefix) and ending not in endings and not _SERVICE_LINK.search(name):
            near = nearest(ending, endings)
            hint = f"did you mean {endings[near]}?" if near else "unset it"
            raise ConfigError(f"{name} is set, and no setting has that name: {hint}")


def _merged(layers: list[_Layer]) -> dict[str, Any]:
    first, *rest = (layer.values for layer in layers)

    class Merged(BaseSettings):
        model_config = SettingsConfigDict(extra="allow")

        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], init_settings: Any, *_: Any, **__: Any
        ) -> tuple[Any, ...]:
            return (init_settings, *(InitSettingsSource(settings_cls, values) for values in rest))

    return dict(Merged(**first).model_extra or {})


def _nested(values: dict[str, str]) -> dict[str, Any]:
    """{"a.b": x} as {"a": {"b": x}}."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        outer, dot, inner = name.partition(".")
        nested[outer] = {inner: value} if dot else value
    return nested


def read_file(file: Path, names: list[str]) -> dict[str, Any]:
    """The settings in a YAML file, whose top-level names are checked here. Raises ConfigError."""
    import yaml

    try:
        with file.open("rb"):
            values: Any = YamlConfigSettingsSource(BaseSettings, file).yaml_data
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(f"{file}: expected settings by name, as in `port: 30000`") from None
    for name in values:
        if name not in names:
            raise ConfigError(f"{file}: {name}: there is no such setting{did_you_mean(str(name), names)}")
    return dict(values)


def _shown(layers: list[_Layer]) -> Shown:
    """A setting as it was written in the first source that has it."""

    def shown(location: Location, value: Any) -> str:
        layer = next((layer for layer in layers if _has(layer.values, location)), layers[0])
        return layer.shown(location, value)

    return shown


def _has(values: Any, location: Location) -> bool:
    for step in location:
        if not isinstance(values, dict):
            return True
        if step not in values:
            return False
        values = values[step]
    return True


def _as_variable(variables: Mapping[str, str]) -> Shown:
    def shown(location: Location, value: Any) -> str:
        steps = list(map(str, location))
        name = variables.get(".".join(steps)) or variables[steps[0]]
        return name if value is None else f"{name}={value!r}"

    return shown


def as_key(file: Path, *within: str) -> Shown:
    """As in a YAML file, in the section `within`."""

    def shown(location: Location, value: Any) -> str:
        name = ".".join(map(str, (*within, *location)))
        return f"{file}: {name}" if value is None else f"{file}: {name}: {value!r}"

    return shown
