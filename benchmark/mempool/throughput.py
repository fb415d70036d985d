"""Part 3: bytes a second over loopback, landed in the receiver's arena and acknowledged."""

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar, Protocol

from benchmark.bars import Bar, at_least, at_most
from benchmark.mempool import mooncake_end
from benchmark.mempool.far import Far, FarError
from benchmark.mempool.plan import MeasurementPlan, say
from mempool.layout import BlockLayout
from sglang_memserve.bench.figures import Rounds

OURS, SHARED, ZEROMQ = "memserve", "memserve, shared memory", "memserve, ZeroMQ"
SOCKET, MOONCAKE = "raw socket", "Mooncake TCP"
DISTRIBUTED = "torch.distributed"
# Both ranks are here, and a name that a host has for itself may lead nowhere.
_DISTRIBUTED_ENV = {"GLOO_SOCKET_IFNAME": "lo"}
KIB, MIB = 1 << 10, 1 << 20
SIZES = {"64 KiB": 64 * KIB, "1 MiB": MIB, "8 MiB": 8 * MIB}
# Beyond the processor's caches.
ARENA_BYTES, TOTAL_BYTES, WARM_UP_BYTES = 128 * MIB, 512 * MIB, 32 * MIB
BAR_SOCKET, BAR_MOONCAKE = 0.8, 2.0
# Of shared memory, against our own streams.
BARS_SHARED = {"64 KiB": 1.1, "1 MiB": 1.5, "8 MiB": 1.5}
BARS_CPU = {"1 MiB": 0.6, "8 MiB": 0.6}
TIMES_STREAM, CPU_OF_STREAM = "times_stream", "cpu_of_stream"
_WARM_UPS = 3


class ArenaPair(Protocol):
    """A sender and a receiver, each a process of its own."""

    name: str
    # Without one that is not, the rest is measured.
    required: ClassVar[bool]

    def fill(self, stamp: int) -> None:
        """What the sender's arena is to hold, all of it."""

    def holds(self, stamp: int) -> bool:
        """Whether the receiver's arena holds that, all of it."""

    def seconds(self, blocks: int) -> float:
        """Of one transfer."""

    def cpu_seconds(self) -> float | None:
        """What both processes have used so far. None: it is of no interest."""


class _ArenaPairEnds:
    required: ClassVar[bool] = True

    def __init__(self, sender: Far, receiver: Far) -> None:
        self.sender, self.receiver = sender, receiver

    def fill(self, stamp: int) -> None:
        self.sender.ask("fill", stamp=stamp)

    def holds(self, stamp: int) -> bool:
        return bool(self.receiver.ask("holds", stamp=stamp))

    def cpu_seconds(self) -> float | None:
        return None


class ChannelPair(_ArenaPairEnds):
    def __init__(self, name: str, scheme: str, sender: Far, receiver: Far, *, encrypt: bool = False) -> None:
        super().__init__(sender, receiver)
        self.name = name
        self.endpoint = receiver.ask("listen", scheme=scheme, encrypt=encrypt)

    def seconds(self, blocks: int) -> float:
        (ticket,) = self.receiver.ask("expect", blocks=blocks)
        sent = self.sender.ask("send", endpoint=self.endpoint, ticket=ticket, blocks=blocks)
        return float(sent["seconds"])

    def cpu_seconds(self) -> float | None:
        return sum(float(end.ask("cpu_seconds")) for end in (self.sender, self.receiver))


class SocketPair(_ArenaPairEnds):
    name = SOCKET

    def __init__(self, sender: Far, receiver: Far) -> None:
        super().__init__(sender, receiver)
        self._port = receiver.ask("listen")

    def seconds(self, blocks: int) -> float:
        self.receiver.begin("receive", blocks=blocks)
        seconds = float(self.sender.ask("send", port=self._port, blocks=blocks))
        self.receiver.answer()
        return seconds


