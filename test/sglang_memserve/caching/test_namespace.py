"""Namespaces by their names in the MemPool."""

from types import SimpleNamespace

import msgspec
import pytest

from sglang_memserve.caching.namespace import Namespace


@pytest.mark.parametrize("namespace", [Namespace(None, None), Namespace("é", "salt")])
def test_a_namespace_is_known_again_by_its_name(namespace):
    assert Namespace.from_name(namespace.name) == namespace


def test_the_plain_namespace_has_a_name_too():
    assert Namespace(None, None).name == "[null,null]"


def test_requests_and_keys_have_a_namespace():
    assert Namespace.of(SimpleNamespace(extra_key="lora", cache_salt="salt")) == ("lora", "salt")


def test_a_namespace_that_is_too_long_has_no_name():
    assert Namespace("x" * 300, None).name is None


@pytest.mark.parametrize("name", ["", "null", "[1,null]", "[null]", "[null,null"])
def test_a_name_that_is_no_namespace_is_refused(name):
    with pytest.raises(msgspec.DecodeError):
        Namespace.from_name(name)


@pytest.mark.parametrize("namespace", [(None, None), ("lora", None), (None, "salt"), ("\u00e9", '"[]\\')])
def test_the_name_of_a_namespace_is_one(namespace):
    assert Namespace.is_name(Namespace(*namespace).name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "null",
        "[null]",
        "[null, null]",
        "[null,null,null]",
        "[1,2]",
        '["\\ud800",null]',
        '["\\u0061",null]',
        "[" * 256,
        '{"extra_key":null,"cache_salt":null}',
    ],
)
def test_what_no_request_can_be_under_is_no_name_of_a_namespace(name):
    assert not Namespace.is_name(name)
