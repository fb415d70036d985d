"""How a command finds its router and the key."""

import argparse

import pytest
from certificates import Authority

from router.config.explain import ConfigError
from sglang_memserve.cli.address import router_of
from sglang_memserve.cluster.errors import UsageError


def args(url=None, api_key=None, ca_cert_paths=None):
    return argparse.Namespace(url=url, api_key=api_key, ca_cert_paths=ca_cert_paths)


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
    assert router_of(args(given), environ) == (url, None, None)


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


ADMIN = {"MEMSERVE_ADMIN_API_KEY": "admin", "MEMSERVE_API_KEY": "client"}


@pytest.mark.parametrize(
    ("environ", "administers", "key"),
    [
        (ADMIN, True, "admin"),
        (ADMIN, False, "client"),
        ({"MEMSERVE_ROUTER_ADMIN_API_KEY": "admin"}, True, "admin"),
        ({"MEMSERVE_API_KEY": "client"}, True, "client"),
        ({"MEMSERVE_ADMIN_API_KEY": "admin"}, False, None),
    ],
)
def test_who_administers_presents_the_admin_key(environ, administers, key):
    assert router_of(args(), environ, administers=administers).api_key == key


def test_a_certificate_authority_is_named_by_flag_or_environment(tmp_path):
    authority = Authority(tmp_path, "ours")
    flag = router_of(args(ca_cert_paths=[authority.trust]), {})
    variable = router_of(args(), {"MEMSERVE_CA_CERT_PATHS": f"{authority.trust}, {authority.trust}"})
    for address in (flag, variable):
        assert len(address.tls.context.get_ca_certs()) == 1
    with pytest.raises(ConfigError, match="--ca-cert-paths /no/such"):
        router_of(args(ca_cert_paths=["/no/such.pem"]), {})