class MooncakePair(_ArenaPairEnds):
    name = MOONCAKE
    required = False

    def __init__(self, sender: Far, receiver: Far) -> None:
        super().__init__(sender, receiver)
        self._where, self._address = receiver.ask("listen")

    def seconds(self, blocks: int) -> float:
        return float(self.sender.ask("send", name=self._where, address=self._address, blocks=blocks))


class DistributedPair(_ArenaPairEnds):
    required = False

    def __init__(self, sender: Far, receiver: Far) -> None:
        super().__init__(sender, receiver)
        self.name = f"{DISTRIBUTED}, {receiver.ask('backend')}"
        port = receiver.ask("listen")
        receiver.begin("join", port=port)
        sender.ask("join", port=port)
        receiver.answer()

    def seconds(self, blocks: int) -> float:
        self.receiver.begin("receive", blocks=blocks)
        seconds = float(self.sender.ask("send", blocks=blocks))
        self.receiver.answer()
        return seconds


def layout(block_bytes: int) -> dict[str, Any]:
    """Of 16 tokens and 16 layers, or as many more as planes of at most 256 KiB need."""
    layers = max(16, block_bytes // (512 * KIB))
    plane = block_bytes // layers // 2
    shape = BlockLayout(
        kind="mha",
        dtype="bfloat16",
        page_size=16,
        layers=layers,
        heads=8,
        k_plane_bytes=plane,
        v_plane_bytes=plane,
    )
    return as_options(shape)


def as_options(shape: BlockLayout) -> dict[str, Any]:
    return {field: getattr(shape, field) for field in shape.__struct_fields__}


def workload(size: str) -> str:
    return f"throughput, blocks of {size}"


@contextlib.contextmanager
def pairs(plan: MeasurementPlan, size: str, skipped: list[str]) -> Iterator[list[ArenaPair]]:
    """All pairs that can be started. `skipped` gets a line about a peer that cannot."""
    block_bytes = SIZES[size]
    blocks = ARENA_BYTES // block_bytes
    plain = {"block_bytes": block_bytes, "blocks": blocks}
    with contextlib.ExitStack() as stack:

        def far(kind: str, name: str, **options: Any) -> Far:
            return stack.enter_context(Far(kind, f"{name} {size}", plan.logs, **options))

        shape = {"layout": layout(block_bytes), "blocks": blocks}
        ours = far("channel", "sender", **shape), far("channel", "receiver", **shape)
        mapped = far("channel", "shm sender", shared=True, **shape), far("channel", "shm receiver", **shape)
        queued = far("channel", "zmq sender", **shape), far("channel", "zmq receiver", **shape)
        raw = far("socket", "raw sender", **plain), far("socket", "raw receiver", **plain)
        found: list[ArenaPair] = []
        group = [
            far("distributed", f"distributed {role}", env=_DISTRIBUTED_ENV, **plain)
            for role in ("sender", "receiver")
        ]
        try:
            found.append(DistributedPair(*group))
        except FarError as error:
            skipped.append(f"{DISTRIBUTED}, blocks of {size}: {error}")
        if plan.peers is not None:
            env = plan.peers.env() | mooncake_end.ENV
            peer = [far("mooncake", f"mooncake {role}", env=env, **plain) for role in ("sender", "receiver")]
            try:
                found.append(MooncakePair(*peer))
            except FarError as error:
                skipped.append(f"{MOONCAKE}, blocks of {size}: {error}")
        yield [
            ChannelPair(OURS, "stream", *ours),
            ChannelPair(SHARED, "shm", *mapped),
            ChannelPair(ZEROMQ, "tcp", *queued),
            SocketPair(*raw),
            *found,
        ]


def one_transfer(pair: ArenaPair, block_bytes: int, stamp: int) -> float:
    """GB/s of the round `stamp`. Raises FarError, also where what was sent has not landed."""
    return transfer_and_cpu(pair, block_bytes, stamp)[0]


def transfer_and_cpu(pair: ArenaPair, block_bytes: int, stamp: int) -> tuple[float, float | None]:
    """The same, and the CPU seconds of both processes for a GB, where the pair counts them."""
    pair.fill(stamp)
    _warm_up(pair, max(1, WARM_UP_BYTES // block_bytes))
    before = pair.cpu_seconds()
    seconds = pair.seconds(TOTAL_BYTES // block_bytes)
    after = pair.cpu_seconds()
    if not pair.holds(stamp):
        raise FarError(f"{pair.name}: not all bytes have landed")
    cpu = None if before is None or after is None else (after - before) / TOTAL_BYTES * 1e9
    return TOTAL_BYTES / seconds / 1e9, cpu


def _warm_up(pair: ArenaPair, blocks: int) -> None:
    """Mooncake fails the first transfer after a pause at times, and recovers."""
    for attempt in range(_WARM_UPS):
        try:
            pair.seconds(blocks)
            return
        except FarError:
            if attempt == _WARM_UPS - 1:
                raise


def measure_size(rounds: Rounds, plan: MeasurementPlan, size: str) -> list[str]:
    skipped = list[str]()
    with pairs(plan, size, skipped) as found:
        speeds: dict[str, list[float]] = {pair.name: [] for pair in found}
        cpu: dict[str, list[float]] = {pair.name: [] for pair in found}
        for number, order in enumerate(plan.turns(size, found)):
            for pair in order:
                if pair.name not in speeds:
                    continue
                try:
                    speed, used = transfer_and_cpu(pair, SIZES[size], number + 1)
                    speeds[pair.name].append(speed)
                    cpu[pair.name] += [] if used is None else [used]
                except FarError as error:
                    if pair.required:
                        raise
                    del speeds[pair.name]
                    skipped.append(f"{pair.name}, blocks of {size}: {error}")
    for arm, values in speeds.items():
        for ours, value in zip(speeds[OURS], values, strict=True):
            rounds.note(workload(size), arm, gb_per_s=value)
            if arm == SHARED:
                rounds.note(workload(size), arm, **{TIMES_STREAM: value / ours})
            elif arm != OURS:
                rounds.note(workload(size), OURS, **{_ratio(arm): ours / value})
    for arm, used_by in cpu.items():
        for value in used_by:
            rounds.note(workload(size), arm, cpu_s_per_gb=value)
    for shared, stream in zip(cpu[SHARED], cpu[OURS], strict=True):
        rounds.note(workload(size), SHARED, **{CPU_OF_STREAM: shared / stream})
    return skipped


def _ratio(arm: str) -> str:
    return f"times_{arm.replace(' ', '_').lower()}"


def measure(rounds: Rounds, plan: MeasurementPlan) -> list[str]:
    skipped = [] if plan.peers is not None else [f"{MOONCAKE}: --without-peer"]
    for size in SIZES:
        say(workload(size))
        skipped += measure_size(rounds, plan, size)
    return skipped


def bars(rounds: Rounds) -> list[Bar]:
    against_peers = [
        at_least(workload(size), rounds.median(workload(size), OURS, _ratio(arm)), bar, "x", arm)
        for size in SIZES
        for arm, bar in ((SOCKET, BAR_SOCKET), (MOONCAKE, BAR_MOONCAKE))
    ]

    def shared(size: str, figure: str) -> float | None:
        return rounds.median(workload(size), SHARED, figure)

    return [
        *against_peers,
        *(
            at_least(f"shared memory, {workload(size)}", shared(size, TIMES_STREAM), bar, "x", OURS)
            for size, bar in BARS_SHARED.items()
        ),
        *(
            at_most(f"CPU of shared memory, {workload(size)}", shared(size, CPU_OF_STREAM), bar, "x", OURS)
            for size, bar in BARS_CPU.items()
        ),
    ]
