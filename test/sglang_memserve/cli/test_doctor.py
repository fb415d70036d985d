"""What the doctor finds in clusters with one thing wrong, and that it finds nothing in one that is well."""

import copy
import json

import pytest

from router.config.settings import PrefillUrl, RouterConfig
from router.http.server import serving
from sglang_memserve.cli import main
from sglang_memserve.cli.doctor import diagnose, report
from sglang_memserve.doctor import Evidence, Severity, examine
from sglang_memserve.doctor.evidence import InstanceEvidence

ALIKE = {"version": "0.5.23", "page_size": 16, "tp_size": 1, "kv_cache_dtype": "auto"}
OURS = {
    "version": "0.1.0",
    "model": "m",
    "tokenizer": "t",
    "template": "c",
    "kv_dtype": "bfloat16",
    "caching": "3",
    "registries": ["tcp://r:1"],
}
PREFILL, DECODE, COLOCATED = "http://p:1", "http://d:1", "http://c:1"
NAMES = {PREFILL: "p:1", DECODE: "d:1", COLOCATED: "c:1"}


def evidence_of(role, url):
    mode = "null" if role == "colocated" else role
    backend = {} if role == "colocated" else {"disaggregation_transfer_backend": "memserve"}
    peers = [name for other, name in NAMES.items() if other != url]
    counters = {"instance": NAMES[url], "peers": peers}
    return InstanceEvidence(
        {"url": url, "role": role, "healthy": True, "trouble": None, "incompatibilities": []},
        {
            **ALIKE,
            **backend,
            "disaggregation_mode": mode,
            "disable_radix_cache": False,
            "memserve": dict(OURS),
            "internal_states": [{"memserve": counters}],
        },
    )


@pytest.fixture
def cluster():
    """A prefill, a decode and a colocated instance, and what their router counts; all is well."""
    instances = [
        evidence_of("prefill", PREFILL),
        evidence_of("decode", DECODE),
        evidence_of("colocated", COLOCATED),
    ]
    routing = {
        "needs_tokens": True,
        "tokenizer": {"loaded": "/m", "unlike": []},
        "tokenising": {"tokenised": 100, "batch": 50},
        "answers": {"prompt_tokens_equal": 100},
        "prediction_outcomes": {"as_predicted": 90, "less_in_part": 10},
    }
    return Evidence(instances, routing, "0.1.0")


def found(cluster):
    return [finding for finding in examine(cluster) if finding.state is not Severity.OK]


def test_a_cluster_that_is_well_has_a_good_word_for_each_check(cluster):
    assert found(cluster) == []
    assert len({finding.check for finding in examine(cluster)}) == len(examine(cluster)) > 10


def on(url, **info):
    def change(cluster):
        instance = next(instance for instance in cluster.instances if instance.url == url)
        instance.info["memserve"] |= info.pop("memserve", {})
        instance.info["internal_states"][0]["memserve"] |= info.pop("counters", {})
        instance.worker.update(info.pop("worker", {}))
        instance.feeds.update(info.pop("feeds", {}))
        instance.info.update(info)

    return change


def counted(**routing):
    return lambda cluster: cluster.routing.update(routing)


def silent(url):
    def change(cluster):
        next(instance for instance in cluster.instances if instance.url == url).info.clear()

    return change


NO_RADIX = {"disable_radix_cache": True}


