"""What a lease keeps, and for how long."""

import pytest
import torch
from small_blocks import DRAM, HBM, tokens

from mempool.errors import LeaseExpired, OutOfBlocks


@pytest.mark.parametrize("medium", [HBM, DRAM])
def test_a_lease_keeps_blocks_from_being_evicted_until_it_is_released(pool, medium):
    _, data = pool.published(tokens(4), medium)
    lease = pool.match(tokens(4))
    with pytest.raises(OutOfBlocks):
        pool.alloc_mem(5, medium)
    lease.check()
    assert torch.equal(pool.stored(lease.addresses), data)
    lease.release()
    assert len(pool.alloc_mem(5, medium)) == 5
    with pytest.raises(LeaseExpired, match="released"):
        lease.check()


def test_a_lease_keeps_deleted_blocks_from_being_reused(pool):
    addresses, data = pool.published(tokens(4))
    lease = pool.match(tokens(4))
    assert pool.delete(tokens(4)) == 4
    assert pool.match(tokens(4)).blocks == 0
    taken = pool.alloc_mem(4, HBM)
    assert not set(taken.blocks) & set(addresses.blocks)
    pool.filled(taken)
    with pytest.raises(OutOfBlocks):
        pool.alloc_mem(1, HBM)
    assert torch.equal(pool.stored(addresses), data)
    lease.release()
    assert pool.used(HBM) == (4, 4, 0)


def test_an_overdue_lease_is_reclaimed_and_its_reader_hears(pool):
    pool.published(tokens(8))
    lease = pool.match(tokens(8), lease_s=0.0)
    pool.expire()
    assert len(pool.alloc_mem(8, HBM)) == 8
    with pytest.raises(LeaseExpired, match="outlived"):
        lease.check()
    with pytest.raises(LeaseExpired):
        lease.renew(5)
    lease.release()


def test_a_lease_that_was_renewed_does_not_expire(pool):
    pool.published(tokens(8))
    lease = pool.match(tokens(8), lease_s=60)
    lease.renew(0.0)
    with pytest.raises(LeaseExpired):
        lease.renew(60)
    kept = pool.match(tokens(8), lease_s=60)
    kept.renew(120)
    pool.expire()
    kept.check()


def test_blocks_matched_without_a_lease_may_be_gone(pool):
    pool.published(tokens(2))
    found = pool.match(tokens(2), lease_s=None)
    with pytest.raises(LeaseExpired, match="without a lease"):
        found.check()
    assert pool.index.leases == 0
