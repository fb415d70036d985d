"""What is streamed of a request as its KV lands, and what is left to the scheduler."""

import threading
from array import array
from types import SimpleNamespace

import pytest
import torch
from sglang.srt.disaggregation.base.conn import KVPoll

from sglang_memserve.transfer import first_token
from sglang_memserve.transfer.first_token import FirstTokens

ROOM, ROW, TOKEN = 7, 2, 42


class Req:
    """What SGLang's request has, as far as it matters."""

    def __init__(self, **how):
        self.rid, self.bootstrap_room, self.bootstrap_host = "r", ROOM, "127.0.0.1"
        self.stream, self.output_ids = True, array("q")
        self.sampling_params = SimpleNamespace(stop_strs=[], stop_regex_strs=[])
        self.finished_reason = self.to_finish = None
        self.return_logprob, self.grammar = False, None
        self.prefix_len, self.cached_tokens, self.ends_with = 48, 0, None
        self.send_token_offset = self.send_decode_id_offset = 0
        self.surr_offset = self.read_offset = self.surr_and_decode_ids = self.cur_decode_ids_len = None
        self.__dict__.update(how)

    def finished(self):
        return self.finished_reason is not None

    def update_finish_state(self):
        if self.output_ids[-1] == self.ends_with:
            self.finished_reason = "stop"


class Sender:
    def __init__(self):
        self.sent = []

    def send_output(self, payload):
        self.sent.append(payload)


class Streamer:
    def __init__(self):
        self.send_to_detokenizer = Sender()

    def stream_output(self, reqs, return_logprob):
        for req in reqs:
            new = list(req.output_ids[req.send_token_offset :])
            # What the text of the next token hangs on is sent with the first one.
            new = ["prompt"] * (req.surr_offset is None) + new
            req.send_token_offset, req.surr_offset = len(req.output_ids), 5
            self.send_to_detokenizer.send_output((req.rid, new, req.cached_tokens))


class Scheduler:
    def __init__(self, **how):
        self.output_streamer = Streamer()
        self.server_args = SimpleNamespace(tp_size=how.get("tp_size", 1))
        self.spec_algorithm = SimpleNamespace(is_none=lambda: True)
        self.model_config = SimpleNamespace(self_opened_think_start_ids=None)
        self.enable_decode_hicache, self.rust_server, self.kv_checksum_computer = False, None, None

    @property
    def sent(self):
        return self.output_streamer.send_to_detokenizer.sent

    def commit(self, req, token=TOKEN):
        """The scheduler's own turn: the token, and what it streams before its next step."""
        req.output_ids.append(token)
        self.output_streamer.stream_output(first_token.not_yet_streamed([req]), False)


@pytest.fixture
def metadata():
    rows = SimpleNamespace(
        bootstrap_room=torch.zeros((4, 8), dtype=torch.int64),
        output_ids=torch.zeros((4, 16), dtype=torch.int32),
        cached_tokens=torch.zeros((4, 16), dtype=torch.int32),
    )
    rows.bootstrap_room[ROW, 0], rows.output_ids[ROW, 0], rows.cached_tokens[ROW, 0] = ROOM, TOKEN, 32
    return rows


@pytest.fixture
def scheduler():
    return Scheduler()


def land(tokens, req, row=ROW):
    if tokens.can_stream(req):
        tokens.stream(req, row)


def test_a_landed_token_is_streamed_once_and_the_next_tokens_follow(scheduler, metadata):
    tokens, req = FirstTokens(scheduler, metadata), Req()
    land(tokens, req)
    # 32 tokens were cached on prefill, 48 are here.
    assert scheduler.sent == [("r", ["prompt", TOKEN], 48)]
    assert tokens.streamed == 1
    # Until the scheduler has the token, the request is as it was.
    assert not req.output_ids
    assert req.send_token_offset == 0
    scheduler.commit(req)
    assert len(scheduler.sent) == 1
    req.output_ids.append(43)
    scheduler.output_streamer.stream_output(first_token.not_yet_streamed([req]), False)
    assert [new for _, new, _ in scheduler.sent] == [["prompt", TOKEN], [43]]


