"""More than one plain answer: samples, log-probabilities, no tokens at all; and a request's end by force."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from http_json import get
from waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MODEL = "SmolLM2-135M-Instruct"
PROMPT = "The capital of France is"
BATCH = (PROMPT, "Once upon a time")
GREEDY = {"temperature": 0, "max_new_tokens": 5}
LOGPROBS = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
COMPLETION = {"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 5}
CHAT = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name a city in Japan."}],
    "temperature": 0,
    "max_tokens": 5,
}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def generate(text=PROMPT, n=None, tokens=5, **fields):
    params = GREEDY | {"max_new_tokens": tokens} | ({} if n is None else {"n": n})
    return "/generate", {"text": text, "sampling_params": params, **fields}


def completion(**fields):
    return "/v1/completions", COMPLETION | fields


def chat(**fields):
    return "/v1/chat/completions", CHAT | fields


ASKED = {
    "samples": generate(n=2),
    "samples of a batch": generate(list(BATCH), n=2),
    "samples, stream": generate(n=3, stream=True),
    "completion samples": completion(n=2),
    "completion samples of a batch": completion(prompt=list(BATCH), n=2),
    "completion samples, stream": completion(n=2, **USAGE),
    "chat samples": chat(n=2),
    "chat samples, stream": chat(n=2, **USAGE),
    "no tokens": generate(tokens=0),
    "no tokens, scored": generate(tokens=0, **LOGPROBS),
    "one token, stream": generate(tokens=1, stream=True),
    "logprobs": generate(**LOGPROBS, return_text_in_logprobs=True),
    "logprobs from the third token": generate(**LOGPROBS | {"logprob_start_len": 3}),
    "logprobs of given tokens": generate(**LOGPROBS, token_ids_logprob=[1, 2, 30]),
    "logprobs, flat": generate(**LOGPROBS, return_flat_raw_top_logprobs=True),
    "logprobs, stream": generate(**LOGPROBS, stream=True),
    "logprobs of a batch": generate(list(BATCH), **LOGPROBS),
    "logprobs of a batch, stream": generate(list(BATCH), **LOGPROBS, stream=True),
    "logprobs of samples": generate(n=2, **LOGPROBS),
    "echo": completion(echo=True, logprobs=2),
    "echo, stream": completion(echo=True, logprobs=2, stream=True),
    "echo of samples of a batch": completion(prompt=list(BATCH), echo=True, logprobs=1, n=2),
    "chat logprobs": chat(logprobs=True, top_logprobs=2),
    "regex": generate("A digit: ", regex="[0-9]{3}"),
    "a session that is not there": generate(session_params={"id": "nobody's"}),
}
# Of one run, one server or one moment.
VOLATILE = {"id", "created", "e2e_latency", "response_sent_to_client_ts", "cached_tokens"}
VOLATILE |= {"prompt_tokens_details", "cached_tokens_details"}
# SGLang's times, which it adds with --enable-metrics; `memserve up` gives that, the stock server is without.
VOLATILE |= {
    "request_received_ts",
    "api_server_dispatch_finish_ts",
    "request_finished_ts",
    "first_token_latency",
}
VOLATILE |= {"decode_throughput", "forward_entry_time", "prefill_finished_time", "queue_time"}
# Nats: the same sums in batches of another size.
NOISE = 0.1


def comparable(value):
    if isinstance(value, dict):
        return {name: comparable(item) for name, item in value.items() if name not in VOLATILE}
    return [comparable(item) for item in value] if isinstance(value, list) else value


def by_index(stream):
    """The events of each answer in a stream, whose order between answers is chance."""
    events = {}
    assert stream.endswith("data: [DONE]\n\n"), stream[-300:]
    for line in stream.splitlines():
        if line and not line.endswith("[DONE]"):
            event = json.loads(line.removeprefix("data: "))
            named = event["choices"][0] if event.get("choices") else event
            events.setdefault(str(named.get("index", "whole")), []).append(event)
    return events


def asked_of(post, url, path, body):
    status, answer = post(url, path, body)
    return status, comparable(by_index(answer) if body.get("stream") else answer)


def differences(expected, got, where=""):
    if isinstance(expected, float) and isinstance(got, float):
        return [] if abs(expected - got) <= NOISE else [f"{where}: {expected} and {got}"]
    if isinstance(expected, dict) and isinstance(got, dict) and expected.keys() == got.keys():
        return [d for name in expected for d in differences(expected[name], got[name], f"{where}/{name}")]
    if isinstance(expected, list | tuple) and isinstance(got, list | tuple) and len(expected) == len(got):
        pairs = enumerate(zip(expected, got, strict=True))
        return [d for i, (left, right) in pairs for d in differences(left, right, f"{where}[{i}]")]
    return [] if expected == got else [f"{where}: {expected} and {got}"]


@pytest.mark.parametrize("name", ASKED)
def test_an_answer_is_what_stock_sglang_gives(from_stock, one_p_one_d, post, name):
    path, body = ASKED[name]
    expected = from_stock(f"answer: {name}", lambda stock: asked_of(post, stock, path, body))
    assert differences(expected, asked_of(post, one_p_one_d.url, path, body)) == []


def test_both_halves_launch_a_batch_beside_one_that_runs(one_p_one_d, post):
    """Which the loops of the overlap schedule do, and no other, where there is work for more than a batch."""
    roles = get(f"{one_p_one_d.url}/server_info")
    urls = [roles[role][0]["url"] for role in ("prefill", "decode")]
    before = [overlapped(url) for url in urls]

    def ask(number):
        return post(one_p_one_d.url, "/generate", long_request(300, f"beside {number}", 8))[0]

    def more_than_before():
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(8))) == {200}
        return all(overlapped(url) > count for url, count in zip(urls, before, strict=True))

    until(more_than_before)
    assert not any(get(f"{url}/server_info")["disable_overlap_schedule"] for url in urls)


def overlapped(url):
    return get(f"{url}/server_info")["internal_states"][0]["memserve"]["batches_overlapped"]


def long_request(tokens, rid, new=300):
    """Nothing of it is cached, and an answer of 300 tokens takes half a minute here, if nobody stops it."""
    ids = [random.randrange(1000, 40000) for _ in range(tokens)]
    params = {"temperature": 0, "max_new_tokens": new, "ignore_eos": True}
    return {"input_ids": ids, "sampling_params": params, "rid": rid}


@pytest.mark.parametrize("role", ["prefill", "decode"])
def test_an_abort_by_name_on_one_instance_ends_both_halves(one_p_one_d, post, role, in_use):
    """In the middle of the prefill, which takes seconds here."""
    instance = get(f"{one_p_one_d.url}/server_info")[role][0]["url"]
    with ThreadPoolExecutor(1) as pool:
        rid = f"{role}'s"
        answer = pool.submit(post, one_p_one_d.url, "/generate", long_request(3000, rid))
        time.sleep(0.7)
        assert post(instance, "/abort_request", {"rid": rid})[0] == 200
        status, body = answer.result(120)
    assert status == 500
    assert "Aborted by AbortReq" in body["message"]
    until(lambda: not in_use(one_p_one_d.url))


def test_an_abort_by_name_ends_decoding_with_what_there_is(one_p_one_d, post, in_use):
    decode = get(f"{one_p_one_d.url}/server_info")["decode"][0]["url"]
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, one_p_one_d.url, "/generate", long_request(40, "late"))
        until(lambda: in_use(one_p_one_d.url).get("decode num_running_reqs"))
        assert post(decode, "/abort_request", {"rid": "late"})[0] == 200
        status, body = answer.result(60)
    assert status == 200
    assert body["meta_info"]["finish_reason"]["type"] == "abort"
    assert len(body["output_ids"]) < 300
    until(lambda: not in_use(one_p_one_d.url))


@pytest.mark.parametrize("name", ["samples", "logprobs of a batch", "echo of samples of a batch"])
def test_a_client_that_leaves_several_answers_leaves_nothing_behind(one_p_one_d, post, name, in_use):
    path, body = ASKED[name]
    if path == "/generate":
        longer = {"sampling_params": body["sampling_params"] | {"max_new_tokens": 300, "ignore_eos": True}}
    else:
        longer = {"max_tokens": 300, "ignore_eos": True}
    assert post(one_p_one_d.url, path, body | longer, 2)[0] == 0
    until(lambda: not in_use(one_p_one_d.url))
    assert post(one_p_one_d.url, *ASKED["samples"])[0] == 200


@pytest.mark.parametrize(
    ("path", "prompts"),
    [
        ("/generate", {"text": ""}),
        ("/generate", {"text": ["The capital of France is", ""]}),
        ("/generate", {"input_ids": [[504, 3575], []]}),
        ("/v1/completions", {"model": "m", "prompt": ["", "The capital"]}),
    ],
)
def test_a_prompt_of_no_tokens_is_refused_and_ends_nothing(one_p_one_d, post, path, prompts):
    """SGLang's schedulers end with one."""
    roles = get(f"{one_p_one_d.url}/server_info")
    for url in (one_p_one_d.url, roles["prefill"][0]["url"], roles["decode"][0]["url"]):
        status, body = post(url, path, prompts)
        assert (status, "has no tokens" in json.dumps(body)) == (400, True), url
    assert post(one_p_one_d.url, *ASKED["samples"])[0] == 200


def test_a_name_that_is_taken_does_not_end_the_request_whose_it_is(one_p_one_d, post, in_use):
    body = long_request(1500, "taken")
    body["sampling_params"]["max_new_tokens"] = 30
    with ThreadPoolExecutor(1) as pool:
        owner = pool.submit(post, one_p_one_d.url, "/generate", body)
        until(lambda: in_use(one_p_one_d.url))
        refused = [post(one_p_one_d.url, "/generate", body) for _ in range(20)]
        status, answer = owner.result(120)
    assert {status for status, _ in refused} == {400}
    assert (status, len(answer["output_ids"])) == (200, 30)
    until(lambda: not in_use(one_p_one_d.url))
