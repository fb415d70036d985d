"""Who is alive in a registry's eyes, by a clock that the test turns."""

import pytest

from mempool.membership.messages import Reason
from mempool.membership.roll import JoinRefused, MembershipTable


@pytest.fixture
def roll(clock):
    return MembershipTable(suspicion_s=2.0, death_s=10.0, max_members=3, clock=clock)


def kinds(changes):
    return [f"{change.kind} {change.info.instance}{change.info.incarnation}" for change in changes]


def pass_time(roll, clock, seconds, beats=()):
    """As it passes for a registry that looks at the clock every quarter of a second."""
    changes = []
    for _ in range(int(seconds * 4)):
        clock.now += 0.25
        for beat in beats:
            changes += roll.heard(*beat) or []
        changes += roll.tick()
    return kinds(changes)


def refusal(roll, info, previous=0):
    with pytest.raises(JoinRefused) as caught:
        roll.join(info, previous)
    return caught.value.refusal


def test_silence_is_suspicion_and_then_death(roll, clock, make_info):
    assert kinds(roll.join(make_info("a", 1), 0)) == ["joined a1"]
    assert pass_time(roll, clock, 2.0) == []
    assert pass_time(roll, clock, 1.0) == ["suspected a1"]
    assert [standing.suspected for standing in roll.standings()] == [True]
    assert pass_time(roll, clock, 6.5) == []
    assert pass_time(roll, clock, 1.0) == ["died a1"]
    assert roll.standings() == []
    assert roll.heard("a", 1) is None


def test_a_suspect_that_speaks_has_recovered(roll, clock, make_info):
    roll.join(make_info("a", 1), 0)
    pass_time(roll, clock, 3)
    assert kinds(roll.heard("a", 1)) == ["recovered a1"]
    assert pass_time(roll, clock, 20, beats=[("a", 1)]) == []


def test_a_registry_that_stood_still_blames_nobody(roll, clock, make_info):
    roll.join(make_info("a", 1), 0)
    clock.now += 500
    assert roll.tick() == []
    assert pass_time(roll, clock, 3) == ["suspected a1"]


def test_a_closed_connection_is_death_at_once_and_leaving_is_not_death(roll, make_info):
    roll.join(make_info("a", 1), 0)
    roll.join(make_info("b", 1), 0)
    assert kinds(roll.lost("a", 1)) == ["died a1"]
    assert kinds(roll.leave("b", 1)) == ["left b1"]
    assert roll.lost("a", 1) == roll.leave("b", 1) == []


def test_joining_again_changes_nothing(roll, make_info):
    roll.join(make_info("a", 1), 0)
    assert roll.join(make_info("a", 1), 0) == []


def test_a_newer_incarnation_ends_the_older(roll, make_info):
    roll.join(make_info("a", 1), 0)
    assert kinds(roll.join(make_info("a", 2), 0)) == ["died a1", "joined a2"]
    assert roll.lost("a", 1) == []


@pytest.mark.parametrize("newer_is", ["alive", "dead"])
def test_an_older_incarnation_is_refused_for_good(roll, make_info, newer_is):
    roll.join(make_info("a", 5), 0)
    if newer_is == "dead":
        roll.lost("a", 5)
    refused = refusal(roll, make_info("a", 4))
    assert (refused.reason, refused.registry, refused.joiner) == (Reason.SUPERSEDED, "5", "4")


def test_the_dead_come_back_under_a_new_incarnation_only(roll, make_info):
    roll.join(make_info("a", 1), 0)
    roll.lost("a", 1)
    assert refusal(roll, make_info("a", 1)).reason is Reason.DEAD
    assert kinds(roll.join(make_info("a", 9), 1)) == ["joined a9"]


def test_one_that_was_replaced_while_dead_does_not_come_back(roll, make_info):
    roll.join(make_info("a", 1), 0)
    roll.lost("a", 1)
    roll.join(make_info("a", 2), 0)
    assert refusal(roll, make_info("a", 9), previous=1).reason is Reason.SUPERSEDED


def test_the_first_fixes_the_layout_and_a_mismatch_names_the_field(roll, make_info, make_layout):
    roll.join(make_info("a", 1), 0)
    refused = refusal(roll, make_info("b", 1, layout=make_layout(layers=8)))
    assert (refused.reason, refused.field, refused.registry, refused.joiner) == ("layout", "layers", "4", "8")


@pytest.mark.parametrize(
    ("namespace", "field", "there"),
    [
        ({"model": "m2", "kv_dtype": "bfloat16"}, "model", "m2"),
        ({"model": "m1"}, "kv_dtype", "nothing"),
        ({"model": "m1", "kv_dtype": "bfloat16", "lora": "x"}, "lora", "x"),
    ],
)
def test_the_first_fixes_the_namespace_and_a_mismatch_names_the_field(
    roll, make_info, namespace, field, there
):
    roll.join(make_info("a", 1), 0)
    refused = refusal(roll, make_info("b", 1, namespace=namespace))
    assert (refused.reason, refused.field, refused.joiner) == ("namespace", field, there)


def test_the_layout_is_free_again_when_nobody_else_is_alive(roll, make_info, make_layout):
    roll.join(make_info("a", 1), 0)
    roll.join(make_info("b", 1), 0)
    roll.lost("a", 1)
    other = make_info("b", 2, layout=make_layout(layers=8))
    assert kinds(roll.join(other, 0)) == ["died b1", "joined b2"]


def test_there_is_room_for_so_many_and_a_replacement_needs_none(roll, make_info):
    for name in "abc":
        roll.join(make_info(name, 1), 0)
    assert refusal(roll, make_info("d", 1)).reason is Reason.FULL
    assert kinds(roll.join(make_info("c", 2), 0)) == ["died c1", "joined c2"]


@pytest.mark.parametrize("settings", [(0, 10), (10, 10), (2, float("nan")), (2, float("inf"))])
def test_settings_that_make_no_sense_are_refused(clock, settings):
    with pytest.raises(ValueError, match="silence"):
        MembershipTable(suspicion_s=settings[0], death_s=settings[1], max_members=3, clock=clock)
