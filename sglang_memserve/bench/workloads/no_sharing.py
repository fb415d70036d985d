"""The counter-test: prompts that differ from the first token on, so that no cache can help."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from sglang_memserve.bench.workloads.assemble import Draft, cut_turn, generate
from sglang_memserve.bench.workloads.errors import refused
from sglang_memserve.bench.workloads.form import Workload
from sglang_memserve.bench.workloads.lengths import Quantiles, Scaler
from sglang_memserve.bench.workloads.settings import PAPER_CONTEXT, Settings
from sglang_memserve.bench.workloads.tokens import TokenSource

# ShareGPT's requests, history included, in a window of 4,096 tokens, as measured: means 1,111 and 316.
_PROMPT = Quantiles(
    {
        0: 1,
        0.05: 12,
        0.25: 183,
        0.4: 509,
        0.5: 784,
        0.6: 1126,
        0.75: 1817,
        0.9: 2812,
        0.95: 3256,
        0.99: 3715,
        1: 4081,
    }
)
_ANSWER = Quantiles({0: 1, 0.05: 25, 0.25: 144, 0.5: 283, 0.75: 429, 0.9: 628, 0.95: 782, 0.99: 972, 1: 1611})


@dataclass(frozen=True, kw_only=True)
class NoSharingSettings(Settings):
    """There can be no more sessions than the vocabulary has tokens to begin with."""

    max_context: int | None = PAPER_CONTEXT


def no_sharing(settings: NoSharingSettings) -> Workload:
    """Sessions of one turn, with prompts (history included) and answers as long as ShareGPT's."""
    return generate("no-sharing", settings, _drafts(settings))


def _drafts(settings: NoSharingSettings) -> Iterator[Draft]:
    tokens, scaled = TokenSource(settings.seed, settings.vocabulary), Scaler(settings.scale)
    rng = Random(f"{settings.seed} prompts")
    firsts = list(range(*settings.vocabulary))
    if settings.sessions is not None and settings.sessions > len(firsts):
        raise refused("no-sharing", "sessions", settings.sessions, f"expected at most {len(firsts)}")
    rng.shuffle(firsts)
    for n, first in enumerate(firsts):
        name = f"no-sharing-{n}"
        prompt = (first, *tokens(name, scaled("prompt", _PROMPT.draw(rng)))[1:])
        yield Draft(name, [cut_turn(settings, prompt, scaled("answer", _ANSWER.draw(rng)))])
