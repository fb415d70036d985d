"""KV that goes in and out of a tree whose pool is on a device that runs ahead of the scheduler."""

import threading

import numpy as np
import pytest

from mempool.engine import PublishRequest
from sglang_memserve.caching import write_back_receiver

TOKENS = list(range(1, 13))
PROMPT, ANSWER = list(range(1, 11)), list(range(100, 115))
ROOM = 7


@pytest.fixture
def instance(make_instance, device, forward):
    made = make_instance("p", "prefill", core="python", device=device, forward_stream=forward)
    device.watch(plane=made.planes[0], rows=rows_of(made))
    return made


def rows_of(instance):
    return instance.agent._loader._arena.rows


def in_dram(instance, tokens):
    """The tokens' KV is in DRAM alone."""
    instance.finish(tokens)
    instance.evict_all()


def writes(device, stream, tensor):
    with device.on(stream):
        tensor.add_(0)


def launch(device, forward, instance):
    """As SGLang launches a forward, which reads KV and writes to other pages."""
    forward.wait_stream(device.schedule)
    writes(device, forward, instance.planes[0])


def taken(instance):
    """DRAM blocks that are not free."""
    counts = instance.agent._pool.counts("dram")
    return counts.total - counts.free


def require_no_wait(device):
    main = threading.main_thread().name
    assert [where for thread, where in device.waits if thread == main] == []
    assert device.races == []


def test_a_forward_reads_loaded_kv_after_the_load(instance, device, forward):
    in_dram(instance, TOKENS)
    assert instance.ask(TOKENS) == len(TOKENS)
    launch(device, forward, instance)
    require_no_wait(device)
    assert instance.holds(TOKENS)


def test_pages_given_away_are_loaded_into_after_their_last_forward(instance, device, forward):
    in_dram(instance, TOKENS)
    launch(device, forward, instance)
    assert instance.ask(TOKENS) == len(TOKENS)
    require_no_wait(device)


def test_dram_blocks_are_reused_once_the_device_has_read_them(instance, device):
    in_dram(instance, TOKENS)
    instance.ask(TOKENS)
    instance.agent._pool.clear()
    instance.agent.tick()
    assert taken(instance) == 3
    device.catch_up()
    assert taken(instance) == 3
    instance.agent.tick()
    assert taken(instance) == 0
    device.host_writes(rows_of(instance))
    require_no_wait(device)
    assert instance.agent.counters()["swap_in_bytes"] == 3 * instance.buffers().layout.block_bytes


def test_a_new_incarnation_does_not_reuse_what_the_device_still_reads(instance, device):
    in_dram(instance, TOKENS)
    instance.ask(TOKENS)
    local = instance.agent._pool.local
    local.reset_incarnation(local.incarnation + 1)
    assert taken(instance) == 3
    device.catch_up()
    instance.agent.tick()
    assert taken(instance) == 0


def test_a_load_that_fails_half_way_keeps_its_blocks_and_frees_its_pages(instance, device, forward):
    in_dram(instance, TOKENS)
    scatter = instance.agent._loader._buffers.begin_scatter

    def fails(pages, parts, after):
        scatter(pages, parts, after)
        raise RuntimeError("no more")

    instance.agent._loader._buffers.begin_scatter = fails
    with pytest.raises(RuntimeError, match="no more"):
        instance.ask(TOKENS)
    launch(device, forward, instance)
    instance.agent._pool.clear()
    assert taken(instance) == 3
    assert instance.allocator.available_size() == instance.pages * 4
    device.catch_up()
    instance.agent.tick()
    assert taken(instance) == 0
    require_no_wait(device)


def test_closing_waits_for_the_device_to_have_read(instance, device):
    in_dram(instance, TOKENS)
    instance.ask(TOKENS)
    instance.agent._loader.close()
    device.host_writes(rows_of(instance))
    assert device.races == []


def test_finished_kv_is_copied_to_dram_after_its_last_forward(instance, device, forward):
    launch(device, forward, instance)
    instance.finish(TOKENS)
    device.host_reads(rows_of(instance))
    assert instance.agent.counters()["swap_out_bytes"] == 3 * instance.buffers().layout.block_bytes
    require_no_wait(device)


def test_what_another_instance_asks_for_is_copied_without_a_wait(instance, device, forward, tools):
    done = threading.Event()
    instance.compute(TOKENS)
    launch(device, forward, instance)
    tokens = np.array(TOKENS, dtype=np.int32)
    instance.agent._publish_requests.put(
        PublishRequest(tokens, tools.Namespace(None, None).name, 0, done.set)
    )
    tools.until(lambda: instance.agent.tick() or done.is_set())
    device.host_reads(rows_of(instance))
    require_no_wait(device)


def test_pages_are_published_once_the_host_has_their_numbers(instance, device):
    feed, (incarnation, start) = instance.agent._hbm_index.feed, instance.agent._hbm_index.feed.snapshot()

    def heard():
        return len(feed.events_after(incarnation, start.seq) or ())

    instance.compute(TOKENS)
    instance.agent.tick()
    instance.compute(list(range(50, 58)))
    instance.agent.tick()
    assert heard() == 0
    device.catch_up()
    instance.agent.tick()
    assert heard() == 1
    instance.agent.tick()
    device.catch_up()
    instance.agent.tick()
    assert heard() == 2
    require_no_wait(device)


def test_an_answer_is_adopted_without_a_wait(instance, make_instance, device, forward, tools):
    decode = make_instance("d", "decode")
    instance.compute(PROMPT[:8])
    decode.agent.introduce(ROOM, instance.agent.prefill_origin)
    launch(device, forward, instance)
    whole = tools.answered(decode, ROOM, PROMPT, ANSWER)
    tools.until(lambda: decode.agent.tick() or instance.agent.tick() or instance.known(whole) == len(whole))
    assert taken(instance) == 4
    launch(device, forward, instance)
    device.catch_up()
    instance.agent.tick()
    assert taken(instance) == 0
    require_no_wait(device)
    assert instance.holds(whole)


def test_a_tick_takes_in_a_bounded_number_of_bytes(instance, make_instance, monkeypatch, tools):
    monkeypatch.setattr(write_back_receiver, "_MAX_BYTES_A_TICK", 1)
    decode, wakes = make_instance("d", "decode"), []
    for room in (1, 2, 3):
        decode.agent.introduce(room, instance.agent.prefill_origin)
        prompt = list(range(1000 * room, 1000 * room + 8))
        instance.compute(prompt)
        tools.answered(decode, room, prompt, ANSWER)
    inbox = instance.agent._receiver._inbox
    tools.until(lambda: decode.agent.tick() or len(inbox) == 3)
    inbox._wake = lambda: wakes.append(len(inbox))
    for left in (2, 1, 0):
        instance.agent.tick()
        assert len(inbox) == left
    assert wakes == [2, 1]
