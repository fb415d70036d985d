"""What the router gives beside generation, on real servers: what a stock server gives, or a reason."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from certificates import Authority

from router.http.endpoint import AnsweredBy
from router.http.endpoints import ENDPOINTS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MODEL = "SmolLM2-135M-Instruct"
KEY = "e2e-s3cret"
ADMIN_KEY = "e2e-4dmin"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
SAME = (
    ("/v1/tokenize", {"model": MODEL, "prompt": "The capital of France"}),
    ("/tokenize", {"model": MODEL, "prompt": ["one", "two words"]}),
    ("/v1/detokenize", {"model": MODEL, "tokens": [504, 3575, 282]}),
    ("/detokenize", {"model": MODEL, "tokens": [[504], [3575, 282]]}),
    ("/tokenize", {"tokens": 1}),
    ("/v1/messages/count_tokens", {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}),
    ("/api/show", {"model": MODEL}),
    ("/abort_request", {"rid": "nobody's"}),
    ("/abort_request", {"rid": 5}),
)


_TIMES = ("created", "modified_at")


def get(url, path, key=None, tls=None):
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    asked = urllib.request.Request(url + path, headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=60, context=tls) as got:
            return got.status, json.loads(got.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"null")


def without_times(answer):
    status, value = answer
    return status, {k: v for k, v in value.items() if k not in _TIMES} if isinstance(value, dict) else value


@pytest.mark.parametrize(("path", "body"), SAME)
def test_an_answer_is_a_stock_servers(from_stock, one_p_one_d, post, path, body):
    def scenario(url):
        return without_times(post(url, path, body))

    assert scenario(one_p_one_d.url) == from_stock(f"{path} {body}", scenario)


@pytest.mark.parametrize("path", [f"/v1/models/{MODEL}", "/v1/models/none"])
def test_a_model_is_a_stock_servers(from_stock, one_p_one_d, path):
    def scenario(url):
        return without_times(get(url, path))

    assert scenario(one_p_one_d.url) == from_stock(path, scenario)


@pytest.mark.parametrize(
    "path", [endpoint.path for endpoint in ENDPOINTS if endpoint.answered_by is AnsweredBy.COLOCATED]
)
def test_what_a_pair_cannot_do_is_refused_at_once(one_p_one_d, post, path):
    status, answer = post(one_p_one_d.url, path, {"model": MODEL, "input": "a", "messages": []}, seconds=5)
    assert status == 400
    assert "--worker-urls" in answer["error"]["message"]


def test_a_chat_at_sagemakers_path_is_a_stock_servers(from_stock, one_p_one_d, post):
    def scenario(url):
        status, answer = post(url, "/invocations", CHAT)
        return status, answer["choices"]

    assert scenario(one_p_one_d.url) == from_stock("/invocations", scenario)


def test_anthropics_messages_are_a_stock_servers(from_stock, one_p_one_d, post):
    def scenario(url):
        _, answer = post(url, "/v1/messages", CHAT)
        _, stream = post(url, "/v1/messages", {**CHAT, "stream": True})
        events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: ")]
        pieces = [event["delta"]["text"] for event in events if event["type"] == "content_block_delta"]
        assert events[-1]["type"] == "message_stop"
        return answer["content"], answer["stop_reason"], answer["usage"]["output_tokens"], pieces

    assert scenario(one_p_one_d.url) == from_stock("/v1/messages", scenario)


def test_openais_responses_are_a_stock_servers(from_stock, one_p_one_d, post):
    body = {"model": MODEL, "input": "Hi", "max_output_tokens": 8, "temperature": 0}

    def scenario(url):
        _, answer = post(url, "/v1/responses", body)
        _, stream = post(url, "/v1/responses", {**body, "stream": True})
        events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
        pieces = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        texts = [part["text"] for item in answer["output"] for part in item["content"]]
        return texts, answer["status"], answer["usage"]["output_tokens"], "".join(pieces)

    assert scenario(one_p_one_d.url) == from_stock("/v1/responses", scenario)


def test_health_generate_goes_through_both_halves(one_p_one_d):
    def generated():
        info = get(one_p_one_d.url, "/server_info")[1]
        (state,) = info["decode"][0]["internal_states"]
        return state["memserve"]["kv_bytes_received"]

    before = generated()
    assert get(one_p_one_d.url, "/health_generate") == (200, {"status": "ok"})
    assert generated() > before


def test_loads_are_summed_up_in_a_stock_servers_shape(from_stock, one_p_one_d):
    stock = from_stock("/v1/loads", lambda url: get(url, "/v1/loads?include=core")[1])
    status, total = get(one_p_one_d.url, "/v1/loads?include=core")
    assert status == 200
    assert stock.keys() == total.keys() - {"instances"}
    assert stock["loads"][0].keys() == total["loads"][0].keys()
    assert total["version"] == stock["version"]
    own = [endpoint["loads"][0]["max_total_num_tokens"] for endpoint in total["instances"]]
    assert total["loads"][0]["max_total_num_tokens"] == sum(own) > 0
    assert [endpoint["role"] for endpoint in total["instances"]] == ["prefill", "decode"]


def memserve(*arguments):
    command = [sys.executable, "-m", "sglang_memserve.cli.main", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120)


def test_doctor_explain_and_metrics_tell_of_a_running_cluster(one_p_one_d, post):
    """Nothing is wrong with it; what it was asked is counted; where a prompt would go has its price."""
    url, text = one_p_one_d.url, "Once upon a time there was a router that could explain itself. " * 4
    body = {"text": text, "sampling_params": {"max_new_tokens": 4, "temperature": 0}}
    # The second time it is cached.
    assert [post(url, "/generate", body)[0] for _ in range(2)] == [200, 200]
    examined = memserve("doctor", "--url", url, "--json")
    findings = json.loads(examined.stdout)["findings"]
    assert [finding for finding in findings if finding["state"] == "wrong"] == []
    assert examined.returncode == 0
    decision = json.loads(memserve("explain", text, "--url", url, "--json").stdout)
    prices = {candidate["role"]: candidate["cost"] for candidate in decision["candidates"]}
    assert decision["tokenised"]
    assert prices["prefill"]["total_ms"] > 0
    assert max(candidate["cached_tokens"] for candidate in decision["candidates"]) >= 32
    status, page = post(url, "/explain", body)
    assert (status, page["prompt_tokens"]) == (200, decision["prompt_tokens"])
    with urllib.request.urlopen(url + "/metrics", timeout=60) as got:
        lines = [line for line in got.read().decode().splitlines() if not line.startswith("#")]
    served = [line for line in lines if line.startswith("memserve:router_requests_total{")]
    assert any('path="/generate"' in line and 'status="200"' in line for line in served)
    achieved = [float(line.split()[-1]) for line in lines if "router_cached_tokens_achieved_total" in line]
    assert max(achieved) > 0


@pytest.mark.full
def test_a_cluster_with_an_api_key(cluster_of, monkeypatch):
    """The key is asked for everywhere, known by all of the parts, and written down nowhere."""
    monkeypatch.setenv("MEMSERVE_API_KEY", KEY)
    cluster = cluster_of("--prefill", "1", "--decode", "1", "--chat")
    assert get(cluster.url, "/v1/models")[0] == 401
    assert get(cluster.url, "/v1/models", KEY)[0] == 200
    assert get(cluster.url, "/health_generate")[0] == 200
    workers = [worker["url"] for worker in get(cluster.url, "/workers", KEY)[1]["workers"]]
    assert [get(url, "/model_info")[0] for url in workers] == [401, 401]
    server_info = json.dumps(get(cluster.url, "/server_info", KEY)[1])
    assert "<redacted>" in server_info
    command = [sys.executable, "-m", "sglang_memserve.cli.main", "status", "--url", cluster.url]
    subprocess.run(command, check=True, env=os.environ | {"MEMSERVE_API_KEY": KEY}, timeout=60)
    cluster.wait_for("Turn 3", 120)
    lines = subprocess.check_output(["ps", "axww", "-o", "args"], text=True)
    logs = "".join(log.read_text(errors="replace") for log in [cluster.log, *cluster.logs.glob("*.log")])
    for text in (server_info, lines, logs):
        assert KEY not in text
    cluster_of.stop(cluster)


@pytest.mark.full
def test_a_cluster_with_tls_and_an_admin_key(cluster_of, monkeypatch, tmp_path):
    """It starts, chats and is looked at over https, and a client's key administers nothing."""
    authority = Authority(tmp_path, "ours")
    cert, key = authority.files("router", "127.0.0.1")
    file = tmp_path / "cluster.yaml"
    file.write_text(json.dumps({"router": {"tls_cert_path": cert, "tls_key_path": key}}))
    monkeypatch.setenv("MEMSERVE_API_KEY", KEY)
    monkeypatch.setenv("MEMSERVE_ADMIN_API_KEY", ADMIN_KEY)
    cluster = cluster_of("--prefill", "1", "--decode", "1", "--chat", "-f", str(file))
    url, tls = cluster.url.replace("http:", "https:"), authority.client()
    for path, statuses in (("/v1/models", (401, 200, 200)), ("/workers", (401, 403, 200))):
        assert tuple(get(url, path, presented, tls)[0] for presented in (None, KEY, ADMIN_KEY)) == statuses
    command = [sys.executable, "-m", "sglang_memserve.cli.main"]
    asked = ["--url", url, "--ca-cert-paths", authority.trust]
    for name in ("status", "doctor"):
        subprocess.run([*command, name, *asked], check=True, timeout=60)
    cluster.wait_for("Turn 3", 120)
    logs = "".join(log.read_text(errors="replace") for log in [cluster.log, *cluster.logs.glob("*")])
    assert ADMIN_KEY not in logs
    cluster_of.stop(cluster)
