"""From options to workloads."""

from dataclasses import replace

import pytest

from sglang_memserve.bench.serving import inputs
from sglang_memserve.bench.serving.options import CPU_LOAD, BenchOptions
from sglang_memserve.cluster.errors import ClusterError

SMALL = BenchOptions(urls=["a=http://x:1"], sessions=5, scale=0.1)


def test_the_same_sessions_come_at_every_rate():
    made = inputs.make(replace(SMALL, rates=(1.0, 4.0)), CPU_LOAD, None)
    slow, fast = made[1.0], made[4.0]
    assert [session.turns for session in slow.sessions] == [session.turns for session in fast.sessions]
    assert slow.sessions[-1].arrival == pytest.approx(4 * fast.sessions[-1].arrival)


def test_what_was_not_said_follows_from_the_machine():
    made = inputs.make(replace(SMALL, sessions=None), CPU_LOAD, None)
    assert list(made) == [CPU_LOAD.rate]
    assert len(made[CPU_LOAD.rate].sessions) == CPU_LOAD.sessions


def test_sessions_of_one_turn_are_more_and_come_faster():
    made = inputs.make(replace(SMALL, sessions=None, workload="no-sharing"), CPU_LOAD, None)
    ((rate, workload),) = made.items()
    assert len(workload.sessions) > 3 * CPU_LOAD.sessions
    assert rate > 3 * CPU_LOAD.rate


def test_a_workloads_own_option_is_passed_on():
    options = replace(SMALL, workload="loogle", more=[("document", (100, 100))], scale=1.0)
    made = inputs.make(options, CPU_LOAD, None)
    assert all(len(s.turns[0].tokens) < 300 for workload in made.values() for s in workload.sessions)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"workload": "sharegtp"}, "sharegtp"),
        ({"more": [("documents", 3)]}, "documents"),
        ({"vocabulary": (5, 5)}, "vocabulary"),
        ({"workload": "mooncake"}, "mooncake"),
    ],
)
def test_a_workload_that_cannot_be_made_is_refused(changes, complaint):
    with pytest.raises(ClusterError, match=complaint):
        inputs.make(replace(SMALL, **changes), CPU_LOAD, None)


def test_a_made_up_workload_needs_a_tokenizer_to_be_asked_by_text():
    with pytest.raises(ClusterError, match="--tokenizer"):
        inputs.make(replace(SMALL, api="chat"), CPU_LOAD, None)


def test_token_ids_become_text(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {f"w{n}": n for n in range(50)}
    model = tokenizers.models.WordLevel(words, unk_token="w0")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    options = replace(SMALL, api="completions", tokenizer=str(tmp_path), vocabulary=(10, 20))
    (workload,) = inputs.make(options, CPU_LOAD, None).values()
    turn = workload.sessions[0].turns[0]
    assert turn.text == " ".join(f"w{token}" for token in turn.tokens)


def test_a_tokenizer_that_there_is_not_is_named(tmp_path):
    pytest.importorskip("tokenizers")
    with pytest.raises(ClusterError, match=r"--tokenizer .*gone"):
        inputs.read_tokenizer(str(tmp_path / "gone"))
