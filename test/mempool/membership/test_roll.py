"""Who is alive in a registry's eyes, by a clock that the test turns."""

import pytest

from mempool.membership.messages import Reason
from mempool.membership.roll import JoinRefused, MembershipTable
from mempool.speaker import Speaker

P1, P2 = b"1" * 16, b"2" * 16
ANYBODY, KEYED = Speaker("10.0.0.1"), Speaker("10.0.0.1", "a")


class Roll(MembershipTable):
    def join(self, info, process=P1, speaker=ANYBODY):
        return super().join(info, process, speaker)


@pytest.fixture
def roll(clock):
    return Roll(suspicion_s=2.0, death_s=10.0, max_members=3, clock=clock)


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


def refusal(roll, info, *who):
    with pytest.raises(JoinRefused) as caught:
        roll.join(info, *who)
    return caught.value.refusal


def test_silence_is_suspicion_and_then_death(roll, clock, make_info):
    assert kinds(roll.join(make_info("a", 1))) == ["joined a1"]
    assert pass_time(roll, clock, 2.0) == []
    assert pass_time(roll, clock, 1.0) == ["suspected a1"]
    assert [standing.suspected for standing in roll.standings()] == [True]
    assert pass_time(roll, clock, 6.5) == []
    assert pass_time(roll, clock, 1.0) == ["died a1"]
    assert roll.standings() == []
    assert roll.heard("a", 1) is None


def test_a_suspect_that_speaks_has_recovered(roll, clock, make_info):
    roll.join(make_info("a", 1))
    pass_time(roll, clock, 3)
    assert kinds(roll.heard("a", 1)) == ["recovered a1"]
    assert pass_time(roll, clock, 20, beats=[("a", 1)]) == []


def test_a_registry_that_stood_still_blames_nobody(roll, clock, make_info):
    roll.join(make_info("a", 1))
    clock.now += 500
    assert roll.tick() == []
    assert pass_time(roll, clock, 3) == ["suspected a1"]


def test_a_closed_connection_is_death_at_once_and_leaving_is_not_death(roll, make_info):
    roll.join(make_info("a", 1))
    roll.join(make_info("b", 1))
    assert kinds(roll.lost("a", 1)) == ["died a1"]
    assert kinds(roll.leave("b", 1)) == ["left b1"]
    assert roll.lost("a", 1) == roll.leave("b", 1) == []


def test_joining_again_changes_nothing(roll, make_info):
    roll.join(make_info("a", 1))
    assert roll.join(make_info("a", 1)) == []


@pytest.mark.parametrize("claimed", [1, 2, 3, 2**63 - 1])
@pytest.mark.parametrize("who", [(P2,), (P2, Speaker("10.0.0.9"))])
def test_no_number_takes_the_name_of_one_that_is_alive(roll, clock, make_info, claimed, who):
    roll.join(make_info("a", 2))
    assert refusal(roll, make_info("a", claimed), *who).reason is Reason.TAKEN
    pass_time(roll, clock, 3)
    assert refusal(roll, make_info("a", claimed), *who).reason is Reason.TAKEN
    assert kinds(roll.heard("a", 2)) == ["recovered a2"]


@pytest.mark.parametrize("claimed", [1, 2**63 - 1])
def test_no_number_locks_a_name_out(roll, make_info, claimed):
    roll.join(make_info("a", claimed), P2)
    roll.leave("a", claimed)
    assert kinds(roll.join(make_info("a", 7))) == ["joined a7"]


def test_the_same_process_goes_on_as_any_other_incarnation(roll, make_info):
    roll.join(make_info("a", 5))
    assert kinds(roll.join(make_info("a", 2))) == ["died a5", "joined a2"]
    assert roll.lost("a", 5) == []


def test_the_dead_come_back_under_a_new_incarnation_only(roll, make_info):
    roll.join(make_info("a", 5))
    roll.lost("a", 5)
    assert refusal(roll, make_info("a", 5)).reason is Reason.DEAD
    assert kinds(roll.join(make_info("a", 2))) == ["joined a2"]
    assert refusal(roll, make_info("a", 5)).reason is Reason.DEAD


