import numpy as np
import pytest
from manual_clock import Clock

from mempool.address import Addresses, Medium, Owner
from mempool.index.index import Index

PAGE = 4
HBM, DRAM = Owner("a", 1, Medium.HBM), Owner("a", 1, Medium.DRAM)


class Harness:
    """An index of pages of 4 tokens whose tokens are written as one letter a block."""

    hbm, dram = HBM, DRAM

    def __init__(self, **settings):
        self.clock = Clock()
        self.freed = []
        self.index = Index(PAGE, on_freed=self.freed.append, clock=self.clock, **settings)

    def tokens(self, letters):
        return [ord(letter) * 10 + n for letter in letters for n in range(PAGE)]

    def insert(self, letters, *blocks, owner=HBM):
        return self.index.insert("", self.tokens(letters), [Addresses(owner, blocks)])

    def match(self, letters, **how):
        return self.index.match("", self.tokens(letters), **how)

    def found(self, letters):
        """(medium, block) of each block that matches."""
        return [(a.medium.value, a.block) for part in self.match(letters).addresses for a in part]

    def freed_blocks(self, owner=HBM):
        return sorted(int(n) for part in self.freed if part.owner == owner for n in part.blocks)


@pytest.fixture
def make_harness():
    return Harness


@pytest.fixture
def harness():
    made = Harness()
    yield made
    made.index.check_integrity()


@pytest.fixture
def contents():
    """What a snapshot holds, block by block: {(namespace, tokens of the prefix): {owner: block}}."""

    def of(snapshot):
        page, prefixes, found = snapshot.page_size * 4, {}, {}
        for stored in snapshot.stored:
            prefix = b"" if stored.parent_run < 0 else prefixes[stored.parent_run, stored.parent_block]
            for n in range(len(stored.tokens) // page):
                prefix += stored.tokens[n * page : (n + 1) * page]
                prefixes[stored.run, stored.first + n] = prefix
                found[stored.namespace, prefix] = {
                    owner: int(np.frombuffer(numbers, np.int32)[n]) for owner, numbers in stored.copies
                }
        return found

    return of
