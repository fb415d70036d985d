"""Tenants over the router's own socket: who is heard, what instances get, and what comes back."""

import asyncio
import json
from types import SimpleNamespace

import pytest
from router_cluster import start
from router_requests import post
from tenant_files import bearer, entry, salt, tag, write
from waiting import eventually

from router.config.explain import ConfigError
from router.http.endpoint import Access, AnsweredBy
from router.http.endpoints import ENDPOINTS

__all__ = ["start"]

CHAT, SINGLE = "/v1/chat/completions", {"text": "a"}
OTHERS_KV = {
    "/v1/messages", "/api/chat", "/api/generate", "/vertex_generate", "/v1/audio/transcriptions",
    "/v1/embeddings", "/encode", "/classify", "/v1/classify", "/v1/rerank", "/v1/score", "/v1/decisions",
    "/v1/systemone",
}  # fmt: skip


@pytest.fixture
def tenants_of(start, tmp_path):
    """A router of tenants `a` and `b` and an admin; `asked(tenant, body, path)`: status, JSON and headers."""

    async def begin(*entries, prefill=1, decode=1, **more):
        path = tmp_path / "tenants.yaml"
        write(path, *(entries or (entry("a"), entry("b"))))
        settings = {"tenants": str(path), "admin_api_key": "admin", **more}
        cluster = await start(prefill=prefill, decode=decode, **settings)
        for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated):
            mock.refusal = echo
        cluster.path, cluster.decode_mock = path, (cluster.decode or cluster.colocated)[0]

        async def asked(name, body, path="/generate", method="POST"):
            headers = {"Authorization": f"Bearer {name}"} if name == "admin" else bearer(name) if name else {}
            async with cluster.session.request(
                method, cluster.url + path, json=body, headers=headers
            ) as response:
                raw = await response.read()
                parsed = json.loads(raw) if response.content_type == "application/json" and raw else raw
                return SimpleNamespace(status=response.status, body=parsed, raw=raw, headers=response.headers)

        cluster.asked = asked
        return cluster

    return begin


def echo(raw):
    """As SGLang: the answer has the request's name."""
    body = json.loads(raw or b"{}")
    usage = {"prompt_tokens": 1, "completion_tokens": 10, "cached_tokens": 0}
    return 200, json.dumps(
        {"text": "x", "id": body.get("rid"), "meta_info": {"id": body.get("rid"), **usage}}
    ).encode()


async def test_only_keys_of_tenants_and_the_admins_are_heard(tenants_of):
    cluster = await tenants_of()
    assert (await cluster.asked("a", SINGLE)).status == 200
    assert (await cluster.asked("admin", SINGLE)).status == 200
    for name in ("", "c", "A", "a-"):
        refused = await cluster.asked(name, SINGLE)
        assert refused.status == 401
        assert refused.body["error"]["type"] == "authentication_error"
    assert len(cluster.decode_mock.seen) == 2


async def test_routers_of_one_cluster_have_one_secret(start, tmp_path, monkeypatch):
    salts = []
    for number, cluster_key in enumerate(("k" * 32, "k" * 32, "j" * 32)):
        monkeypatch.setenv("MEMSERVE_CLUSTER_KEY", cluster_key)
        path = tmp_path / f"{number}.yaml"
        write(path, entry("a"), secret="")
        cluster = await start(prefill=0, decode=0, colocated=1, tenants=str(path))
        async with cluster.session.post(
            f"{cluster.url}/generate", json=SINGLE, headers=bearer("a")
        ) as response:
            assert response.status == 200
        salts.append(cluster.colocated[0].bodies[0]["cache_salt"])
    assert salts[0] == salts[1] != salts[2]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate", SINGLE | {"cache_salt": "mine"}),
        ("/v1/completions", {"prompt": "a", "cache_salt": "mine"}),
        (CHAT, {"messages": [], "cache_salt": "mine"}),
        ("/invocations", {"messages": [], "cache_salt": "mine"}),
        ("/v1/responses", {"input": "a", "cache_salt": "mine"}),
    ],
)
@pytest.mark.parametrize("colocated", [False, True])
async def test_both_halves_get_the_salt_and_not_the_key(tenants_of, path, body, colocated):
    cluster = await tenants_of(**({"prefill": 0, "decode": 0, "colocated": 1} if colocated else {}))
    assert (await cluster.asked("a", body, path)).status == 200
    for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated):
        ((_, _, headers),), (sent,) = mock.seen, mock.bodies
        assert sent["cache_salt"] == salt("a", "mine")
        assert sent["rid"].startswith((tag("a"), "resp_" + tag("a")))
        assert "Authorization" not in headers


async def test_what_the_admin_sends_stays_as_it_is(tenants_of):
    cluster = await tenants_of(prefill=0, decode=0, colocated=1)
    assert (await cluster.asked("admin", SINGLE | {"cache_salt": "s", "rid": "r"})).body["id"] == "r"
    assert cluster.decode_mock.bodies == [SINGLE | {"cache_salt": "s", "rid": "r"}]


