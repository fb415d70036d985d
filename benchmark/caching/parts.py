"""What is compared with what, and under which load."""

from dataclasses import dataclass

from sglang_memserve.bench.serving.options import Load

PIVOT = "memserve-pd"
BASIC, MODE_1, MODE_2 = "memserve-pd-basic", "memserve-pd-1", "memserve-pd-2"
PEER, COLOCATED = "stock-pd-radix", "colocated"
MILESTONES = (BASIC, MODE_2, PEER)


@dataclass(frozen=True)
class BenchmarkPart:
    """A workload on which PIVOT meets each of `partners`, one after the other, and with --full of `more`.

    `load` and `rates`, in sessions a second, one run each, are for machines without a GPU.
    """

    workload: str
    load: Load
    partners: tuple[str, ...] = MILESTONES
    more: tuple[str, ...] = (MODE_1, COLOCATED)
    rates: tuple[float, ...] = ()
    seed: int = 0

    def against(self, full: bool, peer: bool) -> tuple[str, ...]:
        """The systems that PIVOT meets. Without `peer`, stock SGLang's pair is left out."""
        chosen = (*self.partners, *(self.more if full else ()))
        return tuple(name for name in chosen if peer or name != PEER)


# Scaled to a quarter, for runs of half a minute. The seed of the chats is, of 400, the one whose ten come
# nearest to those that were measured: 4.0 turns (4.1), prompts of 282 tokens (278), answers of 70 (79),
# 90 % of the prompts' tokens there before (94). Rates leave prefill half of its time where nothing is cached.
PARTS = {
    "sharegpt": BenchmarkPart("sharegpt", Load(sessions=10, rate=0.7, scale=0.25), seed=395),
    "loogle": BenchmarkPart("loogle", Load(sessions=40, rate=0.6, scale=0.25)),
    "react": BenchmarkPart("react", Load(sessions=12, rate=0.25, scale=0.25)),
    # Every prompt is sent as a whole: with caching there would be little to send.
    "transfer": BenchmarkPart(
        "no-sharing",
        Load(sessions=30, rate=0.5, scale=0.25),
        partners=("memserve-pd-by-layer", "memserve-pd-by-request"),
        more=(),
        rates=(0.5, 2.5),
    ),
}
CROSSOVER = "crossover"
ALL = (*PARTS, CROSSOVER)
DEFAULT = ("sharegpt",)
