import pytest

from mempool.errors import LeaseExpired


def test_what_is_leased_is_not_evicted_until_the_lease_ends(harness):
    harness.insert("ab", 1, 2)
    lease = harness.match("ab", lease_s=5).lease
    assert harness.index.evict(harness.hbm, 2) == 0
    lease.release()
    lease.release()
    assert harness.index.evict(harness.hbm, 2) == 2
    assert harness.index.leases == 0


def test_a_leased_ancestors_copy_stays_though_others_have_it(harness):
    harness.insert("a", 1)
    harness.insert("ab", 2)
    harness.insert("a", 9, owner=harness.dram)
    lease = harness.match("ab", lease_s=5).lease
    assert harness.index.evict(harness.hbm, 2) == 0
    lease.release()
    assert harness.index.evict(harness.hbm, 2) == 2


def test_a_lease_survives_the_split_of_its_node(harness):
    harness.insert("abcd", 1, 2, 3, 4)
    lease = harness.match("abcd", lease_s=5).lease
    harness.insert("abX", 9)
    harness.index.check_integrity()
    assert harness.index.evict(harness.hbm, 5) == 1
    lease.release()
    assert harness.index.evict(harness.hbm, 5) == 4


def test_deleted_blocks_under_a_lease_are_freed_when_the_last_lease_ends(harness):
    harness.insert("ab", 1, 2)
    harness.insert("abc", 3)
    leases = [harness.match("ab", lease_s=5).lease for _ in range(2)]
    assert harness.index.delete("", harness.tokens("ab")) == 3
    assert harness.match("abc").blocks == 0
    assert harness.freed_blocks() == [3]
    leases[0].release()
    assert harness.freed_blocks() == [3]
    leases[1].release()
    assert harness.freed_blocks() == [1, 2, 3]


@pytest.mark.parametrize("leave", ["delete", "clear", "clear_all", "drop_owners"])
def test_a_leased_copy_waits_whatever_takes_it_out(harness, leave):
    harness.insert("ab", 1, 2)
    lease = harness.match("ab", lease_s=5).lease
    {
        "delete": lambda: harness.index.delete("", harness.tokens("a")),
        "clear": lambda: harness.index.clear(""),
        "drop_owners": lambda: harness.index.drop_owners("a"),
        "clear_all": lambda: harness.index.clear(),
    }[leave]()
    assert (harness.match("ab").blocks, harness.freed) == (0, [])
    lease.release()
    assert harness.freed_blocks() == [1, 2]


def test_an_overdue_lease_is_reclaimed_and_its_reader_hears(harness):
    harness.insert("ab", 1, 2)
    lease = harness.match("ab", lease_s=5).lease
    lease.check()
    harness.clock.now += 5
    assert lease.expired
    with pytest.raises(LeaseExpired):
        lease.check()
    assert harness.index.expire_leases() == 1
    with pytest.raises(LeaseExpired, match="outlived its deadline"):
        lease.check()
    lease.release()
    assert harness.index.evict(harness.hbm, 2) == 2


def test_a_lease_is_renewed_from_now_unless_it_is_overdue(harness):
    harness.insert("ab", 1, 2)
    lease = harness.match("ab", lease_s=5).lease
    harness.clock.now += 4
    lease.renew(5)
    harness.clock.now += 4
    assert harness.index.expire_leases() == 0
    harness.clock.now += 1
    with pytest.raises(LeaseExpired):
        lease.renew(5)
    assert harness.index.expire_leases() == 1


def test_a_released_lease_protects_nothing_and_says_so(harness):
    harness.insert("a", 1)
    lease = harness.match("a", lease_s=5).lease
    lease.release()
    assert not lease.expired
    with pytest.raises(LeaseExpired, match="released"):
        lease.check()


@pytest.mark.parametrize("duration_s", [-1, float("inf"), float("nan")])
def test_a_lease_without_a_finite_time_is_refused(harness, duration_s):
    harness.insert("a", 1)
    with pytest.raises(ValueError, match="finite"):
        harness.match("a", lease_s=duration_s)
    assert harness.index.leases == 0


def test_short_leases_leave_nothing_behind_though_nobody_expires_them(harness):
    harness.insert("a", 1)
    for _ in range(1000):
        harness.match("a", lease_s=3600).lease.release()
    assert len(harness.index._leases._heap) < 200
