"""How a command finds its router and the key."""

import argparse

import pytest

from sglang_memserve.cli.address import router_of
from sglang_memserve.cluster.errors import UsageError


def args(url=None, api_key=None):
    return argparse.Namespace(url=url, api_key=api_key)


@pytest.mark.parametrize(
    ("given", "environ", "url"),
    [
        (None, {}, "http://127.0.0.1:30000"),
        (None, {"MEMSERVE_URL": ""}, "http://127.0.0.1:30000"),
        (None, {"MEMSERVE_URL": "http://env:1/"}, "http://env:1"),
        ("http://flag:1/", {"MEMSERVE_URL": "http://env:1"}, "http://flag:1"),
    ],
)
def test_a_flag_wins_over_the_environment_over_the_default(given, environ, url):
    assert router_of(args(given), environ) == (url, None)


@pytest.mark.parametrize(
    ("given", "environ", "key"),
    [
        (None, {"MEMSERVE_ROUTER_API_KEY": "router"}, "router"),
        (None, {"MEMSERVE_ROUTER_API_KEY": "router", "MEMSERVE_API_KEY": "mine"}, "mine"),
        ("flag", {"MEMSERVE_API_KEY": "mine"}, "flag"),
    ],
)
def test_the_key_of_the_router_on_this_host_is_found_too(given, environ, key):
    assert router_of(args(api_key=given), environ)[1] == key


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "ftp://x", "http://", "http://x:0", "http://x:99999", ""])
def test_what_is_no_url_is_refused(url):
    with pytest.raises(UsageError, match="--url"):
        router_of(args(url), {})
