"""Two real MemPools, and a model that knows no trees: the bytes that each block must have, and for whom."""

import hashlib
import threading
from types import SimpleNamespace

import numpy as np
import torch

from mempool.address import Addresses, Medium, Owner
from mempool.arena import DramArena
from mempool.config import MemPoolConfig, PeerQuota
from mempool.layout import BlockLayout
from mempool.membership.messages import new_incarnation
from mempool.pool import MemPool
from mempool.tiers.tier import device_buffers
from mempool.transports.inproc import InProcess

PAGE = 2
LAYOUT = BlockLayout(
    kind="mha", dtype="uint8", page_size=PAGE, layers=2, heads=1, k_plane_bytes=32, v_plane_bytes=32
)
SIZES = {Medium.HBM: 12, Medium.DRAM: 10}


def tokens_of(letters):
    return np.array([ord(letter) + n for letter in letters for n in range(PAGE)], dtype=np.int32)


def kv_of(namespace, letters):
    """What the block of the last of these tokens holds: attention has seen all before it."""
    return hashlib.shake_128(f"{namespace}/{letters}".encode()).digest(LAYOUT.block_bytes)


def keys_of(parts):
    """(medium, block) of each."""
    return [(part.medium, int(block)) for part in parts for block in part.blocks]


class Gate:
    """A listener that can be made to receive nothing: what was sent to it is under way meanwhile."""

    def __init__(self, listener):
        self._listener = listener
        self.endpoint = listener.endpoint
        self.opened = threading.Event()
        self._lock = threading.Lock()
        self.opened.set()
        self.send = listener.send
        self.pollables = listener.pollables
        self.tend = listener.tend

    def shut(self):
        """After this nothing gets through, not even what the listener's thread is about to receive."""
        with self._lock:
            self.opened.clear()

    def receive(self):
        self.opened.wait(0.001)
        with self._lock:
            return self._listener.receive() if self.opened.is_set() else None

    def close(self):
        self._listener.close()


class Gated(InProcess):
    def __init__(self):
        super().__init__()
        self.gates = {}

    def listen(self, url, limits, max_frame_bytes, place=None):
        self.gates[url] = Gate(super().listen(url, limits, max_frame_bytes, place))
        return self.gates[url]


class Side:
    """A pool, and what the model says of it: `active` blocks of its user, `held` ones for the other side.

    Both name bytes. `pointed_at`: held blocks that the other side's index points to.
    """

    def __init__(self, name, transports, gated):
        self.name = name
        incarnation = new_incarnation()
        hbm, dram = SIZES.values()
        self.pool = MemPool(
            MemPoolConfig(
                instance=name,
                control_url=f"inproc://{name}{incarnation}",
                data_url=f"gated://{name}{incarnation}",
                expiry_interval_s=0.005,
                quota=PeerQuota(share_each=1.0, share=1.0),
            ),
            stores={Medium.HBM: device_buffers(LAYOUT, hbm), Medium.DRAM: DramArena(LAYOUT, dram)},
            transports=transports,
        )
        self.gate = gated.gates[self.pool.info.data].opened
        # Stands for the membership, whose callbacks come from the test.
        self.pool._cluster._client = SimpleNamespace(info=self.pool.info, members={}, close=lambda: None)
        self.forget()

    def forget(self):
        self.active, self.held, self.pointed_at, self.leases = {}, {}, set(), []

    def rows(self, medium):
        """The bytes of every block."""
        store = self.pool.local.tier(medium).store
        out = torch.empty((store.num_blocks, LAYOUT.block_bytes), dtype=torch.uint8)
        store.gather(torch.arange(store.num_blocks), out)
        every, size = out.numpy().tobytes(), LAYOUT.block_bytes
        return [every[at : at + size] for at in range(0, len(every), size)]

    def write(self, key, content):
        medium, block = key
        row = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(1, -1)
        self.pool.local.tier(medium).store.scatter(torch.tensor([block]), row)
        self.active[key] = content

    def addresses(self, keys):
        return [Addresses(self.owner(medium), [block]) for medium, block in keys]

    def owner(self, medium):
        return Owner(self.name, self.pool.local.incarnation, medium)

    def published(self):
        """{(namespace, letters): {owner: block}} of each block that the index has."""
        with self.pool.local.lock:
            snapshot = self.pool.local.index.snapshot()
        prefixes, found = {}, {}
        for stored in snapshot.stored:
            prefix = "" if stored.parent_run < 0 else prefixes[stored.parent_run, stored.parent_block]
            for n, token in enumerate(np.frombuffer(stored.tokens, "<i4")[::PAGE]):
                prefix += chr(token)
                prefixes[stored.run, stored.first + n] = prefix
                found[stored.namespace, prefix] = {
                    owner: int(np.frombuffer(numbers, "<i4")[n]) for owner, numbers in stored.copies
                }
        return found

    def historical(self):
        """Own published blocks, and what they hold."""
        return {
            (owner.medium, block): kv_of(*prefix)
            for prefix, copies in self.published().items()
            for owner, block in copies.items()
            if owner.instance == self.name
        }

    def known(self, namespace, letters, published=None):
        published, known = published or self.published(), 0
        while known < len(letters) and (namespace, letters[: known + 1]) in published:
            known += 1
        return known

    def leased(self):
        return {key: content for _, blocks in self.leases for key, content in blocks.items()}

    def evictable(self, medium):
        """How many blocks of a medium must give way where nothing is leased and nothing under way."""
        published, own = self.published(), self.owner(medium)
        # What leaves HBM goes to DRAM, or with all that hangs on it here; what leaves DRAM goes. Neither does
        # where it is the only copy of what others hang on that are elsewhere.
        here = [self.owner(each) for each in (Medium if medium is Medium.HBM else [medium])]
        stay = {
            (namespace, letters[:n])
            for (namespace, letters), copies in published.items()
            if copies.keys() - set(here)
            for n in range(len(letters))
        }
        return sum(
            own in copies and (len(copies) > 1 or prefix not in stay) for prefix, copies in published.items()
        )

    def check(self, flights):
        """What holds after every call."""
        pool, local = self.pool, self.pool.local
        quiet = not any(self in (flight.source, flight.target) for flight in flights)
        with local.lock:
            local.index.check_integrity()
        historical, leased = self.historical(), self.leased()
        owned = [set(self.active), set(self.held), set(historical)]
        assert sum(map(len, owned)) == len(set().union(*owned)), "one block, two owners"
        assert not set(self.active) & set(leased), "a leased block was given out"
        assert not set(self.held) & set(leased), "a leased block was given out"
        for medium in Medium:
            rows, owner = self.rows(medium), self.owner(medium)
            for blocks in (self.active, self.held, historical, leased):
                for (where, block), content in blocks.items():
                    assert where is not medium or rows[block] == content, f"{where} {block} of {self.name}"
            free, active, kept, total = pool.counts(medium)
            published = local.index.blocks_of(owner)
            assert free + active + kept == total == SIZES[medium]
            assert published == sum(where is medium for where, _ in historical)
            mine = sum(where is medium for where, _ in [*self.active, *self.held])
            if quiet:
                assert active == mine, "active blocks that nobody has"
            assert kept >= published
            assert kept == published or self.leases or not quiet
            # Raises for one that is free.
            pinned = [block for where, block in leased if where is medium]
            local.tier(medium).allocator.inactive(Addresses(owner, pinned))
        if quiet:
            counters = pool.counters()
            assert (counters["incoming"], counters["outgoing"]) == (0, 0)
            assert counters["held_blocks"] == len(self.held)
            assert counters["leases"] == sum(matched.blocks > 0 for matched, _ in self.leases)
