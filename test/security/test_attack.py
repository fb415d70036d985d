"""A slice of scripts/attack.py: nothing that a stranger sends breaks a cluster, and it serves beside."""

from benchmark.attack.run import Attack, run
from benchmark.attack.throwing import KINDS


def test_thousands_of_hostile_inputs_break_nothing(tmp_path):
    outcome = run(Attack(inputs=2000, warm_up=600, alone_s=0.5), tmp_path)
    assert outcome.harm == []
    assert set(outcome.thrown) == set(KINDS)
    assert outcome.thrown.total() == 2000
    # Some of it was well-formed enough to be served, most was refused.
    assert {"answered 200", "answered 400", "answered 415"} <= set(outcome.answers)
    assert {"generate_p99_ms", "feed_p99_ms", "transfer_p99_ms"} <= set(outcome.honest["beside"])
