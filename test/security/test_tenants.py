"""One tenant attacks another: what that has cached, asks and runs is not learned, reached or ended."""

import asyncio
import json
from itertools import product

import pytest
from router_requests import post
from tenant_files import bearer, entry, salt, tag, write
from waiting import eventually

PROMPT = list(range(1, 513))
NAMES = ["", "x", "\0", salt("a"), salt("a", "k"), f"x\0{salt('a')}", f"{salt('a')}\0", f"\0{salt('a')}\0"]


@pytest.fixture
def ab(start, tmp_path):
    """A router of tenants a and b that sends each prompt to where it is cached, as answers tell it."""

    async def begin(**settings):
        path = write(tmp_path / "tenants.yaml", entry("a"), entry("b"))
        given = {"policy": "prompt_tree", "tree_update": "response", "admin_api_key": "admin"}
        cluster = await start(**({"prefill": 1, "decode": 1, "tenants": path} | given | settings))
        for mock in (*cluster.prefill, *cluster.decode, *cluster.colocated):
            usage = {"prompt_tokens": len(PROMPT), "cached_tokens": 0, "completion_tokens": 1}
            mock.answer = json.dumps({"text": "x", "meta_info": usage}).encode()
        return cluster

    return begin


async def asked(cluster, name, body, path="/generate"):
    status, raw = await post(cluster, body, path, **bearer(name))
    return status, json.loads(raw) if raw else None


async def explained(cluster, name, body):
    status, answer = await asked(cluster, name, body, "/explain")
    assert status == 200, answer
    return answer


async def until_cached(cluster, body):
    """Tenant a asks this; returns once the router takes it to be cached."""
    assert (await asked(cluster, "a", body))[0] == 200
    async with asyncio.timeout(30):
        while not (await explained(cluster, "a", body))["cached_tokens"]:
            await asyncio.sleep(0.01)


async def test_a_prompt_that_another_has_cached_is_new_to_a_tenant(ab):
    cluster = await ab()
    before = await explained(cluster, "b", {"input_ids": PROMPT})
    await until_cached(cluster, {"input_ids": PROMPT})
    assert await explained(cluster, "b", {"input_ids": PROMPT}) == before
    assert before["cached_tokens"] == 0
    # The router knows of it by the tenant who asked, and the admin by nobody's salt.
    status, raw = await post(cluster, {"input_ids": PROMPT}, "/explain", Authorization="Bearer admin")
    assert status == 200
    assert {each["cached_tokens"] for each in json.loads(raw)["candidates"]} == {0}
    a, b = cluster.decode[0].bodies[0], None
    await asked(cluster, "b", {"input_ids": PROMPT})
    b = cluster.decode[0].bodies[-1]
    assert a["cache_salt"] != b["cache_salt"]


async def test_halving_recovers_nothing_in_21_questions(ab):
    cluster = await ab()
    await until_cached(cluster, {"input_ids": PROMPT})
    low, high = 0, len(PROMPT)
    for _ in range(21):
        middle = (low + high + 1) // 2
        # Had the other's prefix of this length been cached, so many tokens would be.
        answer = await explained(cluster, "b", {"input_ids": [*PROMPT[:middle], *PROMPT]})
        assert set(answer) == {"path", "prompt_tokens", "tokenised", "cached_tokens"}
        low, high = (middle, high) if answer["cached_tokens"] >= middle else (low, middle - 1)
        high = max(low, high)
    assert low == 0
    assert (await explained(cluster, "a", {"input_ids": PROMPT}))["cached_tokens"] > 500


async def test_no_name_reaches_anothers_namespace(ab):
    cluster = await ab(prefill=0, decode=0, colocated=1)
    fields = {"input_ids": PROMPT, "extra_key": "e", "cache_salt": "k"}
    await until_cached(cluster, {"input_ids": PROMPT})
    await until_cached(cluster, fields)
    for extra, own, adapter in product(["e", *NAMES], NAMES, ["", salt("a"), "x"]):
        forged = {"input_ids": PROMPT, "extra_key": extra, "cache_salt": own, "lora_path": adapter}
        if "\0" in extra:
            # It separates the names of a namespace, so none has it.
            assert (await asked(cluster, "b", forged, "/explain"))[0] == 400
        else:
            assert (await explained(cluster, "b", forged))["cached_tokens"] == 0, forged
    salts = {salt("a"), salt("a", "k")}
    for own in (*NAMES, [salt("a")], None):
        await asked(cluster, "b", {"input_ids": PROMPT, "cache_salt": own})
    sent = [body["cache_salt"] for body in cluster.colocated[0].bodies[2:]]
    assert sent
    assert salts.isdisjoint(salt for each in sent for salt in ([each] if isinstance(each, str) else each))


@pytest.mark.parametrize(
    "path",
    [
        "/decisions", "/v1/loads", "/v1/loads?include=all", "/metrics", "/server_info", "/get_server_info",
        "/workers", "/list_workers", "/workers/x", "/flush_cache",
    ],
)  # fmt: skip
async def test_what_adds_up_all_tenants_is_for_the_admin(ab, path):
    cluster = await ab()
    await until_cached(cluster, {"input_ids": PROMPT})
    url = cluster.url + path
    for headers, wanted in ((bearer("b"), 403), ({}, 401), ({"Authorization": "Bearer x"}, 401)):
        async with cluster.session.get(url, headers=headers) as response:
            assert response.status == wanted
            answer = await response.read()
        assert set(json.loads(answer)) == {"error"}
        assert tag("a").encode() not in answer


