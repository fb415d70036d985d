"""Which sessions begin alike."""

from collections import defaultdict

import pytest

from sglang_memserve.bench.workloads.errors import WorkloadError
from sglang_memserve.bench.workloads.loogle import LoogleSettings, loogle
from sglang_memserve.bench.workloads.named import workload
from sglang_memserve.bench.workloads.react import ReactSettings, react


def by_document(made):
    found = defaultdict(list)
    for session in made.sessions:
        found[session.turns[0].tokens[:260]].append(session)
    return found


def test_questions_of_a_document_begin_with_it_and_go_on_differently():
    documents = by_document(loogle(LoogleSettings(sessions=60, scale=0.1)))
    assert 60 / 8 <= len(documents) <= 60 / 2
    for readings in documents.values():
        assert all(len(session.turns) == 1 for session in readings)
        assert len({session.turns[0].tokens for session in readings}) == len(readings)


def test_only_so_many_documents_are_read_at_a_time():
    made = loogle(LoogleSettings(sessions=120, scale=0.1, open_documents=3))
    asked = [session.turns[0].tokens[:260] for session in made.sessions]
    places = defaultdict(list)
    for place, document in enumerate(asked):
        places[document].append(place)
    open_at = [sum(p[0] <= at <= p[-1] for p in places.values()) for at in range(len(asked))]
    assert max(open_at) == 3
    assert any(p[-1] - p[0] >= len(p) for p in places.values())


def test_a_share_ratio_has_every_question_asked_by_so_many_users():
    made = loogle(LoogleSettings(sessions=90, scale=0.1, share_ratio=3))
    users = defaultdict(int)
    for session in made.sessions:
        users[session.turns[0].tokens] += 1
    assert sorted(users.values())[-29:] == [3] * 29
    assert len({session.name for session in made.sessions}) == 90


def test_in_turn_a_users_questions_are_one_session():
    settings = {"sessions": 90, "scale": 0.1, "share_ratio": 3, "questions": (2, 4)}
    made = loogle(LoogleSettings(**settings, in_turn=True))
    users = defaultdict(list)
    for session in made.sessions:
        users[session.turns].append(session.name)
    assert [len(names) for names in users.values()] == [3] * 30
    assert {len(turns) for turns in users} == {2, 3, 4}
    # The document is read once; later questions follow the answers.
    assert all(len(first.tokens) > 260 > max(len(turn.tokens) for turn in rest) for first, *rest in users)


def test_all_react_runs_begin_with_the_examples():
    made = react(ReactSettings(sessions=20, scale=0.1))
    first = [session.turns[0].tokens for session in made.sessions]
    assert len({tokens[:189] for tokens in first}) == 1
    assert len({tokens[189:] for tokens in first}) == 20


def test_sharegpt_chats_have_nothing_in_common():
    made = workload("sharegpt", {"sessions": 200})
    texts = [turn.tokens for session in made.sessions for turn in session.turns if len(turn.tokens) > 3]
    assert len(set(texts)) == len(texts)


def test_without_sharing_there_are_no_more_sessions_than_first_tokens():
    options = {"vocabulary": (0, 10), "scale": 0.01}
    with pytest.raises(WorkloadError, match="sessions is 11: expected at most 10"):
        workload("no-sharing", options | {"sessions": 11})
