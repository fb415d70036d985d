"""A path reaches an instance as the list of endpoints spells it, or not at all."""

import pytest
from raw_http import assert_refused, exchange, request
from router_requests import post

KEYS = [{}, {"api_key": "k"}, {"worker_api_key": "w"}, {"api_key": "k", "worker_api_key": "w"}]
CLIMBING = [
    "/v1/models/../../server_info",
    "/v1/models/./x",
    "/v1/models/..",
    "/v1/models/x/..",
    "/v1/models/x/../../../flush_cache",
    "/v1/models/%2e%2e/%2e%2e/server_info",
    "/v1/models/.%2e/%2E./server_info",
    "/v1/models/..%2f..%2fserver_info",
    "/v1/models/%2e%2e%2f%2e%2e%2fserver_info",
    "/v1/models/%252e%252e/%252e%252e/server_info",
    "/v1/models/%25252e%25252e%25252fserver_info",
    "/v1/models/x%252f..%252f..%252fserver_info",
    "/v1/models/..\\..\\server_info",
    "/v1/models/..%5c..%5cserver_info",
    "/v1/models//..//../server_info",
    "/v1/models/" + "%25" + 5000 * "25" + "2e",
    "/v1/responses/..",
    "/v1/responses/.",
    "/v1/responses/%2e%2e",
    "/v1/responses/..%2f..%2fflush_cache",
    "/v1/responses/x%2f..%2f..%2f..%2fserver_info",
    "/v1/responses/x%2fcancel",
    "http://evil/v1/models/../../server_info",
    "http://evil/v1/models/%2e%2e/%2e%2e/server_info",
]
UNKNOWN = [
    "//server_info", "/./server_info", "/x/../server_info", "/v1/../flush_cache", "/%2e/generate",
    "//generate", "/generate/", "/generate%2f", "/generate/..", "/v1//models", "/v1%2fmodels", "/generate;x",
    "/release_memory_occupation", "/GENERATE", "/generate%00", "/generate%0a", "/v1/models", b"/v1/\xff",
]  # fmt: skip


def instances(cluster):
    return [*cluster.prefill, *cluster.decode, *cluster.colocated]


@pytest.mark.parametrize("keys", KEYS)
async def test_a_path_with_dots_reaches_nobody(start, keys):
    cluster = await start(prefill=1, decode=1, colocated=1, **keys)
    asked = [mock.info_requests for mock in instances(cluster)]
    for path in CLIMBING:
        for method in ("GET", "OPTIONS"):
            assert_refused(await exchange(cluster, request(method, path, Authorization="Bearer k")))
    posted = "/v1/responses/..%2f..%2fflush_cache%3f/cancel"
    assert_refused(await exchange(cluster, request("POST", posted, Authorization="Bearer k")))
    assert [mock.info_requests for mock in instances(cluster)] == asked
    assert [mock.seen for mock in instances(cluster)] == [[], [], []]


@pytest.mark.parametrize("keys", KEYS[:2])
async def test_a_path_that_is_not_listed_reaches_nobody(start, keys):
    cluster = await start(colocated=1, **keys)
    for path in UNKNOWN:
        assert_refused(await exchange(cluster, request("DELETE", path, Authorization="Bearer k")))
        if path != "/v1/models":
            assert_refused(await exchange(cluster, request("OPTIONS", path)))
            assert_refused(await exchange(cluster, request("GET", path, Authorization="Bearer k")))
    assert_refused(await exchange(cluster, request("OPTIONS", "*")))
    assert_refused(await exchange(cluster, request("CONNECT", "evil:80", Authorization="Bearer k")))
    assert cluster.colocated[0].seen == []


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/mod%65ls", "/v1/models"),
        ("http://evil/v1/models?x=1", "/v1/models?x=1"),
        ("/v1/models?x=../../server_info", "/v1/models?x=../../server_info"),
        ("/v1/models/org/model", "/v1/models/org/model"),
        ("/v1/models/org%2Fmodel", "/v1/models/org/model"),
        ("/v1/models//srv/models/m", "/v1/models/%2Fsrv/models/m"),
        ("/v1/models/%2Fsrv%2Fm", "/v1/models/%2Fsrv/m"),
        ("/v1/models/m-1.5:adapter", "/v1/models/m-1.5:adapter"),
        ("/v1/models/..m/m..", "/v1/models/..m/m.."),
        ("/v1/models/a%20b%3Fx%23y", "/v1/models/a%20b%3Fx%23y"),
        ("/v1/models/m%c3%b6?x=%c3%b6", "/v1/models/m%C3%B6?x=%C3%B6"),
    ],
)
async def test_a_name_reaches_an_instance_as_the_list_spells_it(start, sent, got):
    cluster = await start(colocated=1)
    lines = []
    mock = cluster.colocated[0]
    mock.refusal = lambda raw: (200, b"{}")
    mock.on_target = lines.append
    status, _, _ = await exchange(cluster, request("GET", sent))
    assert (status, lines) == (200, [got])


async def test_a_path_is_routed_by_what_it_decodes_to(start):
    cluster = await start(prefill=1, decode=1)
    assert (await post(cluster, {"text": "a"}))[0] == 200
    body = b'{"text": "a"}'
    assert (await exchange(cluster, request("POST", "/gener%61te?a=b", body)))[0] == 200
    for mock in instances(cluster):
        assert [seen[0] for seen in mock.seen] == ["/generate", "/generate?a=b"]
        assert all("bootstrap_room" in sent for sent in mock.bodies)


async def test_the_key_is_asked_for_by_the_endpoint_not_by_the_spelling(start):
    cluster = await start(colocated=1, api_key="k")
    for path in ("/workers", "/work%65rs", "http://x/workers", "/health/../workers", "/metrics%2f../workers"):
        assert_refused(await exchange(cluster, request("GET", path)), 401)
    assert (await exchange(cluster, request("GET", "/h%65alth")))[0] == 200
