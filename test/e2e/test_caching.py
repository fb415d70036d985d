"""What a chat's next turn finds of the turns before it, by the instances' own counters."""

import json
import time
import urllib.request

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PAGE, TURNS, NEW, ANSWER = 16, 8, 30, 40


def counters(url, role):
    """Of the first instance of a role behind the router at `url`."""
    worker = next(worker for worker in get(f"{url}/workers")["workers"] if worker["role"] == role)
    return get(f"{worker['url']}/server_info")["internal_states"][0]["memserve"]


def get(url):
    with urllib.request.urlopen(url, timeout=60) as response:
        return json.load(response)


def until(holds, seconds=30):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.1)


def written_back(url):
    return counters(url, "prefill").get("write_backs_inserted", 0)


class Turn:
    """One turn of a chat by token ids: what was added, what prefill computed, and the bytes that it sent."""

    def __init__(self, url, post, ids, added):
        before = counters(url, "prefill")
        self.prompt = [*ids, *added]
        sampling = {"temperature": 0, "max_new_tokens": ANSWER, "ignore_eos": True}
        status, body = post(url, "/generate", {"input_ids": self.prompt, "sampling_params": sampling})
        assert status == 200, body
        self.whole = [*self.prompt, *body["output_ids"]]
        until(lambda: counters(url, "prefill")["prompt_tokens"] > before.get("prompt_tokens", 0))
        after = counters(url, "prefill")
        self.grown = {name: after[name] - before.get(name, 0) for name in after}
        assert self.grown["prompt_tokens"] == len(self.prompt)

    @property
    def computed(self):
        return self.grown["prompt_tokens"] - self.grown["prompt_tokens_cached"]


def chat(url, post, start, after_turn):
    ids, turns = [], []
    for number in range(TURNS):
        added = list(range(start + 100 * number, start + 100 * number + NEW))
        turns.append(Turn(url, post, ids, added))
        ids = turns[-1].whole
        after_turn(number + 1)
    return turns


def test_prefill_computes_what_is_new_and_decode_is_sent_what_it_lacks(one_p_one_d, post):
    url = one_p_one_d.url
    block = layout_bytes(url)
    already = written_back(url)
    turns = chat(url, post, 20_000, lambda done: until(lambda: written_back(url) == already + done))
    for turn in turns[1:]:
        assert turn.computed <= NEW + 2 * PAGE
        assert turn.grown["kv_bytes_sent"] <= (NEW / PAGE + 2) * block
    assert counters(url, "decode")["kv_bytes_written_back"] > 0


def layout_bytes(url):
    """Of one block: 30 layers of K and V with 3 heads of 64."""
    (dtype,) = {
        get(f"{worker['url']}/server_info").get("dtype") for worker in get(f"{url}/workers")["workers"]
    }
    return 2 * 30 * PAGE * 3 * 64 * (4 if dtype == "float32" else 2)


def test_without_write_back_prefill_computes_the_answers_again(cluster_of, post):
    cluster = cluster_of("--prefill", "1", "--decode", "1", flags=("--memserve-caching", "2"))
    turns = chat(cluster.url, post, 20_000, lambda done: time.sleep(0.3))
    for turn in turns[1:]:
        assert turn.computed >= NEW + ANSWER
    assert "write_backs_offered" not in counters(cluster.url, "decode")
    cluster_of.stop(cluster)
