"""Rooms from rendezvous to handoff, and every way in which one side ends before the other."""

import threading
import time

import numpy as np
import pytest
import torch
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import KVTransferError

ROOM = 77


@pytest.fixture
def paired(split, tools):
    """paired(pages) gives the sender and the receiver of a room that has met."""

    def meet(pages, **kwargs):
        sender = split.sender(ROOM)
        receiver = split.ask(ROOM, pages, **kwargs)
        tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
        return sender, receiver

    return meet


def finish(split, tools, sender, receiver):
    """What SGLang does with a transfer that succeeded; nothing of the room may be left."""
    tools.until(lambda: receiver.poll() == KVPoll.Success)
    tools.until(lambda: sender.poll() == KVPoll.Success)
    receiver.clear()
    sender.clear()
    tools.until(lambda: not split.leftovers())


def fail(split, tools, *ends):
    """What SGLang does with one that failed; the messages of the errors that it sees, in order."""
    messages = []
    for end in ends:
        tools.until(lambda end=end: end.poll() == KVPoll.Failed)
        with pytest.raises(KVTransferError) as raised:
            end.failure_exception()
        messages.append(str(raised.value))
    tools.until(lambda: not split.leftovers())
    return messages


def test_chunks_and_the_metadata_row_arrive_before_success(split, tools, paired):
    sender, receiver = paired([20, 21, 22, 23])
    tools.fill_row(split.p, 5, 9)
    split.send(sender, [1, 2])
    split.send(sender, [4, 3], aux_index=5, total=4)
    tools.until(lambda: receiver.poll() == KVPoll.Success)
    assert torch.equal(tools.blocks(split.target, [20, 21, 22, 23]), tools.blocks(split.source, [1, 2, 4, 3]))
    assert all((array[3] == 9).all() for array in split.d.rows.arrays)
    finish(split, tools, sender, receiver)
    assert split.p.counters()["kv_bytes_sent"] == split.d.counters()["kv_bytes_received"] > 0
    assert 0 < split.p.counters()["kv_send_seconds"] < 10


def test_a_prompt_that_decode_has_whole_sends_its_metadata_and_no_block(split, tools, paired):
    sender, receiver = paired([], prefix=64)
    assert sender.pop_decode_prefix_len() == 64
    split.send(sender, [], aux_index=2, total=0)
    finish(split, tools, sender, receiver)
    assert split.d.counters()["kv_bytes_received"] == 0


def test_the_destination_may_come_before_the_request(split, tools):
    receiver = split.ask(ROOM, [9])
    tools.until(lambda: split.p.prefill.rooms.get(ROOM))
    sender = split.sender(ROOM)
    assert sender.poll() == KVPoll.WaitingForInput
    split.send(sender, [1], aux_index=0, total=1)
    finish(split, tools, sender, receiver)


def test_a_room_may_be_used_again_once_it_ended(split, tools, paired):
    for pages in ([9], [10, 11]):
        sender, receiver = paired(pages)
        split.send(sender, list(range(1, 1 + len(pages))), aux_index=0, total=len(pages))
        finish(split, tools, sender, receiver)


def test_a_rank_that_sends_nothing_succeeds_by_itself(split, tools, paired):
    sender, _ = paired([], aux_index=None, dummy=True)
    split.send(sender, [1], aux_index=0, total=1)
    assert sender.poll() == KVPoll.Success


def test_an_abort_on_decode_fails_prefill_and_nothing_more_is_sent(split, tools, paired):
    sender, receiver = paired([9, 10])
    receiver.abort()
    receiver.clear()
    tools.until(lambda: sender.poll() == KVPoll.Failed)
    split.send(sender, [1, 2], aux_index=0, total=2)
    (message,) = fail(split, tools, sender)
    assert "aborted by the decode instance" in message
    # A room of its own behind it: what was queued before it would have gone first.
    other, there = split.sender(ROOM + 1), split.ask(ROOM + 1, [])
    tools.until(lambda: other.poll() == KVPoll.WaitingForInput)
    split.send(other, [], aux_index=0, total=0)
    finish(split, tools, other, there)
    assert split.p.counters()["kv_bytes_sent"] == 0


def test_an_abort_on_decode_keeps_its_reason_when_prefill_reports_it(split, tools, paired):
    sender, receiver = paired([9, 10])
    receiver.abort()
    tools.until(lambda: sender.poll() == KVPoll.Failed)
    with pytest.raises(KVTransferError, match="aborted by the decode instance"):
        sender.failure_exception()
    tools.until(lambda: split.d.counters()["open_transfers"] == 0)
    (message,) = fail(split, tools, receiver)
    assert "Aborted by AbortReq" in message


def test_an_abort_on_prefill_fails_decode_at_once_and_ends_the_room(split, tools, paired):
    sender, receiver = paired([9, 10])
    split.send(sender, [1])
    sender.abort()
    tools.until(lambda: receiver.poll() == KVPoll.Failed)
    assert ROOM not in split.p.request_status
    assert sender.poll() == KVPoll.Failed
    messages = fail(split, tools, receiver, sender)
    assert all("Aborted" in message for message in messages)


