"""What a chat's next turn finds of the turns before it, by the instances' own counters."""

import itertools
import json
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pydoc_data.topics import topics

import pytest
from http_json import get
from transformers import AutoTokenizer
from waiting import until

from sglang_memserve.model import resolve_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

PAGE, TURNS, NEW, ANSWER = 16, 8, 30, 40


def states(url, role):
    """What each instance of a role, behind the router at `url`, tells of itself."""
    workers = get(f"{url}/workers")["workers"]
    found = [get(f"{worker['url']}/server_info") for worker in workers if worker["role"] == role]
    return [info["internal_states"][0]["memserve"] for info in found]


def counters(url, role):
    """Of the first instance of a role."""
    return states(url, role)[0]


def written_back(url):
    return counters(url, "prefill").get("write_backs_inserted", 0)


class Turn:
    """One turn of a chat by token ids: what was added, what prefill computed, and the bytes that it sent."""

    def __init__(self, url, post, ids, added, **fields):
        before = counters(url, "prefill")
        self.prompt = [*ids, *added]
        status, body = post(url, "/generate", request(self.prompt, ANSWER) | fields)
        assert status == 200, body
        self.whole = [*self.prompt, *body["output_ids"]]
        until(lambda: counters(url, "prefill")["prompt_tokens"] > before.get("prompt_tokens", 0))
        after = counters(url, "prefill")
        numbers = {name: value for name, value in after.items() if isinstance(value, int)}
        self.grown = {name: value - before.get(name, 0) for name, value in numbers.items()}
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
    assert counters(url, "decode")["kv_bytes_sent_from_dram"] > 0


def test_a_stream_begins_as_its_kv_lands_and_tells_each_token_once(one_p_one_d, post):
    """Beside a longer one, so that decode is in the midst of a step."""
    url = one_p_one_d.url
    early = counters(url, "decode")["first_tokens_streamed_early"]
    with ThreadPoolExecutor(1) as pool:
        longer = pool.submit(post, url, "/generate", request(range(40_000, 40_100), 200))
        for first in range(41_000, 41_500, 100):
            events = streamed(url, request(range(first, first + 50), 20) | {"stream": True})
            token_counts = [event["meta_info"]["completion_tokens"] for event in events]
            assert token_counts == sorted(set(token_counts))
            assert (token_counts[0], token_counts[-1], len(events[-1]["output_ids"])) == (1, 20, 20)
            assert all(b["text"].startswith(a["text"]) for a, b in itertools.pairwise(events))
            ends = [event["meta_info"]["finish_reason"] for event in events]
            assert not any(ends[:-1])
            assert ends[-1]
        assert longer.result()[0] == 200
    assert counters(url, "decode")["first_tokens_streamed_early"] == early + 5


def test_prefill_begins_before_decode_has_answered(one_p_one_d, post):
    url = one_p_one_d.url
    before = counters(url, "prefill")
    with ThreadPoolExecutor(1) as pool:
        longer = pool.submit(post, url, "/generate", request(range(42_000, 42_100), 400))
        until(lambda: counters(url, "prefill")["prompt_tokens"] == before.get("prompt_tokens", 0) + 100)
        turns = chat(url, post, 30_000, lambda done: None)
        assert longer.result()[0] == 200
    assert counters(url, "prefill")["prefills_begun_early"] > before["prefills_begun_early"]
    for turn in turns[1:]:
        # A turn that comes at once finds the answer, or computes it: it may be on its way still.
        assert turn.computed <= NEW + ANSWER + 2 * PAGE


def request(ids, tokens):
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
    return {"input_ids": list(ids), "sampling_params": sampling}


