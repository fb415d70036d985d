"""A receiver's endpoints: the first that can be used is, and what cannot be used costs no transfer."""

import logging

import pytest
import torch

from mempool.errors import PeerDied
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender
from mempool.transports.registry import Transports

ELSEWHERE = f"shm://{'0' * 32}/{'1' * 32}"


@pytest.fixture(params=[False, True], ids=["clear", "encrypted"])
def receiver(request):
    made = BlockReceiver("stream://127.0.0.1:0", fabrics=["shm://"], encrypt=request.param)
    yield made
    made.close()


@pytest.fixture
def make_sender():
    made = []

    def make(**how):
        made.append(BlockSender(**how))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def carry(receiver, make_arena, tools):
    """carry(sender, fabrics): moves blocks, which must all arrive. Returns the peers' schemes."""
    source, target = make_arena(filled=True), make_arena()

    def move(sender, fabrics):
        here, there, key = tools.Outcome(), tools.Outcome(), receiver.new_key()
        target.rows.fill_(0)
        ticket = receiver.expect(target, torch.arange(8), there.done, there.ended, key=key)
        transfer = sender.open(source, receiver.endpoint, ticket, here.ended, key=key, fabrics=fabrics)
        for page in range(8):
            transfer.send(torch.tensor([page]), page)
        transfer.finish(8)
        assert here.wait().error is None
        assert torch.equal(source.rows, target.rows)
        return [endpoint.partition(":")[0] for endpoint in sender._peers]

    return move


def nobody_at(receiver):
    return receiver.fabrics[0].rpartition("/")[0] + "/" + "1" * 32


def test_on_one_host_blocks_go_through_shared_memory(receiver, carry, make_sender):
    assert receiver.endpoint.startswith("stream://")
    sender = make_sender()
    assert carry(sender, receiver.fabrics) == ["shm"]
    assert sender.fabric_fallbacks == 0


@pytest.mark.parametrize("settings", [{"shm": False}, {"max_bandwidth": 1 << 30}], ids=str)
def test_a_sender_without_the_fabric_uses_another(receiver, carry, make_sender, settings):
    sender = make_sender(transports=Transports(**settings))
    assert carry(sender, receiver.fabrics) == ["stream"]
    assert sender.fabric_fallbacks == 0


def test_endpoints_of_another_host_or_of_no_fabric_are_passed_over(receiver, carry, make_sender):
    sender = make_sender()
    passed_over = [ELSEWHERE, "shm://x", "nixl://new", "tcp://127.0.0.1:9", "inproc://x"]
    assert carry(sender, [*passed_over, *receiver.fabrics]) == ["shm"]
    assert carry(make_sender(), passed_over) == ["stream"]
    assert sender.fabric_fallbacks == 0


def test_where_nobody_listens_blocks_go_another_way_and_once_said(receiver, carry, make_sender, caplog):
    sender = make_sender()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert carry(sender, [nobody_at(receiver)]) == ["stream"]
    assert sender.fabric_fallbacks == 1
    assert [record.message for record in caplog.records if "go another way" in record.message] == [
        f"{nobody_at(receiver)} cannot be used, blocks go another way: cannot connect"
    ]


def test_a_listener_that_hangs_up_at_once_costs_no_transfer(receiver, carry, make_sender, monkeypatch):
    monkeypatch.setattr("mempool.transports.shm.listener.user_of", lambda stream: 12345)
    sender = make_sender()
    assert carry(sender, receiver.fabrics) == ["stream"]
    assert sender.fabric_fallbacks == 1


def test_each_endpoint_is_tried_before_a_transfer_fails(receiver, make_arena, make_sender, tools):
    here, sender = tools.Outcome(), make_sender()
    sender.open(make_arena(), "stream://127.0.0.1:9", 1, here.ended, fabrics=[nobody_at(receiver), ELSEWHERE])
    assert isinstance(here.wait().error, PeerDied)
    assert "stream://127.0.0.1:9" in str(here.error)
    assert sender.fabric_fallbacks == 1


def test_a_host_without_the_fabric_receives_over_what_it_has(caplog):
    without = Transports(shm=False)
    receiver = BlockReceiver("stream://127.0.0.1:0", fabrics=["shm://"], transports=without)
    assert receiver.fabrics == ()
    assert "blocks do not come over shm:// here" in caplog.text
    receiver.close()
