"""Commands before a router that speaks TLS and keeps its administrators apart."""

import argparse

import pytest
from certificates import Authority
from router_cluster import start

from router.protocol.tls import ClientTls
from sglang_memserve.cli.address import RouterAddress
from sglang_memserve.cli.chat import Chat
from sglang_memserve.cli.doctor import diagnose
from sglang_memserve.cli.explain import explain
from sglang_memserve.cli.status import collect
from sglang_memserve.cluster.errors import AdminKeyNeeded, ClusterError

__all__ = ["start"]

CHAT = argparse.Namespace(system=None, max_tokens=4, temperature=0.0)


@pytest.fixture
async def secured(start, tmp_path):
    """The URL of such a router, and what believes it."""
    authority = Authority(tmp_path, "ours")
    cert, key = authority.files("router")
    cluster = await start(
        colocated=1, tls_cert_path=cert, tls_key_path=key, api_key="client-key", admin_api_key="admin-key"
    )
    return cluster.url, ClientTls((authority.trust,))


async def test_an_administrator_sees_and_asks(secured):
    url, tls = secured
    (row,) = await collect(url, "admin-key", tls)
    assert row["healthy"]
    assert (await explain(url, {"text": "a"}, "admin-key", tls))["candidates"]
    findings = {finding.check: finding for finding in await diagnose(url, "admin-key", tls)}
    assert "answers at" in findings["router"].says


async def test_a_clients_key_is_said_to_be_too_little(secured):
    url, tls = secured
    for asked in (collect(url, "client-key", tls), explain(url, {"text": "a"}, "client-key", tls)):
        with pytest.raises(AdminKeyNeeded, match="MEMSERVE_ADMIN_API_KEY"):
            await asked


async def test_a_router_that_nobody_vouches_for_is_not_asked(secured):
    url, _ = secured
    with pytest.raises(ClusterError, match="certificate verify failed"):
        await collect(url, "admin-key")


async def test_a_client_begins_a_chat_with_its_own_key(secured):
    url, tls = secured
    await (await Chat.begin(RouterAddress(url, "client-key", tls), CHAT)).close()
    with pytest.raises(ClusterError, match="401"):
        await Chat.begin(RouterAddress(url, "wrong", tls), CHAT)
