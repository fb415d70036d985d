"""The access log, and the id of a request."""

import asyncio
import json
import re

import pytest
from yarl import URL

FIELDS = ["request_id", "method", "path", "status", "prefill", "decode"]
FIELDS += ["prompt_tokens", "cached_tokens", "ttft_ms", "total_ms"]
IDS = list(range(1, 201))


@pytest.fixture
def logged(caplog):
    """The fields of each line of the access log."""
    caplog.set_level("INFO", logger="router.access")

    def lines():
        records = [record for record in caplog.records if record.name == "router.access"]
        return [dict(part.split("=", 1) for part in record.getMessage().split(" ")) for record in records]

    return lines


async def post(cluster, body, path="/generate", **headers):
    async with cluster.session.post(cluster.url + path, json=body, headers=headers) as response:
        await response.read()
        return response


def reporting(mock, prompt, cached):
    meta = {"prompt_tokens": prompt, "cached_tokens": cached, "completion_tokens": 3}
    answer = json.dumps({"text": "x", "meta_info": meta}).encode()
    mock.answer = answer
    mock.chunks = [b'data: {"text": "x"}\n\n', b"data: " + answer + b"\n\n", b"data: [DONE]\n\n"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_line_says_where_a_request_went_and_what_was_cached(start, logged, stream):
    cluster = await start(prefill=1, decode=1, policy="prompt_tree")
    reporting(cluster.decode[0], 200, 150)
    await post(cluster, {"input_ids": IDS, "stream": stream}, **{"X-Request-Id": "mine"})
    (line,) = logged()
    assert list(line) == FIELDS
    assert (line["request_id"], line["method"], line["path"], line["status"]) == (
        "mine",
        "POST",
        "/generate",
        "200",
    )
    assert (line["prefill"], line["decode"]) == (cluster.prefill[0].url, cluster.decode[0].url)
    assert (line["prompt_tokens"], line["cached_tokens"]) == ("200", "150")
    assert float(line["total_ms"]) > 0
    assert (0 < float(line["ttft_ms"]) < float(line["total_ms"])) if stream else line["ttft_ms"] == "-"


async def test_without_a_report_the_routers_own_count_is_marked(start, logged):
    cluster = await start(colocated=1, policy="prompt_tree")
    await post(cluster, {"input_ids": IDS})
    await post(cluster, {"text": "no tokenizer"})
    counts = [(line["prompt_tokens"], line["cached_tokens"]) for line in logged()]
    assert counts == [("~200", "~0"), ("-", "-")]


async def test_what_the_router_answers_itself_is_logged_too(start, logged):
    cluster = await start(colocated=1, api_key="k")
    for path in ("/no%20such%0Apath", "/health"):
        async with cluster.session.get(URL(cluster.url + path, encoded=True)) as response:
            assert response.headers["X-Request-Id"]
    missing, health = logged()
    assert (missing["status"], missing["path"]) == ("401", "/no%20such%0Apath")
    assert (health["status"], health["prefill"], health["decode"]) == ("200", "-", "-")


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_client_that_leaves_is_logged_as_499(start, logged, streaming):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold, mock.hold_after = True, 1 if streaming else None
    if streaming:
        async with cluster.session.post(cluster.url + "/generate", json={"stream": True}) as response:
            await response.content.readany()
    else:
        request = asyncio.create_task(post(cluster, {"stream": True}))
        await mock.arrived.wait()
        request.cancel()
    while not logged():
        await asyncio.sleep(0.01)
    (line,) = logged()
    assert (line["status"], line["decode"]) == ("499", mock.url)


async def test_the_last_attempt_is_the_one_that_is_logged(start, logged):
    cluster = await start(colocated=2, retry_initial_backoff_ms=1)
    cluster.colocated[0].refusal = (503, b"full")
    for _ in range(2):
        await post(cluster, {"text": "hi"})
    assert [line["decode"] for line in logged()] == [cluster.colocated[1].url] * 2


async def test_no_line_where_it_is_switched_off(start, logged):
    cluster = await start(colocated=1, access_log=False)
    assert (await post(cluster, {"text": "hi"})).headers["X-Request-Id"]
    assert logged() == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("given", ["abc-123", None, "", "a b", "x" * 129, "é"])
async def test_an_id_is_echoed_or_made_and_sent_to_both_halves(pd, given, stream):
    headers = {} if given is None else {"X-Request-Id": given}
    response = await post(pd, {"text": "hi", "stream": stream}, **headers)
    returned = response.headers["X-Request-Id"]
    if given == "abc-123":
        assert returned == given
    else:
        assert re.fullmatch("[0-9a-f]{32}", returned)
    for mock in (pd.p, pd.d):
        assert mock.seen[0][2].getall("X-Request-Id") == [returned]


async def test_what_all_instances_are_asked_carries_the_id_too(pd):
    response = await post(pd, {}, "/flush_cache")
    for mock in (pd.p, pd.d):
        assert mock.seen[0][2]["X-Request-Id"] == response.headers["X-Request-Id"]


async def test_an_instances_own_id_does_not_replace_the_requests(pd):
    pd.d.refusal = (400, b"{}")
    response = await post(pd, {"text": "hi"}, **{"X-Request-Id": "mine"})
    assert (response.status, response.headers.getall("X-Request-Id")) == (400, ["mine"])


@pytest.mark.parametrize(
    "raw", [b"GET /health HTTP/1.1\r\nHost: x\r\nExpect: tea\r\n\r\n", b"nonsense\r\n\r\n"]
)
async def test_what_is_refused_before_it_is_a_request_is_no_error(start, caplog, raw):
    cluster = await start(colocated=1)
    host, port = cluster.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(raw)
    assert (await reader.readline()).split()[1] in (b"400", b"417")
    writer.close()
    assert "Traceback" not in caplog.text


async def test_a_probes_request_is_not_the_routers_own_answer(pd, logged):
    async with pd.session.get(pd.url + "/health_generate") as response:
        assert response.status == 200
        assert pd.d.seen[0][2]["X-Request-Id"] == response.headers["X-Request-Id"]
    (line,) = logged()
    assert (line["path"], line["prefill"], line["decode"]) == ("/health_generate", "-", "-")
