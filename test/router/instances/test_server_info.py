"""What is understood of an instance's /server_info."""

import pytest

from router.instances.server_info import CompatibilityFields, FeedAt, ServerInfo, parse_server_info


@pytest.mark.parametrize("info", [None, [], "x", {}, {"memserve": 1, "page_size": None, "model_path": 3}])
def test_without_a_report_an_instance_counts_as_stock_sglang(info):
    assert parse_server_info(info) == ServerInfo(False, 1, True, "", False)


def test_reported_fields_are_read():
    extension = {"room_per_sample": True, "caching": "3"}
    info = {"page_size": 64, "model_path": "/m", "disable_radix_cache": True, "memserve": extension}
    assert parse_server_info(info) == ServerInfo(
        True, 64, False, "/m", True, model="/m", compatibility=CompatibilityFields(page_size=64)
    )
    assert parse_server_info({**info, "tokenizer_path": "/t"}).tokenizer == "/t"


def test_fields_that_estimates_need_are_read():
    info = {"model_path": "/m", "device": "cuda", "tp_size": 4, "chunked_prefill_size": 2048}
    server_info = parse_server_info({**info, "memserve": {"instance": "10.0.0.1:30001"}})
    assert (server_info.model, server_info.device, server_info.tp, server_info.forward_tokens) == (
        "/m",
        "cuda",
        4,
        2048,
    )
    assert server_info.instance == "10.0.0.1:30001"
    odd = parse_server_info({"model_path": 1, "device": None, "tp_size": "0", "memserve": {"instance": 7}})
    assert odd == ServerInfo()


@pytest.mark.parametrize(("size", "tokens"), [(-1, 1 << 16), (1 << 40, 1 << 16), (0, 8192), (True, 8192)])
def test_how_prompts_are_cut_is_bounded(size, tokens):
    assert parse_server_info({"chunked_prefill_size": size}).forward_tokens == tokens


@pytest.mark.parametrize("size", [0, -1, True, "16", 1.5])
def test_an_impossible_page_size_counts_as_1(size):
    assert parse_server_info({"page_size": size}).page_size == 1


def test_the_address_of_a_feed_is_read():
    feed = {"endpoint": "tcp://10.0.0.1:5", "incarnation": 3}
    assert parse_server_info({"memserve": {"instance": "a", "feed": feed}}).feed == FeedAt(
        "tcp://10.0.0.1:5", 3
    )


@pytest.mark.parametrize(
    "feed",
    [
        None,
        "tcp://10.0.0.1:5",
        {"endpoint": "tcp://10.0.0.1:5"},
        {"endpoint": "tcp://10.0.0.1:5", "incarnation": True},
        {"endpoint": "tcp://10.0.0.1:5", "incarnation": -1},
        {"endpoint": "tcp://10.0.0.1:5", "incarnation": 1 << 64},
        {"endpoint": "inproc://x", "incarnation": 3},
        {"endpoint": "tcp://" + "1" * 300, "incarnation": 3},
        {"endpoint": 5, "incarnation": 3},
    ],
)
def test_an_impossible_feed_is_ignored(feed):
    assert parse_server_info({"memserve": {"feed": feed}}).feed is None