@pytest.mark.parametrize(
    ("change", "check", "words"),
    [
        (on(DECODE, worker={"healthy": False, "trouble": "refused"}), "instances", [DECODE, "refused"]),
        (silent(DECODE), "instances", [DECODE, "/server_info"]),
        (on(PREFILL, disaggregation_mode="decode"), "roles", [PREFILL, "runs as decode"]),
        (on(COLOCATED, disaggregation_mode="decode"), "roles", [COLOCATED, "runs as decode"]),
        (
            on(DECODE, disaggregation_transfer_backend="mooncake"),
            "transfer backend",
            [f"decode {DECODE} has mooncake", f"prefill {PREFILL} has memserve"],
        ),
        (on(DECODE, version="0.5.22"), "SGLang's version", ["0.5.22: decode", "0.5.23: prefill"]),
        (on(DECODE, memserve={"version": "0.0.9"}), "MemServe's version", ["0.0.9: decode", "the router"]),
        (on(DECODE, memserve={"model": "x"}), "model", ["x: decode", "m: prefill"]),
        (on(DECODE, memserve={"tokenizer": "x"}), "tokenizer", ["x: decode"]),
        (on(DECODE, memserve={"template": "x"}), "chat template", ["x: decode"]),
        (on(DECODE, page_size=64), "page size", [f"64: decode {DECODE}", f"16: prefill {PREFILL}"]),
        (on(DECODE, memserve={"kv_dtype": "float16"}), "KV dtype", ["float16: decode"]),
        (on(DECODE, tp_size=2), "tensor parallelism", ["2: decode"]),
        (on(PREFILL, memserve={"caching": "basic"}), "caching", ["basic", "keeps nothing"]),
        (on(DECODE, **NO_RADIX), "radix cache", [DECODE, "keeps nothing"]),
        (on(DECODE, memserve={"registries": []}), "MemPool", [DECODE, "no registry"]),
        (on(DECODE, memserve={"registries": ["tcp://x:1"]}), "MemPool", [DECODE, "tcp://x:1"]),
        (on(DECODE, counters={"peers": ["p:1"]}), "MemPool", [DECODE, "does not know c:1"]),
        (
            on(DECODE, feeds={"dram": {"trouble": None}, "hbm": {"trouble": "silent for 10 s"}}),
            "feeds",
            [DECODE, "HBM: silent for 10 s"],
        ),
        (counted(tokenizer={"loaded": None}), "router's tokenizer", ["goes by text"]),
        (counted(tokenizer={"loaded": "/m", "unlike": [DECODE]}), "router's tokenizer", ["/m", DECODE]),
        (
            counted(answers={"prompt_tokens_equal": 97, "prompt_tokens_different": 3}),
            "token parity",
            ["3 % (3 of 100)"],
        ),
        (
            counted(tokenising={"tokenised": 50, "too slow": 30, "template": 20, "batch": 1}),
            "fallbacks",
            ["50 % (50 of 101)", "too slow (30), template (20)"],
        ),
    ],
)
def test_one_thing_wrong_is_named_with_what_to_do(cluster, change, check, words):
    change(cluster)
    wrong = found(cluster)
    assert [(finding.check, finding.state) for finding in wrong if check in finding.check] == [
        (check, Severity.WRONG)
    ]
    assert len(wrong) == 1 or check == "MemPool"
    finding = next(finding for finding in wrong if finding.check == check)
    assert all(word in finding.says for word in words), finding.says
    assert finding.do


@pytest.mark.parametrize(
    ("change", "check"),
    [
        (on(DECODE, memserve={"caching": "2"}), "caching"),
        (counted(prediction_outcomes={"as_predicted": 50, "less_in_part": 50}), "predictions"),
        (counted(needs_tokens=False, tokenizer={"loaded": None}), None),
        (counted(answers={"prompt_tokens_equal": 999, "prompt_tokens_different": 1}), None),
        (counted(tokenising={"tokenised": 1, "no tokenizer": 3}), None),
        (on(DECODE, memserve={"caching": "3"}, feeds={"hbm": {"trouble": None}}), None),
    ],
)
def test_what_may_be_meant_so_is_a_note_or_nothing(cluster, change, check):
    change(cluster)
    assert [(finding.check, finding.state) for finding in found(cluster)] == (
        [(check, Severity.NOTE)] if check else []
    )


def test_no_registry_at_all_is_a_note(cluster):
    for instance in cluster.instances:
        instance.info["memserve"]["registries"] = []
    assert [(finding.check, finding.state) for finding in found(cluster)] == [("MemPool", Severity.NOTE)]


