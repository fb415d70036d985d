"""Tenants before real servers: a prompt is cached for its tenant alone, or for those of one group."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from tenant_files import bearer, entry, tag, write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODEL = "SmolLM2-135M-Instruct"
# Of whole pages all but the last token's can be cached.
LENGTH, CACHED = 200, 192


@pytest.fixture
def ask(one_p_one_d, router_process, tmp_path):
    """ask(tenant, body, path) of a second router before the session's instances: status and JSON."""
    members = [entry(name, group="company") for name in ("x", "y")]
    path = write(tmp_path / "tenants.yaml", entry("a"), entry("b"), *members)
    prefill, decode = (one_p_one_d.workers(role)[0] for role in ("prefill", "decode"))
    pair = ("--prefill", prefill["url"], str(prefill["bootstrap_port"]), "--decode", decode["url"])
    with router_process("--tenants", path, "--policy", "prompt_tree", *pair) as url:

        def ask(tenant, body, path="/generate"):
            headers = {"Content-Type": "application/json", **bearer(tenant)}
            request = urllib.request.Request(url + path, json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=120) as response:
                    return response.status, json.loads(response.read() or b"null")
            except urllib.error.HTTPError as error:
                return error.code, json.loads(error.read())

        yield ask


def prompt(first, tokens=4, **fields):
    sampling = {"temperature": 0, "max_new_tokens": tokens, "ignore_eos": True}
    return {"input_ids": list(range(first, first + LENGTH)), "sampling_params": sampling, **fields}


def cached(answer):
    status, body = answer
    assert status == 200, body
    return body["meta_info"]["cached_tokens"]


def explained(ask, tenant, body):
    status, answer = ask(tenant, body, "/explain")
    assert status == 200, answer
    return answer["cached_tokens"]


def test_a_prompt_is_cached_for_its_tenant_alone(ask, one_p_one_d, post):
    body = prompt(20_000)
    assert cached(ask("a", body)) == 0
    assert cached(ask("a", body)) == CACHED
    # What the router takes to be cached, what instances have, and what a client without a salt finds.
    assert explained(ask, "b", body) == 0
    assert cached(ask("b", body)) == 0
    assert cached(post(one_p_one_d.url, "/generate", body)) == 0
    deadline = time.monotonic() + 60
    while explained(ask, "a", body) < CACHED:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # Its own salts keep it apart from itself; another's, written down, do not bring it there.
    assert cached(ask("a", body | {"cache_salt": "mine"})) == 0
    assert cached(ask("a", body | {"cache_salt": "mine"})) == CACHED
    assert cached(ask("b", body | {"cache_salt": "mine"})) == 0


def test_a_group_shares_what_is_cached(ask):
    body = prompt(21_000)
    assert cached(ask("x", body)) == 0
    assert cached(ask("y", body)) == CACHED
    assert cached(ask("a", body | {"cache_salt": "company"})) == 0


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_openais_endpoints_keep_tenants_apart(ask, path):
    words = "Once upon a time there was a router whose tenants never met. " * 12
    given = {"messages": [{"role": "user", "content": words}]} if "chat" in path else {"prompt": words}
    body = {"model": MODEL, "max_tokens": 4, "temperature": 0, **given}

    def found(tenant):
        status, answer = ask(tenant, body | {"rid": f"mine-{tenant}"}, path)
        assert status == 200, answer
        assert answer["id"] == f"mine-{tenant}"
        details = answer["usage"]["prompt_tokens_details"] or {}
        return details.get("cached_tokens", 0)

    assert found("a") == 0
    assert found("a") >= 96
    assert found("b") == 0


def test_an_abort_ends_ones_own_request_and_no_others(ask):
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(ask, "a", prompt(22_000, 300, rid="r"))
        time.sleep(2)
        for rid in ("r", tag("a") + "r"):
            assert ask("b", {"rid": rid}, "/abort_request")[0] == 200
        assert ask("b", {"abort_all": True}, "/abort_request")[0] == 200
        status, body = running.result(120)
        assert (status, body["meta_info"]["completion_tokens"], body["meta_info"]["id"]) == (200, 300, "r")
        running = pool.submit(ask, "a", prompt(23_000, 2000, rid="s"))
        time.sleep(2)
        assert ask("a", {"abort_all": True}, "/abort_request")[0] == 200
        status, body = running.result(120)
        assert status != 200 or body["meta_info"]["finish_reason"]["type"] == "abort", body
