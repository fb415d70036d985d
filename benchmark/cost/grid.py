"""The prefills that the cost model is judged by."""

import math
import random
from typing import NamedTuple

from router.cost.attention import Request

PROMPTS = (64, 6000)
SHARES = (0.0, 0.3, 0.6, 0.8, 0.95)
BATCHES = (1, 2, 3, 4)
MOST_TOKENS = 8192
CELLS = 40


class Cell(NamedTuple):
    """`batch` requests of `prompt` tokens each, of which `cached` are there."""

    prompt: int
    cached: int
    batch: int

    @property
    def requests(self) -> tuple[Request, ...]:
        return ((self.cached, self.prompt - self.cached),) * self.batch

    def __str__(self) -> str:
        return f"{self.batch} x ({self.cached} + {self.prompt - self.cached})"


def grid(cells: int = CELLS, page_size: int = 16, seed: int = 7) -> list[Cell]:
    """At least `cells` of them: each batch and each share as often as another, in the same order every time.

    Prompts are spread in logarithms, from the shortest of PROMPTS to the longest, or to what MOST_TOKENS
    allow so many requests; cached prefixes are whole pages.
    """
    rng = random.Random(seed)
    each = -(-cells // len(BATCHES))
    found = []
    for batch in BATCHES:
        low, high = math.log(PROMPTS[0]), math.log(min(PROMPTS[1], MOST_TOKENS // batch))
        # Long prompts have any share.
        shares = rng.sample([SHARES[number % len(SHARES)] for number in range(each)], each)
        for number, share in enumerate(shares):
            prompt = round(math.exp(low + (high - low) * number / max(1, each - 1)))
            found.append(Cell(prompt, int(share * prompt) // page_size * page_size, batch))
    return rng.sample(found, len(found))
