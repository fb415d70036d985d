"""Part 5: the paper's figure. The KV of a prompt of Llama-2-13B at TP2, by each of the three modes."""

from typing import Any, NamedTuple

from benchmark.bars import Bar, at_least
from benchmark.mempool.far import Far
from benchmark.mempool.plan import MeasurementPlan, say
from benchmark.mempool.throughput import as_options
from mempool.flags import TransferMode
from mempool.layout import BlockLayout
from sglang_memserve.bench.chart import Chart, Panel, Point
from sglang_memserve.bench.figures import Rounds

PAGE, LAYERS, HEADS, DIM, BYTES = 16, 40, 20, 128, 2
PLANE = PAGE * HEADS * DIM * BYTES
LLAMA_2_13B_TP2 = BlockLayout(
    kind="mha",
    dtype="bfloat16",
    page_size=PAGE,
    layers=LAYERS,
    heads=HEADS,
    k_plane_bytes=PLANE,
    v_plane_bytes=PLANE,
)
LENGTHS = (512, 1024, 2048, 4096, 8192)
# The shortest prompt's, 210 MB; of a longer one the same blocks are sent and written again.
ARENA_BLOCKS = LENGTHS[0] // PAGE
BAR_MESSAGES = 10.0


class TransferArm(NamedTuple):
    """Blocks lie as the paper has them for the mode; for `gathered` aggregated ones are made on the way."""

    name: str
    mode: TransferMode
    store: str


BY_LAYER = TransferArm("by-layer", TransferMode.BY_LAYER, "paged")
BY_REQUEST = TransferArm("by-request", TransferMode.BY_REQUEST, "paged")
AGGREGATED = TransferArm("aggregated", TransferMode.AGGREGATED, "arena")
GATHERED = TransferArm("aggregated, gathered", TransferMode.AGGREGATED, "paged")
ARMS = (BY_LAYER, BY_REQUEST, AGGREGATED, GATHERED)


def workload(tokens: int) -> str:
    return f"KV of {tokens} tokens"


def measure(rounds: Rounds, plan: MeasurementPlan) -> list[str]:
    options: dict[str, Any] = {"layout": as_options(LLAMA_2_13B_TP2), "blocks": ARENA_BLOCKS}
    with (
        Far("channel", "modes sender", plan.logs, paged=True, **options) as sender,
        Far("channel", "modes receiver", plan.logs, **options) as receiver,
    ):
        endpoint = receiver.ask("listen")
        for tokens in LENGTHS:
            say(workload(tokens))
            for number, order in enumerate(plan.turns("modes", ARMS, tokens)):
                sender.ask("fill", stamp=1 + number)
                found = {arm: measure_one(sender, receiver, endpoint, tokens, arm) for arm in order}
                for arm in ARMS:
                    rounds.note(workload(tokens), arm.name, **found[arm])
                if not receiver.ask("holds", stamp=1 + number):
                    raise RuntimeError(f"{workload(tokens)}: not all bytes have landed")
    return []


def measure_one(sender: Far, receiver: Far, endpoint: str, tokens: int, arm: TransferArm) -> dict[str, float]:
    blocks = tokens // PAGE
    (ticket,) = receiver.ask("expect", blocks=blocks)
    sent = sender.ask("send", endpoint=endpoint, ticket=ticket, blocks=blocks, mode=arm.mode, store=arm.store)
    gigabytes = blocks * LLAMA_2_13B_TP2.block_bytes / 1e9
    return {**sent, "gb_per_s": gigabytes / sent["seconds"]}


def bars(rounds: Rounds) -> list[Bar]:
    """At the length at which aggregation saves least."""
    counts = [
        [rounds.median(workload(tokens), arm.name, "messages") for arm in (BY_REQUEST, AGGREGATED)]
        for tokens in LENGTHS
    ]
    fewer = [many / few for many, few in counts if many is not None and few is not None]
    name = "by-request messages for one aggregated message"
    return [at_least(name, min(fewer, default=None), BAR_MESSAGES, "x", BY_REQUEST.name)]


def figure(rounds: Rounds, where: str) -> Chart:
    """Messages and seconds by mode; `where` names the machine."""
    results = rounds.results()

    def curves(figure: str) -> dict[str, list[Point]]:
        found: dict[str, list[Point]] = {}
        for tokens in LENGTHS:
            for arm in ARMS:
                if spread := results.get(workload(tokens), {}).get(arm.name, {}).get(figure):
                    found.setdefault(arm.name, []).append(Point.of(float(tokens), spread))
        return found

    panels = [
        Panel(x_label="prompt (tokens)", y_label=label, curves=curves(figure))
        for figure, label in (("messages", "messages"), ("seconds", "time to send the KV (s)"))
    ]
    return Chart(f"KV of Llama-2-13B at TP2 over TCP loopback, {where}", panels)