async def test_no_abort_reaches_another(ab):
    cluster = await ab()
    mock, full = cluster.decode[0], tag("a") + "mine"
    mock.hold = True
    victim = asyncio.create_task(asked(cluster, "a", {"input_ids": PROMPT, "rid": "mine"}))
    await mock.arrived.wait()
    aborts = [
        {"rid": rid}
        for rid in ("mine", full, tag("a"), tag("a")[:3], "m", "", "resp_", None, [full], ["mine"])
    ]
    aborts += [{"abort_all": True}, {"abort_all": True, "rid": full}, {"rid": {"x": 1}}, {}, []]
    for abort in aborts:
        status, _ = await asked(cluster, "b", abort, "/abort_request")
        assert status in (200, 400)
    for raw in (b"", b"{", b"\xff", b'{"rid": "x", "rid": "%s"}' % full.encode()):
        async with cluster.session.post(
            cluster.url + "/abort_request", data=raw, headers=bearer("b")
        ) as response:
            assert response.status in (200, 400)
    for instance in (*cluster.prefill, mock):
        for body, _ in instance.aborts:
            # SGLang takes a name for all that begin with it.
            assert body == {"rid": body["rid"]}
            assert body["rid"].removeprefix("resp_").startswith(tag("b"))
            assert not full.startswith(body["rid"])
    # Nor does any keep the router from trying the victim's request again.
    mock.refusal = (503, b"{}")
    mock.release.set()
    await eventually(lambda: len(mock.seen) >= 2)
    mock.refusal = None
    assert (await victim)[0] == 200


async def test_no_name_of_a_request_meets_anothers(ab):
    cluster = await ab()
    mock, full = cluster.decode[0], tag("a") + "mine"
    mock.hold = True
    victim = asyncio.create_task(asked(cluster, "a", {"input_ids": PROMPT, "rid": "mine"}))
    await mock.arrived.wait()
    forged = [{"rid": rid} for rid in ("mine", full, [full], ["mine"])]
    others = [
        asyncio.create_task(asked(cluster, "b", {"input_ids": [PROMPT], **fields}))
        if isinstance(fields["rid"], list)
        else asyncio.create_task(asked(cluster, "b", {"input_ids": PROMPT, **fields}))
        for fields in forged[:2]
    ]
    await eventually(lambda: len(mock.seen) == 3)
    assert [body["rid"] for body in mock.bodies[1:]] == [tag("b") + "mine", tag("b") + full]
    mock.release.set()
    assert {(await task)[0] for task in (victim, *others)} == {200}
    for fields in forged[2:]:
        assert (await asked(cluster, "b", {"input_ids": [PROMPT], **fields}))[0] == 200
    assert all(tag("b") in str(body["rid"]) for body in mock.bodies[1:])


async def test_no_header_forges_a_name_or_a_tenant(ab):
    cluster = await ab()
    forged = {
        "X-Override-Rid": tag("a") + "mine", "X-Override-Bootstrap-Room": "1", "X-Api-Key": "key-a",
        "X-Tenant": "a", "Cookie": "key-a",
    }  # fmt: skip
    assert (await post(cluster, {"input_ids": PROMPT}, **bearer("b"), **forged))[0] == 200
    ((_, raw, headers),) = cluster.decode[0].seen
    assert not set(map(str.lower, forged)) & set(map(str.lower, headers))
    assert json.loads(raw)["cache_salt"] == salt("b")
    for scheme in ("Basic", "bearer key-b, Bearer", "", "Bearer Bearer"):
        status, _ = await post(cluster, {"input_ids": PROMPT}, Authorization=f"{scheme} key-a")
        assert status == 401


async def test_stored_answers_of_another_are_not_found(ab):
    cluster = await ab(prefill=0, decode=0, colocated=1)
    mock, full = cluster.colocated[0], f"resp_{tag('a')}1"
    for name in ("resp_1", full, f"{tag('a')}1", f"%2e%2e%2f{full}", f"x%2f..%2f{full}"):
        for method, path in (("GET", f"/v1/responses/{name}"), ("POST", f"/v1/responses/{name}/cancel")):
            async with cluster.session.request(method, cluster.url + path, headers=bearer("b")) as response:
                assert response.status in (200, 400, 404)
    targets = [target for target, _, _ in mock.seen]
    assert targets
    assert not any(target.startswith(f"/v1/responses/{full}") for target in targets)
    assert all(tag("b") in target for target in targets)
    await asked(cluster, "b", {"input": "x", "previous_response_id": full}, "/v1/responses")
    assert json.loads(mock.seen[-1][1])["previous_response_id"] == f"resp_{tag('b')}{tag('a')}1"


async def test_a_tenant_cannot_add_a_worker_that_hears_others(ab):
    cluster = await ab()
    for path, body in (
        ("/workers", {"url": "http://127.0.0.1:9"}),
        ("/add_worker?url=http://127.0.0.1:9", {}),
        ("/remove_worker?url=" + cluster.decode[0].url, {}),
    ):
        assert (await asked(cluster, "b", body, path))[0] == 403
    assert (await asked(cluster, "a", {"input_ids": PROMPT}))[0] == 200
