"""Each file format, as small as it can be, and what is said of files that do not hold to it."""

import json

import pytest

from sglang_memserve.bench.workloads.errors import WorkloadError
from sglang_memserve.bench.workloads.loogle import LoogleSettings, loogle_texts
from sglang_memserve.bench.workloads.react import ReactSettings, react_lengths
from sglang_memserve.bench.workloads.settings import Settings
from sglang_memserve.bench.workloads.sharegpt import ShareGptSettings, sharegpt_lengths, sharegpt_texts
from sglang_memserve.bench.workloads.traces import azure, mooncake


def shape(session):
    return [(len(turn.tokens), turn.output_tokens) for turn in session.turns]


def request(timestamp=0, length=1100, output=10, blocks=(0, 1, 2)):
    return {
        "timestamp": timestamp,
        "input_length": length,
        "output_length": output,
        "hash_ids": list(blocks),
    }


@pytest.fixture
def chats(tmp_path):
    def write(*conversations):
        path = tmp_path / "chats.json"
        entries = [
            {"id": f"c{n}", "conversations": [{"from": who, "value": value} for who, value in said]}
            for n, said in enumerate(conversations)
        ]
        path.write_text(json.dumps(entries, indent=1))
        return path

    return write


def test_sharegpt_lengths_become_turns_of_that_length(written):
    path = written({"session": 0, "turns": [[5, 7], [0, 3]]}, {"session": "b", "turns": [[2, 2]]})
    made = sharegpt_lengths(path, ShareGptSettings())
    assert [shape(session) for session in made.sessions] == [[(5, 7), (1, 3)], [(2, 2)]]
    assert made.name == "sharegpt (trace.jsonl)"


def test_chats_of_one_name_share_nothing(written):
    path = written({"session": 0, "turns": [[50, 7]]}, {"session": 0, "turns": [[50, 7]]})
    a, b = sharegpt_lengths(path, ShareGptSettings()).sessions
    assert a.name != b.name
    assert a.turns[0].tokens[:2] != b.turns[0].tokens[:2]


def test_only_so_many_sessions_are_read(written):
    good = {"session": 0, "turns": [[5, 7]]}
    path = written(good, good, "not looked at")
    assert len(sharegpt_lengths(path, ShareGptSettings(sessions=2)).sessions) == 2


def test_sharegpt_texts_become_turns_with_their_text(chats, words):
    path = chats(
        [("human", "a b"), ("gpt", "x y z"), ("human", "c"), ("gpt", "w")],
        [("gpt", "hello"), ("system", "be kind"), ("human", "a b c"), ("gpt", "x"), ("human", "no answer")],
        [("human", "nobody answers")],
    )
    first, second = sharegpt_texts(path, ShareGptSettings(), words).sessions
    assert shape(first) == [(2, 3), (1, 1)]
    assert [turn.text for turn in first.turns] == ["a b", "c"]
    assert first.turns[0].tokens == tuple(words.encode("a b"))
    assert [turn.text for turn in second.turns] == ["be kind\na b c"]


def test_a_scaled_text_is_cut_short_and_its_turn_has_no_text(chats, words):
    path = chats([("human", "a b c d"), ("gpt", "x y z w")])
    (turn,) = sharegpt_texts(path, ShareGptSettings(scale=0.5), words).sessions[0].turns
    assert (turn.tokens, turn.output_tokens, turn.text) == (tuple(words.encode("a b")), 2, None)


def test_a_list_of_chats_is_read_piece_by_piece(chats, words):
    said = [("human", "word " * 2000), ("gpt", 'with " quotes ] and }')]
    path = chats(*[said] * 300)
    assert path.stat().st_size > 2 << 20
    made = sharegpt_texts(path, ShareGptSettings(sessions=None), words)
    assert len(made.sessions) == 300
    path.write_text(path.read_text()[:-100])
    assert len(sharegpt_texts(path, ShareGptSettings(sessions=200), words).sessions) == 200
    with pytest.raises(WorkloadError, match="entry 300: not JSON, or cut off"):
        sharegpt_texts(path, ShareGptSettings(sessions=None), words)


