"""What a running router tells Prometheus."""

import asyncio
import json
import time
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from router_requests import post

from router.http.server import CannotListen
from router.instances.instance import Instance, Role
from router.metrics.distribution import Distribution
from router.metrics.predictions import Predictions
from router.policies import Route
from router.prefix_tree import Cached
from router.protocol.usage import ReportedUsage
from router.scheduling.decisions import Decision, Decisions

IDS = list(range(1, 201))
TREE = {"policy": "prompt_tree"}


def numbers(page):
    samples = (sample for family in text_string_to_metric_families(page) for sample in family.samples)
    return {
        (sample.name.removeprefix("memserve:router_"), *sorted(sample.labels.items())): sample.value
        for sample in samples
    }


async def scrape(cluster, url=None, **headers):
    async with cluster.session.get((url or cluster.url) + "/metrics", headers=headers) as response:
        assert response.status == 200
        return numbers(await response.text())


def cached(mocks, tokens, prompt=200):
    for mock in mocks:
        meta = {"prompt_tokens": prompt, "cached_tokens": tokens}
        mock.answer = json.dumps({"text": "x", "meta_info": meta}).encode()


def labels(**given):
    return tuple(sorted(given.items()))


async def test_requests_by_path_status_and_role(start):
    cluster = await start(prefill=1, decode=1)
    await post(cluster, {"text": "hi"})
    await post(cluster, {"text": "hi", "stream": True})
    cluster.decode[0].refusal = (400, b"{}")
    await post(cluster, {"text": "hi"})
    await post(cluster, {}, "/v1/embeddings")
    await post(cluster, {}, "/no/such/path")
    async with cluster.session.get(cluster.url + "/v1/models/m") as response:
        await response.read()
    page = await scrape(cluster)
    requests = {key[1:]: value for key, value in page.items() if key[0] == "requests_total"}
    assert requests == {
        labels(path="/generate", status="200", role="decode"): 2,
        labels(path="/generate", status="400", role="decode"): 1,
        labels(path="/v1/embeddings", status="400", role=""): 1,
        labels(path="other", status="404", role=""): 1,
        labels(path="/v1/models/{model}", status="400", role="decode"): 1,
    }
    # A refusal comes at once, and would flatter.
    assert page["first_byte_seconds_count", *labels(path="/generate", role="decode")] == 2
    assert ("first_byte_seconds_count", *labels(path="/v1/models/{model}", role="decode")) not in page


async def test_a_client_that_left_is_counted_once(start):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold = True
    task = asyncio.create_task(post(cluster, {"text": "hi"}))
    await mock.arrived.wait()
    left = ("requests_total", *labels(path="/generate", status="499", role="colocated"))
    assert left not in await scrape(cluster)
    task.cancel()
    while (page := await scrape(cluster)).get(left) is None:
        await asyncio.sleep(0.01)
    assert page[left] == 1
    # The stream was answered with 200; that it was left later is no second request.
    mock.hold_after = 1
    async with cluster.session.post(cluster.url + "/generate", json={"stream": True}) as response:
        await response.content.readany()
    while (await scrape(cluster))["instance_in_flight", *labels(instance=mock.url, role="colocated")]:
        await asyncio.sleep(0.01)
    assert (await scrape(cluster))[left] == 1


async def test_hit_rate_available_chosen_and_achieved(start):
    cluster = await start(colocated=2, **TREE)
    cached(cluster.colocated, 0)
    await post(cluster, {"input_ids": IDS})
    cached(cluster.colocated, 150)
    await post(cluster, {"input_ids": IDS})
    page = await scrape(cluster)
    assert page["prompt_tokens_total",] == 400
    assert page["cached_tokens_available_total",] == page["cached_tokens_chosen_total",] == 199
    assert page["cached_tokens_achieved_total",] == 150
    assert page["cached_predictions_total", ("outcome", "as_predicted")] == 1
    assert page["cached_predictions_total", ("outcome", "less_in_part")] == 1
    # 49 tokens too many, and 0.
    assert page["cached_tokens_error_bucket", ("le", "15.0")] == 1
    assert page["cached_tokens_error_bucket", ("le", "127.0")] == 2
    assert page["decision_seconds_count",] == 2
    home = next(mock.url for mock in cluster.colocated if mock.seen)
    assert page["chosen_total", *labels(instance=home, role="colocated")] == 2
    assert page["tree_size", ("of", "inferred_tokens")] == 200


async def test_a_flush_in_between_explains_why_less_was_cached(start):
    cluster = await start(colocated=1, **TREE)
    mock = cluster.colocated[0]
    cached([mock], 0)
    await post(cluster, {"input_ids": IDS})
    mock.hold = True
    mock.arrived.clear()
    task = asyncio.create_task(post(cluster, {"input_ids": IDS}))
    await mock.arrived.wait()
    mock.hold = False
    async with cluster.session.post(cluster.url + "/flush_cache") as response:
        assert response.status == 200
    mock.release.set()
    await task
    assert (await scrape(cluster))["cached_predictions_total", ("outcome", "less_cache_lost")] == 1