def test_a_hundred_aborts_in_prefills_queue_leave_nothing(split, tools):
    for room in range(1000, 1100):
        sender, receiver = split.sender(room), split.ask(room, [9])
        sender.abort()
        tools.until(lambda receiver=receiver: receiver.poll() == KVPoll.Failed)
        receiver.clear()
        split.d.failure_records.clear()
    tools.until(lambda: not split.leftovers())


def test_a_cleared_sender_sends_nothing_from_pages_that_are_free(split, tools, paired):
    """SGLang clears it where another rank has failed, and frees the pages next."""
    sender, receiver = paired([9, 10])
    held = threading.Event()
    split.p.prefill.rooms.get(ROOM).destinations[split.d.decode._blocks.endpoint].transfer.send(
        torch.tensor([1]), 0, held.is_set
    )
    split.send(sender, [1, 2], aux_index=0, total=2)
    sender.clear()
    held.set()
    tools.until(lambda: receiver.poll() == KVPoll.Failed)
    assert split.d.counters()["kv_bytes_received"] == 0
    fail(split, tools, receiver)


def test_a_destination_for_a_request_that_ended_is_refused(split, tools):
    split.sender(ROOM).abort()
    receiver = split.ask(ROOM, [9])
    assert "Aborted" in fail(split, tools, receiver)[0]


def test_a_destination_for_a_request_that_prefill_did_not_admit_is_refused(split, tools):
    early = split.ask(ROOM, [9])
    tools.until(lambda: split.p.prefill.rooms.get(ROOM))
    for room in (ROOM, ROOM + 1):
        split.p.prefill.refuse_room(room, "too long")
    late = split.ask(ROOM + 1, [10])
    for message in fail(split, tools, early, late):
        assert "too long" in message


def test_a_request_that_decode_gave_up_before_it_came_fails_at_once(split, tools):
    receiver = split.ask(ROOM, [9])
    tools.until(lambda: split.p.prefill.rooms.get(ROOM))
    receiver.abort()
    receiver.clear()
    tools.until(lambda: split.p.prefill.rooms.get(ROOM) is None)
    sender = split.sender(ROOM)
    split.d.failure_records.clear()
    assert "before the request came" in fail(split, tools, sender)[0]


def test_a_second_request_in_a_room_fails_and_the_first_goes_on(split, tools, paired):
    sender, receiver = paired([9])
    second_sender, second_receiver = split.sender(ROOM), split.receiver(ROOM)
    for second in (second_sender, second_receiver):
        assert second.poll() == KVPoll.Failed
        second.abort()
        with pytest.raises(KVTransferError, match="another request is in this room"):
            second.failure_exception()
        second.clear()
    split.send(sender, [1], aux_index=0, total=1)
    finish(split, tools, sender, receiver)


def test_pages_are_not_written_after_decode_cleared_the_room(split, tools, paired):
    sender, receiver = paired([9, 10])
    receiver.clear()
    split.send(sender, [1, 2], aux_index=0, total=2)
    fail(split, tools, sender)
    assert not tools.blocks(split.target, [9, 10]).any()


def test_a_dead_decode_instance_is_never_a_success(split, tools, paired):
    sender, receiver = paired([9, 10])
    split.d.decode._blocks.close()
    tools.until(lambda: sender.poll() == KVPoll.Failed)
    receiver.clear()
    reason = fail(split, tools, sender)[0]
    # The second where it died before the connection stood.
    assert "connection closed" in reason or "cannot connect" in reason
    split.d.decode._blocks.close = lambda: None


def test_a_destination_where_nobody_listens_fails_the_room_every_time(split, tools):
    """The connection may end before the room is admitted, or after."""
    split.d.decode._blocks.close()
    for room in range(1000, 1200):
        sender, receiver = split.sender(room), split.ask(room, [9])
        tools.until(lambda sender=sender: sender.poll() == KVPoll.Failed)
        sender.clear()
        receiver.clear()
    tools.until(lambda: not split.leftovers())
    split.d.decode._blocks.close = lambda: None


def test_another_layout_is_refused_with_the_field_on_both_sides(make_split, tools):
    split = make_split(decode_heads=1)
    sender, receiver = split.sender(ROOM), split.ask(ROOM, [9])
    for message in fail(split, tools, receiver, sender):
        assert "heads: 2 here, 1 at the peer" in message


def test_a_second_rank_of_that_decode_instance_gets_the_field_too(make_split, tools):
    split = make_split(decode_heads=1)
    sender, receiver = split.sender(ROOM), split.ask(ROOM, [9])
    tools.until(lambda: split.p.request_status[ROOM] == KVPoll.Failed)
    again = split.d.decode.destination(ROOM, np.array([10], np.int32), 3, 0, 2, False)
    tools.until(lambda: receiver.poll() == KVPoll.Failed)
    split.d.failure_records.clear()
    split.d.request_status[ROOM] = KVPoll.WaitingForInput
    split.to_prefill.send_multipart(again)
    tools.until(lambda: ROOM in split.d.failure_records)
    assert "heads: 2 here, 1 at the peer" in split.d.failure_records[ROOM]
    fail(split, tools, receiver, sender)