@pytest.mark.parametrize("as_text", [True, False])
def test_loogle_asks_each_question_after_its_document(written, words, as_text):
    pairs = [{"Q": "who is it", "A": "me", "S": ["n/a"]}, {"Q": "why", "A": "for a reason"}]
    line = {"input": "w " * 50 + "end", "title": "t", "qa_pairs": str(pairs) if as_text else pairs}
    made = loogle_texts(written(line), LoogleSettings(document=(10, 10)), words)
    document = tuple(words.encode("w " * 10))
    turns = [session.turns[0] for session in made.sessions]
    assert {turn.tokens[:10] for turn in turns} == {document}
    assert [(turn.tokens[10:], turn.output_tokens) for turn in turns] == [
        (tuple(words.encode("who is it")), 1),
        (tuple(words.encode("why")), 3),
    ]


def test_react_takes_steps_apart_and_leaves_out_the_last_observation(written):
    path = written({"session": 4, "segments": [["q", 49], ["ta", 61], ["o", 65], ["ta", 26], ["o", 13]]})
    (run,) = react_lengths(path, ReactSettings(prefix=100)).sessions
    assert shape(run) == [(149, 61), (65, 26)]


def test_react_begins_with_the_real_examples_where_there_is_a_tokenizer(written, words):
    run = {"session": 4, "segments": [["q", 2], ["ta", 3]]}
    prompts = written({"webthink_simple6": "one two three four", "other": ""}, name="prompts.json")
    path = written(run, run)
    for scale, shots in ((1.0, "one two three four"), (0.5, "one two")):
        made = react_lengths(path, ReactSettings(scale=scale), prompts, words)
        prefix = tuple(words.encode(shots))
        assert all(session.turns[0].tokens[: len(prefix)] == prefix for session in made.sessions)
        assert len(made.sessions[0].turns[0].tokens) == len(prefix) + 2 * scale


def test_mooncake_requests_share_tokens_where_they_share_blocks(written):
    path = written(request(), request(2500, 1024, 5, (0, 1)), request(3000, 600, 5, (0, 9)))
    a, b, c = mooncake(path, Settings()).sessions
    assert [session.arrival for session in (a, b, c)] == [0, 2.5, 3]
    assert [shape(session) for session in (a, b, c)] == [
        [(1100, 10)],
        [(1024, 5)],
        [(600, 5)],
    ]
    assert a.turns[0].tokens[:1024] == b.turns[0].tokens
    assert a.turns[0].tokens[:512] == c.turns[0].tokens[:512]
    assert a.turns[0].tokens[512:600] != c.turns[0].tokens[512:]


def test_scaled_mooncake_requests_share_the_same_blocks(written):
    path = written(request(), request(2500, 1024, 5, (0, 1)))
    a, b = mooncake(path, Settings(scale=1 / 16)).sessions
    assert a.turns[0].tokens[:64] == b.turns[0].tokens
    assert len(a.turns[0].tokens) == 64 + round(76 / 16)


def test_a_block_is_the_same_in_any_order(written):
    path = written(request(0, 512, 1, (5,)), request(1, 512, 1, (6,)))
    other = written(request(0, 512, 1, (6,)), request(1, 512, 1, (5,)), name="other.jsonl")
    ours = [session.turns[0].tokens for session in mooncake(path, Settings()).sessions]
    theirs = [session.turns[0].tokens for session in mooncake(other, Settings()).sessions]
    assert ours == theirs[::-1]


def test_azure_rows_become_requests_at_their_times(tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:16:46.9305900,396,0\n"
    )
    a, b = azure(path, Settings()).sessions
    assert (a.arrival, b.arrival) == (0, pytest.approx(60.25, abs=1e-5))
    assert [shape(session) for session in (a, b)] == [[(374, 44)], [(396, 1)]]
    assert a.turns[0].tokens[:2] != b.turns[0].tokens[:2]


