"""What the router writes into a request is what an instance takes for a hint."""

from types import SimpleNamespace

import pytest
from sglang.srt.managers.kv_hints import decode_kv_hints_envelope

from router.cost.estimate import Fetch
from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo
from router.scheduling.hints import hint_fields
from sglang_memserve.caching.fetch_hint import FetchHint, fetch_hint_of


@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_an_instance_understands_the_routers_hint(path):
    source, fetcher = Instance("http://d:1", Role.DECODE), Instance("http://p:1", Role.PREFILL)
    source.learn(ServerInfo(instance="10.0.0.2:30002"))
    said = hint_fields({}, path, Fetch(source, 512, 60_000.0), fetcher)
    envelope = said.get("kv_hints")
    request = SimpleNamespace(
        kv_hints=envelope and decode_kv_hints_envelope(envelope),
        sampling_params=SimpleNamespace(custom_params=said.get("custom_params")),
    )
    assert fetch_hint_of(request) == FetchHint("10.0.0.2:30002", 60_000.0, "prefill", 512)