def test_metadata_rows_of_other_sizes_fail_the_room(split, tools, paired):
    sender, receiver = paired([9])
    split.d.kv_args.aux_item_lens = [8]
    split.send(sender, [1], aux_index=0, total=1)
    for message in fail(split, tools, receiver, sender):
        assert "same flags" in message


def test_a_page_outside_the_pool_fails_its_own_room_only(split, tools, paired):
    sender, receiver = paired([9])
    other, there = split.sender(ROOM + 1), split.ask(ROOM + 1, [10])
    tools.until(lambda: other.poll() == KVPoll.WaitingForInput)
    split.send(sender, [10_000], aux_index=0, total=1)
    split.send(other, [2], aux_index=0, total=1)
    tools.until(lambda: there.poll() == KVPoll.Success)
    tools.until(lambda: other.poll() == KVPoll.Success)
    there.clear()
    other.clear()
    for message in fail(split, tools, receiver, sender):
        assert "10000" in message


def test_a_destination_whose_request_never_comes_is_swept(split, tools):
    receiver = split.ask(ROOM, [9])
    tools.until(lambda: split.p.prefill.rooms.get(ROOM))
    split.p.bootstrap_timeout = 0
    split.p.prefill._rendezvous.sweep()
    assert "did not reach" in fail(split, tools, receiver)[0]


def test_only_so_many_destinations_wait_and_the_oldest_gives_way(make_split, tools):
    split = make_split(how=lambda source: {"max_unclaimed": 1})
    oldest = split.ask(ROOM, [9])
    tools.until(lambda: split.p.prefill.rooms.get(ROOM))
    waiting = split.ask(ROOM + 1, [10])
    tools.until(lambda: oldest.poll() == KVPoll.Failed)
    with pytest.raises(KVTransferError, match="1 destinations wait for requests that have not come"):
        oldest.failure_exception()
    oldest.clear()
    sender = split.sender(ROOM + 1)
    split.send(sender, [1], aux_index=0, total=1)
    # Those whose request is here count no more.
    later = split.ask(ROOM + 2, [11])
    tools.until(lambda: split.p.prefill.rooms.get(ROOM + 2))
    finish_later = split.sender(ROOM + 2)
    split.send(finish_later, [2], aux_index=0, total=1)
    for end in (waiting, sender, later, finish_later):
        tools.until(lambda end=end: end.poll() == KVPoll.Success)
        end.clear()
    tools.until(lambda: not split.leftovers())


@pytest.mark.parametrize(
    "endpoint", ["nonsense", "stream://nonsense", "stream://127.0.0.1:0", "stream://no.such.host:7"]
)
def test_a_bad_endpoint_fails_its_own_room_only(split, tools, paired, endpoint):
    split.d.decode._blocks.endpoint, real = endpoint, split.d.decode._blocks.endpoint
    bad = split.ask(ROOM + 1, [9])
    split.d.decode._blocks.endpoint = real
    sender, receiver = paired([10])
    split.send(sender, [1], aux_index=0, total=1)
    tools.until(lambda: receiver.poll() == KVPoll.Success)
    bad.clear()


def test_garbage_on_the_control_socket_is_counted(split, tools, paired):
    for frames in ([b"MEMSERVE1", b"\xff\xff"], [b"other"], [b"MEMSERVE1"], [b"ABORT"], [b"ABORT", b"x"]):
        split.to_prefill.send_multipart(frames)
    tools.until(lambda: split.p.counters()["bad_frames"] == 3)
    paired([9])


class YieldingDict(dict):
    """Lets other threads run between a look and the write that follows from it."""

    def get(self, key, default=None):
        value = super().get(key, default)
        time.sleep(1e-4)
        return value


def test_no_status_is_lost_between_two_threads(split):
    """Bootstrapping by the scheduler and WaitingForInput by the control thread, at the same time."""
    split.p.request_status = YieldingDict()
    rooms = range(50)
    ready = threading.Barrier(2)

    def bootstrap():
        for room in rooms:
            ready.wait()
            split.p.update_status(room, KVPoll.Bootstrapping)

    thread = threading.Thread(target=bootstrap)
    thread.start()
    for room in rooms:
        ready.wait()
        split.p.update_status(room, KVPoll.WaitingForInput)
    thread.join()
    assert list(split.p.request_status.values()) == [KVPoll.WaitingForInput] * len(rooms)


def test_a_room_with_two_destinations_succeeds_when_both_have_everything(split, tools):
    """MLA's KV goes to every decode rank."""
    other = split.another_decode_side()
    sender = split.sender(ROOM)
    for side in (split.d.decode, other):
        split.to_prefill.send_multipart(side.destination(ROOM, [9], 3, 0, 2, False))
    tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
    destinations = split.p.prefill.rooms.get(ROOM).destinations
    destinations[other._blocks.endpoint].transfer._submit = lambda transfer, work: None
    split.send(sender, [1], aux_index=0, total=1)
    first = destinations[split.d.decode._blocks.endpoint]
    tools.until(lambda: first.done)
    assert sender.poll() == KVPoll.WaitingForInput
    sender.abort()
    other._blocks.close()
