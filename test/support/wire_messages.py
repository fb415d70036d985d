"""Every message of the wire, found by itself: whatever decodes msgpack, and what values its types take."""

import ast
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as types

PACKAGES = ("mempool", "router", "sglang_memserve")
_ROOT = Path(__file__).parents[2]
_LARGEST = 2**64 - 1
# What types do not say, and checks of their own ask for. By the name of a field.
_NAMES = st.text("abcXYZ019._-", min_size=1, max_size=20)
_FIELDS = {
    "control": st.sampled_from(["tcp://127.0.0.1:9", "tcp://[::1]:65535", "tcp://host.name:1"]),
    "data": st.sampled_from(["stream://127.0.0.1:9", "inproc://here"]),
    "endpoint": st.sampled_from(["stream://127.0.0.1:9", "stream://[::1]:65535"]),
    "instance": _NAMES,
    "role": _NAMES,
    "kind": _NAMES,
    "dtype": _NAMES,
    "incarnation": st.integers(1, 2**63 - 1),
    **dict.fromkeys(
        ("page_size", "layers", "heads", "k_plane_bytes", "v_plane_bytes"), st.integers(0, 2**63 - 1)
    ),
}


class WireDecoder(NamedTuple):
    """`decode` takes one frame, and returns one of `messages`."""

    name: str
    decode: Callable[[bytes], Any]
    messages: tuple[type[msgspec.Struct], ...]


def modules_that_decode() -> Iterator[str]:
    """Modules that make a msgpack decoder, or decode msgpack themselves."""
    for package in PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            calls = (
                node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
            )
            if any(ast.unparse(call).endswith(("msgpack.Decoder", "msgpack.decode")) for call in calls):
                yield ".".join(path.relative_to(_ROOT).with_suffix("").parts)


def decoders_of(module_name: str) -> list[WireDecoder]:
    """The public functions of a module that take a frame and return a message."""
    module = importlib.import_module(module_name)
    found = []
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ != module_name or not name.startswith("decode"):
            continue
        hints = typing.get_type_hints(function)
        messages = _structs(hints.pop("return"))
        if messages:
            (taken,) = hints.values()
            found.append(
                WireDecoder(f"{module_name}.{name}", _of_one_frame(module, function, taken), messages)
            )
    return found


def struct_classes(kind: Any) -> set[type]:
    """The message classes that a type has in it, at any depth."""
    found: set[type] = set()
    _collect(types.type_info(kind), found)
    return found


def messages_of(kind: type[msgspec.Struct]) -> st.SearchStrategy[bytes]:
    """Encoded messages of that class, as far as its types say what is valid."""
    return _values(types.type_info(kind)).map(msgspec.msgpack.encode)


def _of_one_frame(module: Any, function: Callable[..., Any], taken: Any) -> Callable[[bytes], Any]:
    if taken is msgspec.Raw:
        return lambda frame: function(msgspec.Raw(frame))
    if typing.get_origin(taken) is list:
        return lambda frame: function([module.TAG, frame])
    return function


def _structs(hint: Any) -> tuple[type[msgspec.Struct], ...]:
    members = typing.get_args(hint) or (hint,)
    return tuple(each for each in members if isinstance(each, type) and issubclass(each, msgspec.Struct))


def _collect(kind: Any, found: set[type]) -> None:
    if isinstance(kind, types.StructType):
        if kind.cls in found:
            return
        found.add(kind.cls)
    for name in ("fields", "types", "item_types"):
        for each in getattr(kind, name, ()):
            _collect(getattr(each, "type", each), found)
    for name in ("item_type", "key_type", "value_type"):
        if (each := getattr(kind, name, None)) is not None:
            _collect(each, found)


def _values(kind: Any) -> st.SearchStrategy[Any]:
    """Plain values that encode to what the type takes."""
    match kind:
        case types.StructType():
            return _struct(kind)
        case types.NamedTupleType():
            return st.tuples(*(_field(each) for each in kind.fields))
        case types.TupleType():
            return st.tuples(*map(_values, kind.item_types))
        case types.ListType() | types.VarTupleType():
            most = min(4, 4 if kind.max_length is None else kind.max_length)
            return st.lists(_values(kind.item_type), min_size=kind.min_length or 0, max_size=most)
        case types.DictType():
            return st.dictionaries(_NAMES, _values(kind.value_type), max_size=3)
        case types.UnionType():
            return st.one_of(*map(_values, kind.types))
        case types.EnumType():
            return st.sampled_from([member.value for member in kind.cls])
        case types.IntType():
            least = kind.ge if kind.ge is not None else (kind.gt + 1 if kind.gt is not None else -(2**63))
            return st.integers(least, _LARGEST if kind.le is None else kind.le)
        case types.FloatType():
            least = kind.ge if kind.ge is not None else kind.gt
            open_below = kind.gt is not None
            return st.floats(least, kind.le, exclude_min=open_below, allow_nan=False, allow_infinity=False)
        case types.StrType():
            return st.text(min_size=kind.min_length or 0, max_size=min(40, kind.max_length or 40))
        case types.BytesType():
            return st.binary(min_size=kind.min_length or 0, max_size=min(40, kind.max_length or 40))
        case types.BoolType():
            return st.booleans()
        case types.NoneType():
            return st.none()
        case types.RawType():
            return anything(st.none() | st.integers(0, 9) | st.text(max_size=3))
    raise NotImplementedError(f"no values for {kind}: add a case")


def _struct(kind: types.StructType) -> st.SearchStrategy[dict[str, Any]]:
    fields = {field.encode_name: _field(field) for field in kind.fields}
    if kind.tag is not None:
        fields[kind.tag_field or "type"] = st.just(kind.tag)
    return st.fixed_dictionaries(fields)


def _field(field: types.Field) -> st.SearchStrategy[Any]:
    plain = isinstance(field.type, types.StrType | types.IntType)
    return _FIELDS[field.name] if plain and field.name in _FIELDS else _values(field.type)


def anything(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """These, in lists and maps."""
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    )
