import pytest

from sglang_memserve.bench.workloads.assemble import Draft, assemble
from sglang_memserve.bench.workloads.errors import WorkloadError
from sglang_memserve.bench.workloads.form import WorkloadTurn
from sglang_memserve.bench.workloads.named import workload
from sglang_memserve.bench.workloads.settings import Settings


def turn(added, output):
    return WorkloadTurn((7,) * added, output)


def drafts(count, times=None):
    return [Draft(f"s{n}", [turn(1, 1)], times[n] if times else None) for n in range(count)]


def arrivals(made):
    return [session.arrival for session in made.sessions]


def test_a_session_ends_before_the_turn_that_passes_the_context():
    chat = Draft("chat", [turn(10, 20), turn(30, 40), turn(1, 1)])
    made = assemble("x", Settings(max_context=99), [chat])
    assert [len(t.tokens) for t in made.sessions[0].turns] == [10]
    made = assemble("x", Settings(max_context=100), [chat])
    assert [len(t.tokens) for t in made.sessions[0].turns] == [10, 30]


def test_a_session_that_does_not_fit_makes_room_for_the_next():
    made = assemble("x", Settings(sessions=1, max_context=10), [Draft("long", [turn(10, 1)]), *drafts(3)])
    assert [session.name for session in made.sessions] == ["s0"]


def test_a_context_in_which_nothing_fits_is_named():
    with pytest.raises(WorkloadError, match="max_context 3"):
        assemble("x", Settings(max_context=3), [Draft("long", [turn(10, 1)])])
    with pytest.raises(WorkloadError, match="no session fits in max_context 100"):
        workload("react", {"sessions": 5, "max_context": 100})


def test_fewer_generated_sessions_than_asked_for_are_refused():
    with pytest.raises(WorkloadError, match=r"loogle: only \d+ of 60 sessions fit in max_context 2900"):
        workload("loogle", {"sessions": 60, "max_context": 2900})


def test_arrivals_are_random_at_the_rate():
    made = assemble("x", Settings(sessions=None, rate=4.0), drafts(4000))
    times = arrivals(made)
    gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.25, rel=0.05)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert deviation == pytest.approx(mean, rel=0.1)


def test_a_traces_own_times_begin_at_zero_and_are_put_in_order():
    made = assemble("x", Settings(), drafts(3, [12.0, 10.0, 15.0]))
    assert [(session.name, session.arrival) for session in made.sessions] == [("s1", 0), ("s0", 2), ("s2", 5)]


def test_a_traces_times_are_stretched_to_a_rate():
    made = assemble("x", Settings(rate=1.0), drafts(3, [10.0, 11.0, 14.0]))
    assert arrivals(made) == pytest.approx([0, 0.5, 2])


def test_given_arrivals_win():
    made = assemble("x", Settings(arrivals=(0.0, 0.5, 0.5)), drafts(3, [10.0, 11.0, 14.0]))
    assert arrivals(made) == [0, 0.5, 0.5]
    with pytest.raises(WorkloadError, match="3 times, one for each session"):
        assemble("x", Settings(arrivals=(0.0,)), drafts(3))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sessions", 0),
        ("rate", 0.0),
        ("rate", float("inf")),
        ("arrivals", (1.0, 0.5)),
        ("arrivals", (-1.0,)),
        ("scale", 0.0),
        ("scale", 1.5),
        ("max_context", 0),
        ("vocabulary", (5, 5)),
    ],
)
def test_a_setting_that_cannot_be_is_refused_with_its_value(field, value):
    with pytest.raises(WorkloadError) as error:
        Settings(**{field: value})
    assert f"{field} is {value!r}: expected" in str(error.value)


@pytest.mark.parametrize("name", ["sharegpt", "loogle", "react", "no-sharing"])
def test_a_seed_makes_one_workload_and_another_seed_another(name):
    options = {"sessions": 20, "rate": 2.0, "scale": 0.2}
    made = workload(name, options | {"seed": 1})
    assert made == workload(name, options | {"seed": 1})
    other = workload(name, options | {"seed": 2})
    assert arrivals(made) != arrivals(other)
    assert made.sessions[0].turns != other.sessions[0].turns


@pytest.mark.parametrize("name", ["sharegpt", "loogle", "react", "no-sharing"])
def test_tokens_come_from_the_vocabulary(name):
    made = workload(name, {"sessions": 20, "vocabulary": (50, 90)})
    used = {token for session in made.sessions for t in session.turns for token in t.tokens}
    assert used
    assert used <= set(range(50, 90))


@pytest.mark.parametrize("name", ["sharegpt", "loogle", "react", "no-sharing"])
def test_sessions_are_as_many_as_asked_for_and_have_names_of_their_own(name):
    made = workload(name, {"sessions": 30, "scale": 0.1})
    assert len({session.name for session in made.sessions}) == 30
    assert arrivals(made) == sorted(arrivals(made))