def test_stock_instances_are_judged_by_what_they_tell(cluster):
    for instance in cluster.instances:
        del instance.info["memserve"], instance.info["internal_states"]
    assert found(cluster) == []
    on_decode = next(instance for instance in cluster.instances if instance.url == DECODE)
    on_decode.info.update(kv_cache_dtype="fp8_e4m3", **NO_RADIX)
    on_decode.worker["incompatibilities"] = ["tokenizer x, where prefill instance http://p:1 has t"]
    assert [(finding.check, finding.state) for finding in found(cluster)] == [
        ("--kv-cache-dtype", Severity.WRONG),
        ("tokenizer", Severity.WRONG),
        ("radix cache", Severity.NOTE),
    ]


@pytest.mark.parametrize("junk", [None, 1, "x", [1], {"x": [None]}, [[]]])
def test_no_answer_makes_it_fail(cluster, junk):
    well = copy.deepcopy(cluster.instances[0].info)
    for name in well:
        strange = InstanceEvidence(cluster.instances[0].worker, {**well, name: junk})
        examine(Evidence([strange, *cluster.instances[1:]]))
    for name in OURS:
        strange = InstanceEvidence(cluster.instances[0].worker, {**well, "memserve": {**OURS, name: junk}})
        examine(Evidence([strange, *cluster.instances[1:]]))
    for name in cluster.routing:
        examine(Evidence(cluster.instances, {**cluster.routing, name: junk}))


async def test_there_is_no_router(free_port):
    url = f"http://127.0.0.1:{free_port()}"
    (finding,) = await diagnose(url)
    assert (finding.check, finding.state) == ("router", Severity.WRONG)
    assert url in finding.says
    assert "--url" in finding.do


async def test_the_key_is_presented(router):
    router.api_key, router.workers = "K", {"workers": [{"url": "http://x:1", "role": "decode"}]}
    assert (await diagnose(router.url))[0].state is Severity.WRONG
    assert (await diagnose(router.url, "K"))[0].state is Severity.OK


async def test_a_real_router_in_front_of_instances_that_do_not_fit(free_port, instances):
    first, other = await instances(
        {**ALIKE, "disaggregation_mode": "prefill", "memserve": {**OURS, "registries": []}},
        {**ALIKE, "disaggregation_mode": "decode", "memserve": {**OURS, "registries": []}, "page_size": 64},
    )
    config = RouterConfig(
        prefill=(PrefillUrl(first),), decode=(other,), port=free_port(), policy="round_robin"
    )
    async with serving(config):
        findings = await diagnose(f"http://127.0.0.1:{config.port}")
    text = report(findings)
    (page,) = [finding for finding in findings if finding.state is Severity.WRONG]
    assert (page.check, page.says) == ("page size", f"16: prefill {first}; 64: decode {other}")
    heading, advice = text.splitlines()[[finding.check for finding in findings].index("page size") :][:2]
    assert heading.startswith("WRONG  page size")
    assert advice.strip() == "-> start all with the same --page-size"


def test_exit_code_and_json(monkeypatch, capsys, cluster):
    findings = examine(cluster)

    async def well(router, key, tls):
        assert (router, key, tls) == ("http://r:1", "K", None)
        return findings

    monkeypatch.setattr("sglang_memserve.cli.doctor.diagnose", well)
    assert main.main(["doctor", "--url", "http://r:1/", "--api-key", "K", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    on(DECODE, page_size=64)(cluster)
    findings[:] = examine(cluster)
    assert main.main(["doctor", "--url", "http://r:1", "--api-key", "K", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert shown["ok"] is False
    assert [finding["check"] for finding in shown["findings"] if finding["state"] == "wrong"] == ["page size"]
    assert main.main(["doctor", "--url", "http://r:1", "--api-key", "K"]) == 1
    assert "WRONG  page size" in capsys.readouterr().out
