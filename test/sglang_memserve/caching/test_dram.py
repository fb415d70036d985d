"""KV that has left the device comes back from DRAM when a request asks for it."""

import pytest

TOKENS = list(range(1, 25))


@pytest.fixture(params=["rust", "python"])
def instance(make_instance, request):
    return make_instance("p", "prefill", core=request.param)


def test_evicted_kv_comes_back_with_its_bytes(instance):
    instance.finish(TOKENS)
    instance.evict_all()
    assert instance.known(TOKENS) == 0
    assert instance.ask([*TOKENS, 99]) == 24
    assert instance.holds(TOKENS)
    assert instance.agent.counters()["prompt_tokens_from_dram"] == 24
    assert instance.agent.counters()["swap_in_bytes"] == 6 * instance.buffers().layout.block_bytes
    assert instance.everything_is_accounted_for()


def test_only_what_is_missing_comes_from_dram_and_goes_there(instance):
    instance.finish(TOKENS[:8])
    instance.finish(TOKENS)
    assert instance.agent.counters()["dram_blocks_published"] == 6
    instance.evict_all()
    instance.compute(TOKENS[:12])
    assert instance.ask(TOKENS) == 24
    assert instance.holds(TOKENS)
    assert instance.agent.counters()["prompt_tokens_from_dram"] == 12


def test_a_longer_prompt_finds_the_part_that_was_asked_before(instance):
    instance.finish(TOKENS[:16])
    instance.evict_all()
    assert instance.ask([*TOKENS[:16], *range(70, 90)]) == 16
    instance.evict_all()
    assert instance.ask([*TOKENS[:10], *range(70, 90)]) == 8


def test_a_request_is_looked_up_once(instance, tools):
    req = tools.asked(TOKENS)
    assert instance.ask(TOKENS, req=req, ends=False) == 0
    instance.finish(TOKENS)
    instance.evict_all()
    assert instance.ask(TOKENS, req=req) == 0
    assert instance.ask(TOKENS) == 24


def test_a_request_that_yielded_is_looked_up_again(instance, tools):
    instance.finish(TOKENS)
    instance.evict_all()
    req = tools.asked(TOKENS)
    assert instance.ask(TOKENS, req=req) == 24
    instance.evict_all()
    assert instance.ask(TOKENS, req=req) == 24


def test_a_flush_forgets_dram_too(instance):
    instance.finish(TOKENS)
    instance.tree.reset()
    instance.allocator.clear()
    assert instance.ask(TOKENS) == 0
    assert instance.agent.counters()["dram_blocks"] == 0


@pytest.mark.parametrize("field", ["extra_key", "cache_salt"])
def test_namespaces_stay_apart(instance, tools, field):
    theirs = tools.Namespace(None, None)._replace(**{field: "tenant"})
    instance.finish(TOKENS, theirs)
    instance.evict_all()
    assert instance.ask(TOKENS) == 0
    assert instance.ask(TOKENS, theirs) == 24


def test_kv_stays_in_dram_while_running_requests_need_the_pool(make_instance):
    small = make_instance("p", "prefill", pages=8)
    small.finish(TOKENS)
    small.evict_all()
    lock = small.tree.lock(small.compute(list(range(500, 520))))
    assert small.ask(TOKENS) == 0
    assert small.agent.counters()["dram_hits_full"] == 1
    small.tree.unlock(lock)
    assert small.ask(TOKENS) == 24
    assert small.everything_is_accounted_for()


def test_a_full_dram_evicts_what_was_used_longest_ago(make_instance):
    small = make_instance("p", "prefill", dram="6 blocks")
    small.finish(TOKENS[:16])
    small.finish(list(range(500, 516)))
    small.evict_all()
    assert small.ask(list(range(500, 516))) == 16
    assert small.ask(TOKENS[:16]) < 16
    small.finish(list(range(900, 940)))
    assert small.agent.counters()["dram_dropped_no_dram"] == 1


def test_without_dram_nothing_comes_back(make_instance):
    plain = make_instance("p", "prefill", dram="0")
    plain.finish(TOKENS)
    plain.evict_all()
    assert plain.ask(TOKENS) == 0
    assert plain.agent.counters()["dram_blocks"] == 0
