"""Part 2: match and insert, ours against SGLang's, a few calls each in turn."""

import contextlib
import random
import statistics
from collections.abc import Callable, Iterator, Sequence

from benchmark.bars import Bar, at_most
from benchmark.mempool.far import Far, FarError
from benchmark.mempool.index_arms import ARMS, TOKENS, Ours, RadixCacheArm, Rust
from benchmark.mempool.plan import MeasurementPlan, say
from sglang_memserve.bench.figures import Rounds

SHAPES = {"one run": TOKENS, "8 nodes": TOKENS // 8}
SIZES = {"10K": 39, "100K": 390, "1M": 4096}
JUDGED_SIZE = "1M"
MATCHES, INSERTS, A_TURN = 100, 16, 4
MATCH, INSERT, GROWN, IN_PLACE = "match_us", "insert_us", "insert_in_8_calls_us", "insert_in_place_us"
MEMORY = "bytes_a_block"
BAR_RATIO, BAR_BYTES = 1.0, 400.0
_NEW = 1_000_000

Medians = dict[str, float]
TimedCalls = Callable[[Far, Sequence[int]], list[float]]


def workload(shape: str, size: str) -> str:
    return f"index, {shape}, {size} blocks"


def in_turn(arms: dict[str, Far], numbers: Sequence[int], ask: TimedCalls, seed: int) -> Medians:
    """Every arm is asked for all `numbers`, a few at a time, in another order each time; none: left out."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    rng, order = random.Random(seed), list(arms)
    for at in range(0, len(numbers), A_TURN):
        rng.shuffle(order)
        for name in order:
            times[name] += ask(arms[name], numbers[at : at + A_TURN])
    return {name: statistics.median(values) for name, values in times.items() if values}


def one_round(arms: dict[str, Far], sequences: int, node_tokens: int, seed: int) -> dict[str, Medians]:
    """By figure and arm. The new sequences are the round's own."""
    rng, new = random.Random(seed), _NEW + 1000 * seed
    found = {
        MATCH: in_turn(
            arms,
            rng.choices(range(sequences), k=MATCHES),
            lambda far, numbers: list(far.ask("match", numbers=numbers)),
            seed,
        )
    }
    for figure, tokens in ((INSERT, TOKENS), (GROWN, node_tokens)):
        if figure == GROWN and node_tokens == TOKENS:
            continue
        found[figure] = in_turn(
            arms,
            range(new, new + INSERTS),
            lambda far, numbers, tokens=tokens: list(  # type: ignore[misc]
                far.ask("insert", numbers=list(numbers), node_tokens=tokens)
            ),
            seed,
        )
        new += INSERTS
    return found


def in_place(arms: dict[str, Far], seed: int) -> dict[str, Medians]:
    """Leaves sequences out that `match` would look for: to be done last."""
    new = _NEW + 1000 * seed + 500
    return {
        IN_PLACE: in_turn(
            arms,
            range(new, new + INSERTS),
            lambda far, numbers: list(far.ask("insert_in_place", numbers=list(numbers))),
            seed,
        )
    }


def note(rounds: Rounds, name: str, found: dict[str, Medians]) -> None:
    """With ours to the peer's, of a pair that saw the same moments of the machine."""
    for figure, medians in found.items():
        for arm, value in medians.items():
            rounds.note(name, arm, **{figure: value})
        rounds.note(name, Ours.name, **{_ratio(figure): medians[Ours.name] / medians[RadixCacheArm.name]})


def _ratio(figure: str) -> str:
    return f"{figure.removesuffix('_us')}_to_radix"


def measure_size(rounds: Rounds, plan: MeasurementPlan, arms: dict[str, Far], shape: str, size: str) -> None:
    """Small indexes are made anew for each round: what it inserts would make them large ones."""
    sequences, node_tokens, name = SIZES[size], SHAPES[shape], workload(shape, size)
    for number in range(plan.rounds):
        if not number or size != JUDGED_SIZE:
            memory = build(arms, sequences, node_tokens)
        if not number and size == JUDGED_SIZE:
            for arm, weight in memory.items():
                rounds.note(name, arm, **{MEMORY: weight})
        note(rounds, name, one_round(arms, sequences, node_tokens, number))
    if size == JUDGED_SIZE:
        for number in range(plan.rounds):
            note(rounds, name, in_place(arms, number))


def build(arms: dict[str, Far], sequences: int, node_tokens: int) -> Medians:
    for far in arms.values():
        far.begin("build", sequences=sequences, node_tokens=node_tokens)
    return {name: float(far.answer(300)) for name, far in arms.items()}


@contextlib.contextmanager
def arms_of(plan: MeasurementPlan, skipped: list[str]) -> Iterator[dict[str, Far]]:
    """New processes, which have no memory to use again. The Rust core may be missing: no bar hangs on it."""
    with contextlib.ExitStack() as stack:
        arms = {
            name: stack.enter_context(Far("index", f"index {name}", plan.logs, arm=name)) for name in ARMS
        }
        try:
            arms[Rust.name].ask("match", numbers=[])
        except FarError as error:
            del arms[Rust.name]
            skipped[:] = [f"SGLang's Rust core: {error}"]
        yield arms


def measure(rounds: Rounds, plan: MeasurementPlan) -> list[str]:
    skipped = list[str]()
    for shape in SHAPES:
        for size in SIZES:
            say(workload(shape, size))
            with arms_of(plan, skipped) as arms:
                measure_size(rounds, plan, arms, shape, size)
    return skipped


def bars(rounds: Rounds) -> list[Bar]:
    found = []
    for shape in SHAPES:
        name = workload(shape, JUDGED_SIZE)
        for figure in (MATCH, INSERT, *([GROWN] if shape != "one run" else [])):
            what = figure.removesuffix("_us").replace("_", " ")
            ratio = rounds.median(name, Ours.name, _ratio(figure))
            found.append(at_most(f"{what}, {name}", ratio, BAR_RATIO, "x", "RadixCache"))
        weight = rounds.median(name, Ours.name, MEMORY)
        found.append(at_most(f"memory, {name}", weight, BAR_BYTES, "bytes a block", "-"))
    return found
