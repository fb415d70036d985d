"""KV that is encrypted from prefill to decode, under a key that the room's destination brings."""

import pytest
import torch
from sglang.srt.disaggregation.base.conn import KVPoll
from sglang.srt.disaggregation.common.conn import KVTransferError

from sglang_memserve.transfer import control

ROOM = 77


@pytest.fixture
def encrypted(make_split):
    return make_split(how=lambda source: {"encrypt": True}, to_decode={"encrypt": True})


def meet(split, tools, pages):
    sender, receiver = split.sender(ROOM), split.ask(ROOM, pages)
    tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
    return sender, receiver


def test_chunks_and_the_metadata_row_arrive_before_success(encrypted, tools):
    sender, receiver = meet(encrypted, tools, [20, 21, 22])
    tools.fill_row(encrypted.p, 5, 9)
    encrypted.send(sender, [1, 2])
    encrypted.send(sender, [4], aux_index=5, total=3)
    tools.until(lambda: receiver.poll() == KVPoll.Success)
    tools.until(lambda: sender.poll() == KVPoll.Success)
    sent = tools.blocks(encrypted.source, [1, 2, 4])
    assert torch.equal(tools.blocks(encrypted.target, [20, 21, 22]), sent)
    assert all((array[3] == 9).all() for array in encrypted.d.rows.arrays)
    receiver.clear()
    sender.clear()
    tools.until(lambda: not encrypted.leftovers())


def test_each_destination_has_a_key_of_its_own(encrypted):
    asked = [encrypted.d.decode.destination(room, [room], 0, 0, 1, False) for room in (1, 2)]
    keys = {control.decode_control(message).key for message in asked}
    assert len(keys) == 2
    assert None not in keys
    dummy = control.decode_control(encrypted.d.decode.destination(3, [3], 0, 0, 1, True))
    assert (dummy.ticket, dummy.key) == (0, None)
    for room in (1, 2, 3):
        encrypted.d.decode.withdraw(room)


def test_prefill_that_encrypts_refuses_decode_that_does_not_by_name(make_split, tools):
    split = make_split(how=lambda source: {"encrypt": True})
    sender, receiver = split.sender(ROOM), split.ask(ROOM, [9])
    for end in (receiver, sender):
        tools.until(lambda end=end: end.poll() == KVPoll.Failed)
        with pytest.raises(KVTransferError, match="encryption is on at the sender and off at the receiver"):
            end.failure_exception()
    tools.until(lambda: not split.leftovers())
    assert split.p.counters()["kv_bytes_sent"] == 0
