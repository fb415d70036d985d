"""What the cluster's key costs: each measurement runs with a key and without."""

import pytest

from benchmark.security import control_round_trip, decision_beside_feed, feed, handoff_message
from mempool.security.access import ClusterAccess
from mempool.security.cluster_key import ClusterKey

MEASUREMENTS = {
    "decision": lambda access: decision_beside_feed(access, blocks=512, rate=1000.0, seconds=0.2),
    "control": lambda access: control_round_trip(access, calls=10),
    "handoff": lambda access: handoff_message(access, messages=10),
    "feed": lambda access: feed(access, blocks=512),
}


@pytest.mark.parametrize("name", MEASUREMENTS)
@pytest.mark.parametrize("key", ["", "k" * 40], ids=["open", "keyed"])
def test_each_port_is_measured(name, key):
    access = ClusterAccess(ClusterKey(key) if key else None)
    assert MEASUREMENTS[name](access) > 0