async def test_prompts_without_tokens_are_counted_by_reason(start):
    cluster = await start(colocated=1, **TREE)
    await post(cluster, {"text": "hi"})
    await post(cluster, {"input_ids": [[1], [2]]})
    await post(cluster, {"input_ids": IDS})
    page = await scrape(cluster)
    assert page["fallbacks_total", ("reason", "no tokenizer")] == 1
    assert page["fallbacks_total", ("reason", "batch")] == 1
    assert page["prompts_tokenised_total",] == 1
    assert page["answers_total", ("prompt_tokens", "unreported")] == 1


async def test_instances_healthy_charged_and_in_flight(start):
    cluster = await start(prefill=1, decode=2)
    await cluster.decode[1].die()
    await post(cluster, {"text": "hi"})
    await post(cluster, {"text": "hi"})
    for mock in (cluster.prefill[0], cluster.decode[0]):
        mock.hold = True
        mock.arrived.clear()
    task = asyncio.create_task(post(cluster, {"text": "four" * 100}))
    await cluster.decode[0].arrived.wait()
    page = await scrape(cluster)
    dead, alive = ({"instance": mock.url, "role": "decode"} for mock in reversed(cluster.decode))
    assert page["instance_healthy", *labels(**alive)] == 1
    assert page["instance_healthy", *labels(**dead)] == 0
    assert page["instance_in_flight", *labels(**alive)] == 1
    assert page["instance_charged_tokens", *labels(**alive)] > 100
    task.cancel()


async def test_attempts_after_a_failure_are_counted(start):
    cluster = await start(colocated=2, retry_initial_backoff_ms=1)
    assert (await scrape(cluster))["retries_total",] == 0
    for mock in cluster.colocated:
        mock.refusal = (503, b"full")
    await post(cluster, {"text": "hi"})
    assert (await scrape(cluster))["retries_total",] == 4


async def test_the_circuit_of_an_instance_is_a_number(start):
    cluster = await start(colocated=1, disable_retries=True, cb_failure_threshold=2)
    mock = cluster.colocated[0]
    state = ("instance_circuit_state", *labels(instance=mock.url, role="colocated"))
    mock.refusal = (500, b"broken")
    states = []
    for _ in range(3):
        states.append((await scrape(cluster))[state])
        await post(cluster, {"text": "hi"})
    assert states == [0, 0, 1]


async def test_plans_for_the_prompts_kv_are_counted(start):
    cluster = await start(colocated=1, policy="cost_model", info={"page_size": 16})
    cached(cluster.colocated, 0)
    for _ in range(3):
        await post(cluster, {"input_ids": IDS})
    page = await scrape(cluster)
    assert {key[1][1]: value for key, value in page.items() if key[0] == "prefill_plans_total"} == {
        "route": 2,
        "fetch": 0,
        "recompute": 1,
    }


async def test_other_policies_have_no_plans(start):
    cluster = await start(colocated=1, **TREE)
    await post(cluster, {"input_ids": IDS})
    assert (await scrape(cluster))["prefill_plans_total", ("plan", "recompute")] == 0


@pytest.mark.parametrize("counted", [True, False])
async def test_time_per_token_is_from_first_bytes_to_last(start, counted):
    cluster = await start(colocated=1, **TREE)
    mock = cluster.colocated[0]
    usage = {"prompt_tokens": 200, "completion_tokens": 11} if counted else {}
    last = json.dumps({"text": "x", "meta_info": usage}).encode()
    mock.chunks = [b'data: {"text": "x"}\n\n', b"data: " + last + b"\n\n", b"data: [DONE]\n\n"]
    mock.hold_after, began = 1, time.perf_counter()
    async with cluster.session.post(
        cluster.url + "/generate", json={"input_ids": IDS, "stream": True}
    ) as response:
        await response.content.readany()
        await asyncio.sleep(0.2)
        mock.release.set()
        await response.read()
    took = time.perf_counter() - began
    await post(cluster, {"input_ids": IDS})
    page = await scrape(cluster)
    name, where = "time_per_output_token_seconds", {"path": "/generate", "role": "colocated"}
    # Of 11 tokens as the answer says, or of 2 events.
    assert page[f"{name}_count", *labels(**where)] == 1
    seconds = page[f"{name}_sum", *labels(**where)] * (10 if counted else 1)
    assert 0.2 <= seconds < took