def test_one_that_was_replaced_while_dead_waits_for_the_other_to_end(roll, make_info):
    roll.join(make_info("a", 1))
    roll.lost("a", 1)
    roll.join(make_info("a", 2), P2)
    assert refusal(roll, make_info("a", 9)).reason is Reason.TAKEN
    roll.lost("a", 2)
    assert kinds(roll.join(make_info("a", 9))) == ["joined a9"]


def test_whoever_speaks_with_the_key_of_another_is_refused(roll, make_info):
    refused = refusal(roll, make_info("b", 1), P1, KEYED)
    assert (refused.reason, refused.registry, refused.joiner) == (Reason.FOREIGN, "a", "b")
    assert kinds(roll.join(make_info("a", 1), P1, KEYED)) == ["joined a1"]


def test_who_has_the_key_takes_the_place_of_a_silent_one_for_good(roll, clock, make_info):
    roll.join(make_info("a", 5), P1, KEYED)
    assert refusal(roll, make_info("a", 2), P2, KEYED).reason is Reason.TAKEN
    pass_time(roll, clock, 3)
    assert kinds(roll.join(make_info("a", 2), P2, KEYED)) == ["died a5", "joined a2"]
    roll.lost("a", 2)
    refused = refusal(roll, make_info("a", 9), P1, KEYED)
    assert (refused.reason, refused.joiner) == (Reason.SUPERSEDED, "9")
    assert kinds(roll.join(make_info("a", 3), P2, KEYED)) == ["joined a3"]


def test_the_first_fixes_the_layout_and_a_mismatch_names_the_field(roll, make_info, make_layout):
    roll.join(make_info("a", 1))
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
    roll.join(make_info("a", 1))
    refused = refusal(roll, make_info("b", 1, namespace=namespace))
    assert (refused.reason, refused.field, refused.joiner) == ("namespace", field, there)


def test_the_layout_is_free_again_when_nobody_else_is_alive(roll, make_info, make_layout):
    roll.join(make_info("a", 1))
    roll.join(make_info("b", 1))
    roll.lost("a", 1)
    other = make_info("b", 2, layout=make_layout(layers=8))
    assert kinds(roll.join(other)) == ["died b1", "joined b2"]


def test_there_is_room_for_so_many_and_a_replacement_needs_none(roll, make_info):
    for name in "abc":
        roll.join(make_info(name, 1))
        roll.heard(name, 1)
    assert refusal(roll, make_info("d", 1)).reason is Reason.FULL
    assert kinds(roll.join(make_info("c", 2))) == ["died c1", "joined c2"]


def test_those_that_never_gave_a_sign_of_life_give_way(roll, clock, make_info):
    for name in "abc":
        roll.join(make_info(name, 1))
    assert refusal(roll, make_info("d", 1)).reason is Reason.FULL
    pass_time(roll, clock, 3, beats=[("a", 1)])
    assert kinds(roll.join(make_info("d", 1))) == ["died b1", "joined d1"]


def test_the_host_with_the_most_members_gives_way_to_another(roll, make_info):
    for name in "abc":
        roll.join(make_info(name, 1))
        roll.heard(name, 1)
    assert kinds(roll.join(make_info("d", 1), P2, Speaker("10.0.0.2"))) == ["died c1", "joined d1"]
    assert refusal(roll, make_info("e", 1), P2, Speaker("10.0.0.2")).reason is Reason.FULL


def test_one_that_was_never_heard_again_fixes_no_layout(roll, clock, make_info, make_layout):
    roll.join(make_info("a", 1))
    other = make_info("b", 1, layout=make_layout(layers=8), namespace={"model": "m2"})
    assert refusal(roll, other, P2).reason is Reason.LAYOUT
    pass_time(roll, clock, 3)
    assert kinds(roll.join(other, P2)) == ["died a1", "joined b1"]


@pytest.mark.parametrize("settings", [(0, 10), (10, 10), (2, float("nan")), (2, float("inf"))])
def test_settings_that_make_no_sense_are_refused(clock, settings):
    with pytest.raises(ValueError, match="silence"):
        MembershipTable(suspicion_s=settings[0], death_s=settings[1], max_members=3, clock=clock)
