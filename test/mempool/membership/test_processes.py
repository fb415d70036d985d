"""Deaths of real processes."""

import json
import signal
import time

from waiting import until


def test_a_killed_process_is_dead_long_before_its_silence_would_tell(
    start_registry, join, start_member_process
):
    registry = start_registry(suspicion_s=60, death_s=61)
    a = join("a", registry.endpoint)
    victim = start_member_process("victim", registry.endpoint)
    witness = start_member_process("witness", registry.endpoint)
    for name in ("victim", "witness"):
        a.wait_for_changes(name, "joined")
    victim.send(signal.SIGKILL)
    a.wait_for_changes("victim", "joined", "died")
    assert a.changes_of("witness") == ["joined"]
    assert witness.popen.poll() is None


def test_a_stopped_process_returns_under_a_new_incarnation(start_registry, join, start_member_process):
    registry = start_registry(suspicion_s=0.4, death_s=1.0)
    a = join("a", registry.endpoint)
    victim = start_member_process("victim", registry.endpoint)
    a.wait_for_changes("victim", "joined")
    old = a.member.members["victim"].info.incarnation
    victim.send(signal.SIGSTOP)
    a.wait_for_changes("victim", "suspected", "died")
    victim.send(signal.SIGCONT)
    fenced = json.loads(victim.line())
    assert (fenced["event"], fenced["old"]) == ("fenced", old)
    a.wait_for_changes("victim", "died", "joined")
    assert a.member.members["victim"].info.incarnation == fenced["new"] != old


def test_a_suspect_that_goes_on_in_time_recovers(start_registry, join, start_member_process):
    registry = start_registry(suspicion_s=0.5, death_s=60)
    a = join("a", registry.endpoint)
    victim = start_member_process("victim", registry.endpoint)
    a.wait_for_changes("victim", "joined")
    victim.send(signal.SIGSTOP)
    a.wait_for_changes("victim", "suspected")
    assert a.member.members["victim"].suspected
    victim.send(signal.SIGCONT)
    a.wait_for_changes("victim", "suspected", "recovered")
    assert not a.member.members["victim"].suspected


def test_one_replaced_while_it_was_stopped_waits_until_the_other_is_dead(
    start_registry, join, start_member_process
):
    registry = start_registry(suspicion_s=0.4, death_s=1.0)
    a = join("a", registry.endpoint)
    old = start_member_process("x", registry.endpoint)
    a.wait_for_changes("x", "joined")
    old.send(signal.SIGSTOP)
    a.wait_for_changes("x", "died")
    new = start_member_process("x", registry.endpoint)
    a.wait_for_changes("x", "died", "joined")
    incarnation = a.member.members["x"].info.incarnation
    old.send(signal.SIGCONT)
    fenced = json.loads(old.line())
    assert fenced["event"] == "fenced"
    until(lambda: registry.refusals, "the old one asks for its name")
    assert a.member.members["x"].info.incarnation == incarnation
    new.send(signal.SIGKILL)
    a.wait_for_changes("x", "died", "joined", "died", "joined")
    assert a.member.members["x"].info.incarnation == fenced["new"]


def test_instances_rebuild_a_killed_registry_and_nobody_dies(
    start_registry_process, join, start_member_process
):
    process, endpoint = start_registry_process()
    a, b = join("a", endpoint), join("b", endpoint)
    start_member_process("c", endpoint)
    a.wait_for_changes("c", "joined")
    process.send(signal.SIGKILL)
    process.popen.wait(20)
    assert start_registry_process(endpoint)[1] == endpoint
    late = join("late", endpoint)
    for name in "abc":
        late.wait_for_changes(name, "joined")
    a.wait_for_changes("late", "joined")
    assert a.changes_of("b") == a.changes_of("c") == b.changes_of("a") == ["joined"]
    assert a.fenced == b.fenced == []


def test_one_that_died_with_its_registry_is_reported_after_the_grace(
    start_registry_process, join, start_member_process
):
    process, endpoint = start_registry_process()
    a, b = join("a", endpoint, grace_s=1.0), join("b", endpoint)
    victim = start_member_process("victim", endpoint)
    a.wait_for_changes("victim", "joined")
    process.send(signal.SIGKILL)
    victim.send(signal.SIGKILL)
    process.popen.wait(20)
    start_registry_process(endpoint)
    a.wait_for_changes("victim", "joined", "died")
    assert a.changes_of("b") == ["joined"]
    assert b.fenced == []


def test_with_two_registries_the_death_of_one_changes_nothing(
    start_registry_process, start_registry, join, start_member_process
):
    process, mortal = start_registry_process()
    other = start_registry(suspicion_s=60, death_s=61).endpoint
    a = join("a", mortal, other)
    victim = start_member_process("victim", mortal, other)
    start_member_process("witness", other, mortal)
    for name in ("victim", "witness"):
        a.wait_for_changes(name, "joined")
    process.send(signal.SIGKILL)
    join("late", mortal, other)
    a.wait_for_changes("late", "joined")
    victim.send(signal.SIGKILL)
    a.wait_for_changes("victim", "joined", "died")
    assert a.changes_of("witness") == a.changes_of("late") == ["joined"]


def test_a_registry_that_stands_still_does_not_keep_the_dead_alive(
    start_registry_process, start_registry, join, start_member_process
):
    process, frozen = start_registry_process()
    other = start_registry(suspicion_s=60, death_s=61)
    a = join("a", frozen, other.endpoint)
    victim = start_member_process("victim", frozen, other.endpoint)
    a.wait_for_changes("victim", "joined")
    until(lambda: len(other._roll.standings()) == 2, "the other registry knows it too")
    process.send(signal.SIGSTOP)
    victim.send(signal.SIGKILL)
    a.wait_for_changes("victim", "joined", "died")
    assert a.fenced == []


def test_a_registry_that_stood_still_declares_nobody_dead(start_registry_process, join):
    flags = ("--suspicion", "0.4", "--death", "0.8")
    process, endpoint = start_registry_process("tcp://127.0.0.1:0", *flags)
    a, b = join("a", endpoint), join("b", endpoint)
    a.wait_for_changes("b", "joined")
    process.send(signal.SIGSTOP)
    # Longer than its members may be silent.
    time.sleep(1.0)
    process.send(signal.SIGCONT)
    join("late", endpoint)
    a.wait_for_changes("late", "joined")
    assert "died" not in a.changes_of("b")
    assert a.fenced == b.fenced == []