async def test_a_stream_that_failed_has_no_time_per_token(start):
    cluster = await start(colocated=1)
    event = b'data: {"error": {"message": "no", "code": 400}}\n\n'
    cluster.colocated[0].chunks = [event, event, b"data: [DONE]\n\n"]
    await post(cluster, {"text": "hi", "stream": True})
    assert not any(key[0].startswith("time_per_output_token") for key in await scrape(cluster))


async def test_routers_of_one_process_share_nothing(start):
    first, other = await start(colocated=1), await start(colocated=1)
    await post(first, {"text": "hi"})
    assert not any(key[0] == "requests_total" for key in await scrape(other))


async def test_a_port_of_its_own_and_no_key_for_either(start, free_port):
    port = free_port()
    cluster = await start(colocated=1, api_key="k", prometheus_port=port)
    for url in (cluster.url, f"http://127.0.0.1:{port}"):
        assert ("instance_healthy", *labels(instance=cluster.colocated[0].url, role="colocated")) in (
            await scrape(cluster, url)
        )
    async with cluster.session.get(f"http://127.0.0.1:{port}/workers") as response:
        assert response.status == 404
    async with cluster.session.get(cluster.url + "/workers") as response:
        assert response.status == 401


async def test_a_taken_port_is_named(start, free_port):
    port = free_port()
    taken = await asyncio.start_server(lambda *_: None, "127.0.0.1", port)
    with pytest.raises(CannotListen, match=str(port)):
        await start(colocated=1, prometheus_port=port)
    taken.close()


async def test_openmetrics_for_who_asks_for_it(start):
    cluster = await start(colocated=1)
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with cluster.session.get(cluster.url + "/metrics", headers=headers) as response:
        assert response.content_type == "application/openmetrics-text"
        assert (await response.text()).endswith("# EOF\n")


def test_a_distribution_counts_a_value_at_a_bound_below_it():
    distribution = Distribution("x", "", (-1, 0, 5))
    for value in (-2, -1, 0, 0, 5, 6):
        distribution.observe(value)
    buckets = {s.labels["le"]: s.value for s in distribution.collect().samples if s.name.endswith("_bucket")}
    assert buckets == {"-1.0": 2, "0.0": 4, "5.0": 5, "+Inf": 6}


def decided(predicted, **more):
    home, away = Instance("http://a:1", Role.COLOCATED), Instance("http://b:1", Role.COLOCATED)
    route = Route(None, home, {home: Cached(predicted, predicted), away: Cached(96, 96)})
    return Decision(
        policy="p",
        path="/generate",
        prompt_tokens=100,
        tokenised=True,
        route=route,
        healthy=[],
        charged=[],
        decision_s=1e-5,
        made_at=0.0,
        **more,
    )


@pytest.mark.parametrize(
    ("predicted", "prompt", "cached", "cache_lost", "outcome"),
    [
        (64, 100, 64, False, "as_predicted"),
        (0, 100, 0, True, "as_predicted"),
        (64, 100, 80, False, "more"),
        (64, 101, 0, True, "less_other_tokens"),
        (64, 100, 0, True, "less_cache_lost"),
        (64, 100, 0, False, "less_nothing_there"),
        (64, None, 48, False, "less_in_part"),
    ],
)
def test_what_came_of_a_prediction(predicted, prompt, cached, cache_lost, outcome):
    decisions = Decisions(1)
    decisions.ended(decided(predicted), ReportedUsage(prompt, cached), cache_lost=cache_lost)
    assert decisions.prediction_outcomes == {outcome: 1}


def test_what_another_instance_had_was_available():
    decisions, predictions = Decisions(1), Predictions()
    decisions.watch(predictions)
    decision = decided(64)
    decisions.add(decision)
    decisions.ended(decision, ReportedUsage(100, 48))
    decisions.ended(decided(64), ReportedUsage(100, None))
    page = {s.name: s.value for family in predictions.collect() for s in family.samples if not s.labels}
    assert page["memserve:router_cached_tokens_available_total"] == 96
    assert page["memserve:router_cached_tokens_chosen_total"] == 64
    assert page["memserve:router_cached_tokens_achieved_total"] == 48
    assert page["memserve:router_prompt_tokens_total"] == 100


def test_predicted_and_measured_seconds_are_compared_where_both_are_known():
    predictions = Predictions()
    for predicted, actual in ((0.5, 0.3), (0.5, None), (None, None)):
        estimate = None if predicted is None else SimpleNamespace(until_prefilled_s=predicted)
        route = SimpleNamespace(first=None, estimate=lambda _, estimate=estimate: estimate)
        predictions.ended(SimpleNamespace(outcome=None, route=route, prefill_s=actual))
    off = next(f for f in predictions.collect() if f.name.endswith("prefill_seconds_error"))
    assert {s.labels["le"]: s.value for s in off.samples if "le" in s.labels}["0.3"] == 1
    assert next(s.value for s in off.samples if s.labels.get("le") == "+Inf") == 1