GOOD = {"session": 0, "turns": [[5, 7]]}


@pytest.mark.parametrize(
    ("load", "records", "said"),
    [
        (sharegpt_lengths, [GOOD, {"session": 1, "turns": [[5, -7]]}], "line 2: turns[0][1] is -7: expected"),
        (sharegpt_lengths, [GOOD, {"session": 1, "turns": [[5]]}], "line 2: turns[0] is [5]: expected"),
        (sharegpt_lengths, [{"session": 1}], "line 1: Object missing required field `turns`"),
        (react_lengths, [{"session": 1, "segments": [["q", 1], ["o", 1]]}], "line 1: segments is [('q', 1)"),
        (react_lengths, [{"session": 1, "segments": [["x", 1]]}], "line 1: segments[0][0] is 'x': invalid"),
        (react_lengths, [{"session": 1, "segments": []}], "line 1: segments is []: expected a question"),
        (mooncake, [request(), request(blocks=(0, 1))], "line 2: hash_ids is [0, 1]: expected one for each"),
        (mooncake, [request(length=0)], "line 1: input_length is 0: expected `int` >= 1"),
        (mooncake, [request(timestamp="soon")], "line 1: timestamp is 'soon': expected `float`"),
    ],
)
def test_a_bad_record_is_named_with_file_line_field_and_value(written, load, records, said):
    path = written(*records)
    settings = {sharegpt_lengths: ShareGptSettings, react_lengths: ReactSettings}.get(load, Settings)
    with pytest.raises(WorkloadError) as error:
        load(path, settings())
    assert f"{path}, {said}" in str(error.value)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("2023-11-16 18:15:46,-1,5", "line 2: ContextTokens is '-1': expected `int` >= 0"),
        ("soon,1,5", "line 2: TIMESTAMP is 'soon': invalid"),
        ("2023-11-16 18:15:46,1", "line 2: GeneratedTokens is None: expected `int`"),
    ],
)
def test_a_bad_row_is_named_with_file_line_field_and_value(tmp_path, row, said):
    path = tmp_path / "azure.csv"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{row}\n")
    with pytest.raises(WorkloadError) as error:
        azure(path, Settings())
    assert said in str(error.value)


@pytest.mark.parametrize("pairs", ["none", "[{'Q': 1}]", "[[1, 2", "__import__('os')"])
def test_questions_that_are_none_are_named_with_file_and_line(written, words, pairs):
    path = written({"input": "text", "qa_pairs": pairs})
    with pytest.raises(WorkloadError, match=r"trace.jsonl, line 1.*qa_pairs"):
        loogle_texts(path, LoogleSettings(), words)


def test_a_speaker_that_nobody_knows_is_named(chats, words):
    with pytest.raises(WorkloadError, match="entry 1: from is 'alien': expected one of"):
        sharegpt_texts(chats([("alien", "hi"), ("gpt", "hi")]), ShareGptSettings(), words)


def test_a_file_that_cannot_be_read_is_named(tmp_path, words):
    with pytest.raises(WorkloadError, match=r"missing\.jsonl cannot be read: No such file"):
        mooncake(tmp_path / "missing.jsonl", Settings())
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"timestamp": 0,\n')
    with pytest.raises(WorkloadError, match=r"broken\.jsonl, line 1: not JSON"):
        mooncake(broken, Settings())
    with pytest.raises(WorkloadError, match=r"broken\.jsonl: expected a JSON list"):
        sharegpt_texts(broken, ShareGptSettings(), words)
    broken.write_bytes(b"\xff\xfe\n")
    with pytest.raises(WorkloadError, match=r"broken\.jsonl is not UTF-8"):
        mooncake(broken, Settings())