def streamed(url, body):
    """The events of an answer."""
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(url + "/generate", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(asked, timeout=120) as response:
        lines = response.read().decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def layout_bytes(url):
    """Of one block: 30 layers of K and V with 3 heads of 64."""
    (dtype,) = {
        get(f"{worker['url']}/server_info").get("dtype") for worker in get(f"{url}/workers")["workers"]
    }
    return 2 * 30 * PAGE * 3 * 64 * (4 if dtype == "float32" else 2)


def answers_seen_again(url):
    """Of the answers that were written back: how often a prompt had them by their ids, how often as text."""
    counted = counters(url, "prefill")
    return counted.get("answers_found_again", 0), counted.get("answers_reencoded", 0)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(resolve_model(None))


def test_an_answer_that_comes_back_in_other_tokens_is_counted(one_p_one_d, post, tokenizer):
    def in_halves(token):
        text = tokenizer.decode([token])
        return tokenizer.encode(text[: len(text) // 2]) + tokenizer.encode(text[len(text) // 2 :])

    url, already = one_p_one_d.url, written_back(one_p_one_d.url)
    prompt = tokenizer.encode(topics["assignment"])[: 8 * PAGE]
    first = Turn(url, post, [], prompt)
    until(lambda: written_back(url) > already)
    answer = first.whole[len(prompt) :]
    others = [half for token in answer for half in in_halves(token)]
    assert others != answer
    assert tokenizer.decode(others) == tokenizer.decode(answer)
    again, reencoded = answers_seen_again(url)
    Turn(url, post, first.whole, prompt[:NEW])
    # They are compared beside the scheduler.
    until(lambda: answers_seen_again(url) == (again + 1, reencoded))
    Turn(url, post, prompt, others)
    until(lambda: answers_seen_again(url) == (again + 1, reencoded + 1))


def test_of_a_chat_by_text_each_answer_is_counted_when_it_comes_back(one_p_one_d, post):
    url, messages, before = one_p_one_d.url, [], sum(answers_seen_again(one_p_one_d.url))

    def say(words):
        already = written_back(url)
        messages.append({"role": "user", "content": words})
        body = {"model": "SmolLM2-135M-Instruct", "messages": messages, "temperature": 0, "max_tokens": 40}
        status, answer = post(url, "/v1/chat/completions", body)
        assert status == 200, answer
        messages.append(answer["choices"][0]["message"])
        until(lambda: written_back(url) > already)

    for words in ("Tell me a long story.", "What happened then?", "And after that?", "How did it end?"):
        say(words)
    # The second turn has one answer before it, the third two, the fourth three.
    until(lambda: sum(answers_seen_again(url)) - before == 6)
    print("{} by their ids, {} as other ids with the same text".format(*answers_seen_again(url)))


@pytest.fixture(scope="module")
def small(cluster_of):
    """A pair that writes nothing back, with pools that six prompts of a thousand tokens do not fit into."""
    flags = ("--memserve-caching", "2", "--max-total-tokens", "4096", "--memserve-dram", "384MiB")
    # By cost, the router would have prefill fetch the answers.
    env = {"MEMSERVE_ROUTER_POLICY": "round_robin"}
    with cluster_of.used("--prefill", "1", "--decode", "1", flags=flags, env=env) as cluster:
        yield cluster


def test_without_write_back_prefill_computes_the_answers_again(small, post):
    turns = chat(small.url, post, 20_000, lambda done: time.sleep(0.3))
    for turn in turns[1:]:
        assert turn.computed >= NEW + ANSWER
    assert "write_backs_offered" not in counters(small.url, "decode")


def test_a_router_that_chooses_by_cost_has_prefill_fetch_the_answers(small, post, router_process):
    (prefill,), (decode,) = small.workers("prefill"), small.workers("decode")
    pair = ("--prefill", prefill["url"], str(prefill["bootstrap_port"]), "--decode", decode["url"])
    with router_process("--policy", "cost_model", *pair) as url:
        turns = chat(url, post, 30_000, lambda done: time.sleep(1))
    assert counters(small.url, "prefill")["fetches_completed"] >= TURNS - 2
    for turn in turns[2:]:
        assert turn.computed <= NEW + 2 * PAGE


def test_kv_that_was_evicted_comes_back_from_dram(small, post):
    def ask(first):
        body = {"input_ids": list(range(first, first + 1000)), "sampling_params": {"temperature": 0}}
        body["sampling_params"]["max_new_tokens"] = 8
        status, answer = post(small.url, "/generate", body)
        assert status == 200, answer
        return answer["output_ids"]

    once = ask(1000)
    for other in range(5):
        ask(3000 + 1000 * other)
    before = counters(small.url, "prefill")
    assert ask(1000) == once
    until(lambda: counters(small.url, "prefill")["prompt_tokens"] == before["prompt_tokens"] + 1000)
    after = counters(small.url, "prefill")
    assert after["prompt_tokens_from_dram"] - before.get("prompt_tokens_from_dram", 0) >= 900
    assert after["prompt_tokens_cached"] - before["prompt_tokens_cached"] >= 1000 - 2 * PAGE


def test_what_was_computed_early_gives_way_to_what_decode_waits_for(small, post):
    """Prefill's pool has room for one of the two, and decode hears of the other one first."""
    (prefill,), (decode,) = small.workers("prefill"), small.workers("decode")

    def ask(worker, room, first):
        pair = {"bootstrap_host": "127.0.0.1", "bootstrap_port": prefill["bootstrap_port"]}
        body = request(range(first, first + 2500), 8) | pair | {"bootstrap_room": room}
        return pool.submit(post, worker["url"], "/generate", body)

    already = counters(small.url, "prefill")["prefills_begun_early"]
    with ThreadPoolExecutor(4) as pool:
        early = ask(prefill, 11, 20_000)
        until(lambda: counters(small.url, "prefill")["prefills_begun_early"] > already)
        asked = [ask(worker, 12, 30_000) for worker in (prefill, decode)]
        assert [future.result()[0] for future in asked] == [200, 200]
        assert not early.done()
        late = ask(decode, 11, 20_000)
        assert [early.result()[0], late.result()[0]] == [200, 200]


def test_prefill_fetches_from_decode_what_a_hint_names(small, post, fetch_from):
    url = small.url
    decode = counters(url, "decode")["instance"]

    def published():
        # Not the blocks that are there: once DRAM is full, each new block takes the place of an old one.
        return counters(url, "decode").get("dram_blocks_published", 0)

    already = published()
    first = Turn(url, post, [], list(range(9000, 9400)))
    until(lambda: published() - already >= len(first.whole) // PAGE - 1)
    fetched = Turn(
        url, post, first.whole, list(range(9500, 9500 + NEW)), **fetch_from(decode, role="prefill")
    )
    assert fetched.grown["fetches_completed"] == 1
    assert fetched.computed <= NEW + 2 * PAGE
    until(lambda: counters(url, "prefill")["open_fetches"] == 0)


def test_a_source_that_is_not_there_costs_a_request_nothing(small, post, fetch_from):
    url, before = small.url, counters(small.url, "prefill")
    began = time.monotonic()
    Turn(url, post, [], list(range(15_000, 15_100)), **fetch_from("127.0.0.1:1", 60_000, role="prefill"))
    assert time.monotonic() - began < 40
    assert counters(url, "prefill")["fetches_failed_PeerDied"] > before.get("fetches_failed_PeerDied", 0)
