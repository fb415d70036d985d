"""Bad requests, clients that leave, and instances that die: an answer soon, and the next request works."""

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TOO_LONG = list(range(1000, 10000))
BAD = {
    "malformed": ("/generate", b'{"text": "hello", '),
    "malformed chat": ("/v1/chat/completions", b'{"messages": ['),
    "not an object": ("/generate", b'["hello"]'),
    "no prompt": ("/generate", {"sampling_params": {"max_new_tokens": 4}}),
    "no messages": ("/v1/chat/completions", {"model": "SmolLM2-135M-Instruct"}),
    "no completion prompt": ("/v1/completions", {"model": "SmolLM2-135M-Instruct"}),
    "over the context": ("/generate", {"input_ids": TOO_LONG}),
    "chat over the context": (
        "/v1/chat/completions",
        {"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": "word " * 9000}]},
    ),
    "bad parameter": ("/generate", {"text": "hello", "sampling_params": {"temperature": -1}}),
}
DEADLINE_SECONDS, SERVES_AGAIN_SECONDS = 15, 8


def works(post, url):
    status, body = post(
        url,
        "/generate",
        {"text": "The capital of France is", "sampling_params": {"temperature": 0, "max_new_tokens": 4}},
    )
    assert status == 200, body
    assert "Paris" in body["text"]


def long_request(output=64, tokens=3000):
    """Nothing of it is cached, and its prefill takes seconds here."""
    ids = [random.randrange(1000, 40000) for _ in range(tokens)]
    return {"input_ids": ids, "sampling_params": {"temperature": 0, "max_new_tokens": output}}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_gets_what_stock_sglang_says(from_stock, one_p_one_d, post, name):
    path, body = BAD[name]
    expected = from_stock(f"bad: {name}", lambda stock: post(stock, path, body, 20))
    assert expected[0] >= 400
    assert post(one_p_one_d.url, path, body, 20) == expected
    works(post, one_p_one_d.url)


def test_clients_that_leave_leave_nothing_behind(one_p_one_d, post, in_use):
    with ThreadPoolExecutor(4) as pool:
        impatient = [
            pool.submit(post, one_p_one_d.url, "/generate", long_request(200, tokens), seconds)
            for tokens, seconds in ((3000, 1), (2000, 2), (100, 2), (40, 3))
        ]
        assert all(future.result()[0] == 0 for future in impatient)
    deadline = time.monotonic() + 60
    while held := in_use(one_p_one_d.url):
        assert time.monotonic() < deadline, held
        time.sleep(0.5)
    works(post, one_p_one_d.url)


@pytest.mark.parametrize("role", ["decode", "prefill"])
def test_a_killed_instance_ends_its_requests_and_comes_back(one_p_one_d, post, role):
    cluster = one_p_one_d
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(post, cluster.url, "/generate", long_request()) for _ in range(3)]
        time.sleep(2)
        assert not any(future.done() for future in running)
        seen = cluster.kill(role)
        killed = time.monotonic()
        for future in running:
            status, body = future.result(DEADLINE_SECONDS)
            assert status >= 500, body
        assert time.monotonic() - killed < DEADLINE_SECONDS
    status, body = post(cluster.url, "/generate", {"text": "hello"}, DEADLINE_SECONDS)
    assert status >= 500, body
    cluster.wait_for(rf"{role}-0 .*\bback\b", 240, since=seen)
    works(post, cluster.url)


def test_a_scheduler_that_dies_is_blamed_alone(one_p_one_d, post):
    """Prefill's HTTP server lives on for seconds, and decode is who says that prefill is lost.

    The load never pauses; what it hears of decode meanwhile is its own requests' failures.
    """
    cluster, ended, circuits = one_p_one_d, threading.Event(), set()

    def ask():
        answered = []
        while not ended.is_set():
            status, _ = post(cluster.url, "/generate", long_request(4, 60), 60)
            answered.append((time.monotonic(), status))
            circuits.add(cluster.workers("decode")[0]["circuit"])
            time.sleep(0.1)
        return answered

    with ThreadPoolExecutor(4) as pool:
        load = [pool.submit(ask) for _ in range(4)]
        time.sleep(2)
        killed, seen = time.monotonic(), cluster.kill_scheduler("prefill")
        cluster.wait_for(r"prefill-0 .*\bback\b", 240, since=seen)
        back = time.monotonic()
        time.sleep(SERVES_AGAIN_SECONDS)
        ended.set()
        answered = sorted(answer for future in load for answer in future.result(120))
    assert circuits == {"closed"}
    assert {status for at, status in answered if at < killed} == {200}
    assert {status for at, status in answered if at > killed} > {200}
    served = min(at for at, status in answered if at > back and status == 200)
    print(f"served again {served - back:.2f} s after prefill was back")
    assert all(status == 200 for at, status in answered if at > back + SERVES_AGAIN_SECONDS / 2)
    works(post, cluster.url)