async def test_the_answer_has_the_clients_own_name(tenants_of):
    cluster = await tenants_of()
    answer = await cluster.asked("a", SINGLE | {"rid": "mine"})
    assert answer.body["meta_info"]["id"] == answer.body["id"] == "mine"
    answer = await cluster.asked("a", {"text": ["x", "y"], "rid": ["p", "q"]})
    assert answer.body["id"] == ["p", "q"]
    made = await cluster.asked("a", SINGLE)
    assert len(made.body["id"]) == 32
    assert tag("a").encode() not in made.raw


async def test_a_streams_events_have_it_too(tenants_of):
    cluster = await tenants_of()
    mock, name = cluster.decode_mock, tag("a") + "mine"
    for each in (*cluster.prefill, mock):
        each.refusal = None
        each.chunks = [
            f'data: {{"id": "{name[:20]}'.encode(),
            f'{name[20:]}"}}\n\n'.encode(),
            b"data: [DONE]\n\n",
        ]
    answer = await cluster.asked("a", SINGLE | {"rid": "mine", "stream": True})
    assert answer.raw == b'data: {"id": "mine"}\n\ndata: [DONE]\n\n'


async def test_a_refusal_quotes_the_clients_own(tenants_of):
    cluster = await tenants_of()
    for mock in (*cluster.prefill, *cluster.decode):
        mock.refusal = lambda raw: (400, json.dumps({"message": f"no: {json.loads(raw)['rid']}"}).encode())
    refused = await cluster.asked("a", SINGLE | {"rid": "mine"})
    assert (refused.status, refused.body) == (400, {"message": "no: mine"})


async def test_two_tenants_may_use_one_name_at_once(tenants_of):
    cluster = await tenants_of()
    mock = cluster.decode_mock
    mock.hold = True
    first = asyncio.create_task(cluster.asked("a", SINGLE | {"rid": "r"}))
    await mock.arrived.wait()
    again = await cluster.asked("a", SINGLE | {"rid": "r"})
    assert (again.status, again.body["error"]["message"]) == (400, "Duplicate request ID detected: r")
    second = asyncio.create_task(cluster.asked("b", SINGLE | {"rid": "r"}))
    await eventually(lambda: len(mock.seen) == 2)
    mock.release.set()
    assert [(await task).status for task in (first, second)] == [200, 200]


async def test_abort_all_ends_a_tenants_own(tenants_of):
    cluster = await tenants_of()
    mock = cluster.decode_mock
    mock.hold = True
    requests = [
        asyncio.create_task(cluster.asked("a", SINGLE | {"rid": "r"})),
        asyncio.create_task(cluster.asked("a", {"text": ["x", "y"], "rid": "s"})),
        asyncio.create_task(cluster.asked("b", SINGLE | {"rid": "r"})),
    ]
    await eventually(lambda: len(mock.seen) == 3)
    assert (await cluster.asked("a", {"abort_all": True}, "/abort_request")).status == 200
    aborted = [body for body, _ in mock.aborts]
    own = {tag("a") + name for name in ("r", "s_0", "s_1")}
    assert {body["rid"] for body in aborted} == own
    assert not any(body.get("abort_all") for body in aborted)
    mock.release.set()
    await asyncio.gather(*requests)
    mock.aborts.clear()
    assert (await cluster.asked("a", {"abort_all": True}, "/abort_request")).status == 200
    assert mock.aborts == []


async def test_stored_answers_are_found_by_the_tenants_name(tenants_of):
    cluster = await tenants_of(prefill=0, decode=0, colocated=1)
    assert (await cluster.asked("a", None, "/v1/responses/resp_1", "GET")).status == 200
    assert (await cluster.asked("b", None, "/v1/responses/resp_1/cancel?x=1")).status == 200
    targets = [target for target, _, _ in cluster.decode_mock.seen]
    assert targets == [f"/v1/responses/resp_{tag('a')}1", f"/v1/responses/resp_{tag('b')}1/cancel?x=1"]


def test_each_endpoint_either_takes_a_salt_or_is_closed():
    """A new endpoint that generates must be looked at before tenants may use it."""
    from router.tenants.requests import SALTED_PATHS

    generating = {
        each.path for each in ENDPOINTS if each.answered_by in (AnsweredBy.PAIR, AnsweredBy.COLOCATED)
    }
    assert generating - SALTED_PATHS == OTHERS_KV
    own = {each.path for each in ENDPOINTS if each.access is Access.TENANT}
    assert own == {"/explain"}


async def test_what_a_tenant_may_not_ask_gets_403(tenants_of):
    cluster = await tenants_of(colocated=1)
    refused = [each for each in ENDPOINTS if each.access is Access.ADMIN or each.path in OTHERS_KV]
    refused += [each for each in ENDPOINTS if each.path == "/metrics"]
    assert len(refused) > 20
    for each in refused:
        for method in each.methods:
            answer = await cluster.asked("a", {}, each.canonical.replace("{worker}", "x"), method)
            assert answer.status == 403, each
            assert answer.body["error"]["type"] == "forbidden"
    for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated):
        assert mock.seen == mock.aborts == []


