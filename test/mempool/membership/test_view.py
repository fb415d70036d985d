"""What an instance makes of several registries, by a clock that the test turns."""

import pytest

from mempool.membership import fences
from mempool.membership.messages import Change, ChangeKind, MemberStatus
from mempool.membership.view import MembershipView

A, B = "tcp://a:1", "tcp://b:1"


@pytest.fixture
def view(clock):
    return MembershipView("own", [A, B], grace_s=10.0, clock=clock)


@pytest.fixture
def say(view, make_info):
    """What a registry says of an instance, and what comes of it."""

    def saying(registry, kind, instance="x", incarnation=1):
        return kinds(view.change(registry, Change(ChangeKind(kind), make_info(instance, incarnation))))

    return saying


@pytest.fixture
def show(view, make_info):
    """A snapshot of a registry that names these, and what comes of it."""

    def snapshot(registry, *names, epoch=1, suspected=False):
        standings = [MemberStatus(make_info(name[:-1], int(name[-1])), suspected) for name in names]
        return kinds(view.snapshot(registry, epoch, standings))

    return snapshot


def kinds(changes):
    return [f"{change.kind} {change.info.instance}{change.info.incarnation}" for change in changes]


def alive(view):
    return {f"{name}{standing.info.incarnation}" for name, standing in view.members.items()}


def test_the_union_names_each_instance_once_and_not_oneself(show, view):
    assert show(A, "own1", "x1", "y1") == ["joined x1", "joined y1"]
    assert show(B, "y1", "z1") == ["joined z1"]
    assert alive(view) == {"x1", "y1", "z1"}


def test_another_incarnation_takes_its_place_once_it_has_ended(show, say, view):
    show(A, "x1")
    assert show(B, "x2") == []
    assert alive(view) == {"x1"}
    assert say(A, "died") == ["died x1", "joined x2"]
    assert show(A, "x1") == []
    assert alive(view) == {"x2"}


@pytest.mark.parametrize("incarnation", [2, 9])
def test_a_registry_that_has_a_stranger_under_a_name_ends_nobody(show, say, view, incarnation):
    show(A, "x5")
    show(B, "y1")
    assert say(B, "joined", incarnation=incarnation) == []
    assert say(B, "left", incarnation=incarnation) == []
    assert alive(view) == {"x5", "y1"}


def test_of_two_incarnations_that_of_the_registry_that_answers_counts(show, say, view):
    show(A, "x1")
    view.set_connected(A, False)
    assert show(B, "x2") == ["died x1", "joined x2"]
    assert kinds(view.set_connected(A, True)) == []


def test_one_lives_while_any_registry_says_so(show, say):
    show(A, "x1")
    show(B, "x1")
    assert say(A, "died") == []
    assert say(B, "died") == ["died x1"]


def test_registries_that_never_knew_it_have_no_say_in_a_death(show, say):
    show(A, "x1")
    show(B)
    assert say(A, "died") == ["died x1"]


def test_a_registry_that_is_away_does_not_keep_the_dead_alive(show, say, view):
    show(A, "x1")
    show(B, "x1")
    view.set_connected(B, False)
    assert say(A, "died") == ["died x1"]


def test_a_death_counts_once_the_registry_that_denied_it_is_away(show, say, view):
    show(A, "x1")
    show(B, "x1")
    say(A, "died")
    assert kinds(view.set_connected(B, False)) == ["died x1"]


def test_what_a_registry_said_is_kept_while_it_is_away(show, view, clock):
    show(A, "x1")
    assert view.set_connected(A, False) == []
    clock.now += 1000
    assert view.tick() == []
    assert alive(view) == {"x1"}


def test_a_registry_without_memory_kills_nobody_within_the_grace(show, say, view, clock):
    show(A, "x1", "y1")
    view.set_connected(A, False)
    assert show(A, epoch=2) == []
    clock.now += 9
    assert say(A, "joined", "x") == []
    assert view.tick() == []
    clock.now += 2
    assert kinds(view.tick()) == ["died y1"]
    assert alive(view) == {"x1"}


def test_a_second_loss_of_memory_begins_the_grace_anew(show, view, clock):
    show(A, "x1")
    show(A, epoch=2)
    clock.now += 9
    show(A, epoch=3)
    clock.now += 9
    assert view.tick() == []
    clock.now += 2
    assert kinds(view.tick()) == ["died x1"]


def test_a_second_look_at_a_registry_does_not_cut_the_grace_short(show, view):
    show(A, "x1")
    show(A, epoch=2)
    assert show(A, epoch=2) == []
    assert alive(view) == {"x1"}


def test_an_instance_missing_in_a_whole_snapshot_has_died(show, view):
    show(A, "x1", "y1")
    assert show(A, "y1") == ["died x1"]


def test_the_dead_do_not_come_back_under_the_same_incarnation(show, say, view):
    show(A, "x1")
    say(A, "died")
    assert show(B, "x1") == []
    assert say(B, "joined") == []
    assert say(B, "joined", incarnation=2) == ["joined x2"]


def test_an_end_is_one_change_however_many_registries_say_it(show, say):
    show(A, "x1")
    show(B, "x1")
    assert say(A, "left") == []
    assert say(B, "left") == ["left x1"]
    assert say(A, "died") == say(B, "died") == []


def test_leaving_counts_more_than_a_closed_connection(show, say):
    show(A, "x1")
    show(B, "x1")
    say(A, "left")
    assert say(B, "died") == ["left x1"]


def test_one_is_suspected_when_all_that_know_it_suspect_it(show, say, view):
    show(A, "x1")
    show(B, "x1")
    assert say(A, "suspected") == []
    assert say(B, "suspected") == ["suspected x1"]
    assert view.members["x"].suspected
    assert say(A, "recovered") == ["recovered x1"]
    assert not view.members["x"].suspected


def test_a_suspect_is_known_as_one_from_the_first_snapshot(show):
    assert show(A, "x1", suspected=True) == ["joined x1", "suspected x1"]


def test_what_is_kept_of_the_dead_is_bounded(monkeypatch):
    monkeypatch.setattr(fences, "_MOST", 3)
    kept = fences.Fences()
    for n in range(5):
        kept.add(f"x{n}", n)
    for n in range(100):
        kept.add("x4", n)
    assert [kept.has(f"x{n}", n) for n in range(4)] == [False, False, True, True]
    assert [kept.has("x4", n) for n in (83, 84, 99)] == [False, True, True]
    assert kept.latest("x4") == 99
