"""The instances that a decision chooses among."""

from router.instances.candidates import Candidates
from router.instances.instance import Instance, Role
from router.instances.registry import Registry


def up(name, role):
    instance = Instance(f"http://{name}:1", role)
    instance.up()
    return instance


def test_one_that_leaves_is_no_candidate_any_more():
    first, second = up("a", Role.COLOCATED), up("b", Role.COLOCATED)
    registry = Registry([first])
    before = registry.candidates
    registry.add(second)
    registry.leave(first)
    assert registry.candidates.instances == (second,)
    assert registry.instances == [first, second]
    assert before.instances == (first,)


def test_health_is_asked_anew():
    first, second = up("a", Role.PREFILL), up("b", Role.PREFILL)
    candidates = Candidates([first, second])
    first.down("gone")
    assert candidates.of(Role.PREFILL) == (first, second)
    assert candidates.healthy(Role.PREFILL) == [second]
    assert candidates.without({second.url}).healthy(Role.PREFILL) == []