async def test_requests_in_flight_are_limited_by_tenant(tenants_of):
    cluster = await tenants_of(entry("a", requests_in_flight=1), entry("b"))
    mock = cluster.decode_mock
    mock.hold = True
    running = asyncio.create_task(cluster.asked("a", SINGLE | {"rid": "r"}))
    await mock.arrived.wait()
    refused = await cluster.asked("a", {"messages": []}, CHAT)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    error = refused.body["error"]
    assert (error["type"], error["code"]) == ("rate_limit_exceeded", 429)
    assert "tenant a has 1 requests in flight" in error["message"]
    # Aborts are not counted, and nobody else is held up.
    assert (await cluster.asked("a", {"rid": "r"}, "/abort_request")).status == 200
    other = asyncio.create_task(cluster.asked("b", SINGLE))
    await eventually(lambda: len(mock.seen) == 2)
    mock.release.set()
    assert [(await task).status for task in (running, other)] == [200, 200]
    assert (await cluster.asked("a", SINGLE)).status == 200


async def test_a_client_that_leaves_is_in_flight_no_more(tenants_of):
    cluster = await tenants_of(entry("a", requests_in_flight=1))
    mock = cluster.decode_mock
    mock.hold = True
    running = asyncio.create_task(cluster.asked("a", SINGLE))
    await mock.arrived.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    mock.hold = False

    async def admitted():
        return (await cluster.asked("a", SINGLE)).status == 200

    async with asyncio.timeout(30):
        while not await admitted():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_a_minute_are_limited_by_tenant(tenants_of, stream):
    cluster = await tenants_of(entry("a", tokens_per_minute=40), entry("b"))
    for mock in (*cluster.prefill, *cluster.decode):
        mock.chunks = [b'data: {"meta_info": {"completion_tokens": 10}}\n\n', b"data: [DONE]\n\n"]
        mock.refusal = None if stream else echo
    prompt = {"input_ids": [1] * 20, "stream": stream}
    assert [(await cluster.asked("a", prompt)).status for _ in range(3)][0::2] == [200, 429]
    refused = await cluster.asked("a", prompt)
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert "40 tokens a minute" in refused.body["error"]["message"]
    assert (await cluster.asked("b", prompt)).status == 200


async def test_long_prompts_are_refused_by_tenant(tenants_of):
    cluster = await tenants_of(entry("a", prompt_tokens=8), entry("b"), policy="prompt_tree")
    assert (await cluster.asked("a", {"input_ids": [1] * 8})).status == 200
    refused = await cluster.asked("a", {"input_ids": [1] * 9})
    assert refused.status == 400
    assert "9 tokens: tenant a may send 8" in refused.body["error"]["message"]
    assert (await cluster.asked("a", {"input_ids": [1] * 9}, "/explain")).status == 400
    assert (await cluster.asked("b", {"input_ids": [1] * 9})).status == 200


async def test_the_admin_sees_what_each_tenant_uses(tenants_of):
    cluster = await tenants_of(entry("a", prompt_tokens=8), entry("b"))
    assert (await cluster.asked("a", {"text": "a"})).status == 200
    assert (await cluster.asked("a", {"text": "a" * 100})).status == 400
    page = (await cluster.asked("admin", None, "/metrics", "GET")).raw.decode()
    name = "memserve:router_tenant_"
    tokens = {line.split()[0]: float(line.split()[1]) for line in page.splitlines() if line.startswith(name)}
    assert tokens[name + 'tokens_total{tenant="a"}'] > 10
    assert tokens[name + 'tokens_total{tenant="b"}'] == tokens[name + 'in_flight{tenant="a"}'] == 0
    assert tokens[name + 'refusals_total{limit="prompt_tokens",tenant="a"}'] == 1


async def test_a_wrong_file_keeps_the_router_from_starting(start, tmp_path):
    path = write(tmp_path / "t.yaml", entry("a", prompt_tokens=0))
    with pytest.raises(ConfigError, match=r"t\.yaml: tenants\.0\.prompt_tokens: 0"):
        await start(colocated=1, tenants=path)


async def test_two_routers_of_one_file_share_what_is_cached(start, tmp_path):
    path = write(tmp_path / "t.yaml", entry("a"))
    seen = []
    for _ in range(2):
        cluster = await start(colocated=1, tenants=path)
        assert (await post(cluster, SINGLE, **bearer("a")))[0] == 200
        (sent,), ((_, _, headers),) = cluster.colocated[0].bodies, cluster.colocated[0].seen
        # No key of a tenant reaches an instance, even where the router has no other key.
        assert "Authorization" not in headers
        seen.append((sent["cache_salt"], sent["rid"][:25]))
    assert seen[0] == seen[1]


async def test_without_tenants_nothing_is_rewritten(start):
    cluster = await start(colocated=1, api_key="k")
    body = SINGLE | {"cache_salt": "s", "rid": "r"}
    assert (await post(cluster, body, Authorization="Bearer k"))[0] == 200
    assert cluster.colocated[0].bodies == [body]