@pytest.mark.parametrize(
    "how",
    [
        {"stream": False},
        {"return_logprob": True},
        {"grammar": object()},
        {"sampling_params": SimpleNamespace(stop_strs=["x"], stop_regex_strs=[])},
        {"ends_with": TOKEN},
        {"finished_reason": "abort"},
        {"to_finish": "abort"},
        {"output_ids": array("q", [1])},
        {"bootstrap_room": ROOM + 1},
        {"bootstrap_host": "2.2.2.2"},
    ],
    ids=lambda how: next(iter(how)),
)
def test_requests_that_need_more_than_a_token_are_left_to_the_scheduler(scheduler, metadata, how):
    tokens, req = FirstTokens(scheduler, metadata), Req(**how)
    land(tokens, req)
    assert (scheduler.sent, tokens.streamed) == ([], 0)
    scheduler.commit(req)
    assert len(scheduler.sent) == 1


def test_several_ranks_leave_the_token_to_the_scheduler(metadata):
    assert FirstTokens(Scheduler(), metadata).can_stream(Req())
    assert not FirstTokens(Scheduler(tp_size=2), metadata).can_stream(Req())


def test_an_abort_between_landing_and_streaming_is_the_last_word(scheduler, metadata, caplog):
    tokens, req = FirstTokens(scheduler, metadata), Req()
    req.update_finish_state = lambda: setattr(req, "finished_reason", "abort")
    land(tokens, req)
    assert scheduler.sent == []
    assert not caplog.text


def test_an_end_that_comes_with_the_token_is_streamed(scheduler, metadata):
    tokens, req = FirstTokens(scheduler, metadata), Req()
    land(tokens, req)
    req.finished_reason = "abort"
    scheduler.commit(req)
    assert [new for _, new, _ in scheduler.sent] == [["prompt", TOKEN], []]


def test_an_abort_before_the_scheduler_has_the_token_goes_on_from_it(scheduler, metadata):
    tokens, req = FirstTokens(scheduler, metadata), Req()
    land(tokens, req)
    req.finished_reason = "abort"
    scheduler.output_streamer.stream_output(first_token.not_yet_streamed([req]), False)
    assert [new for _, new, _ in scheduler.sent] == [["prompt", TOKEN], []]


def test_an_error_leaves_the_token_to_the_scheduler(scheduler, metadata, caplog):
    tokens, req = FirstTokens(scheduler, metadata), Req()
    land(tokens, req, 99)
    assert "the first token of r" in caplog.text
    scheduler.commit(req)
    assert [new for _, new, _ in scheduler.sent] == [["prompt", TOKEN]]


def test_nothing_is_streamed_ahead_while_the_scheduler_streams(scheduler, metadata):
    tokens = FirstTokens(scheduler, metadata)
    other = threading.Thread(target=tokens.stream, args=(Req(), ROW))
    with first_token.lock_of(scheduler.output_streamer):
        other.start()
        other.join(0.1)
        assert scheduler.sent == []
    other.join()
    assert len(scheduler.sent) == 1


@pytest.fixture
def served(split, tools):
    """Takes a request in the room through a handoff from prefill to decode, and gives its receiver."""

    def serve():
        sender, receiver = split.sender(ROOM), split.ask(ROOM, [9], aux_index=ROW)
        tools.until(lambda: sender.poll() == KVPoll.WaitingForInput)
        split.send(sender, [1], aux_index=5, total=1)
        tools.until(lambda: receiver.poll() == KVPoll.Success)
        tools.until(lambda: sender.poll() == KVPoll.Success)
        sender.clear()
        return receiver

    return serve


def test_the_first_request_of_a_room_gets_the_token_once_it_lands(split, served, scheduler, metadata):
    decode = split.d.decode
    decode.expect_first_token(scheduler, metadata, Req())
    decode.expect_first_token(scheduler, metadata, Req(rid="other"))
    assert decode.counters()["open_rooms"] == 0
    receiver = served()
    assert [rid for rid, *_ in scheduler.sent] == ["r"]
    assert decode.counters()["first_tokens_streamed_early"] == decode.counters()["open_rooms"] == 1
    receiver.clear()
    assert decode.counters()["open_rooms"] == 0


def test_a_request_that_ended_gets_no_token_of_the_next_in_its_room(split, served, scheduler, metadata):
    split.d.decode.expect_first_token(scheduler, metadata, Req())
    split.receiver(ROOM).clear()
    served().clear()
    assert scheduler.sent == []
    assert not split.leftovers()
