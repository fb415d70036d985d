#!/usr/bin/env python3
"""Are the router's decisions between moving KV and computing it the faster ones?

Two colocated instances, each of which sends at most so many bytes a second (`--memserve-max-bandwidth`), at
three bandwidths: one at which a fetch is to win, one near the crossover, and one at which it is to lose.
The router's cost model gets a profile of `memserve calibrate --url`, measured here, with that bandwidth.

- crossover: the TTFT of a prompt at the instance that lacks its prefix, with a hint to fetch it and without,
  one request at a time, median of the rounds. The instance's own counters must show that each was served as
  meant. What the router would decide is to be the faster way wherever the two are more than 15 % apart.
- hot: one prefix of 2,000 tokens, which one instance has, 64 tokens and an answer beside it, and a load that
  rises, through a router: with cost_model at each bandwidth, and with prompt_tree, the same requests at the
  same moments. By the router's own records, cost_model sends nothing to where it would wait for longer than
  computing all of it takes elsewhere, and uses the other instance; prompt_tree uses one alone.
"""

import sys

from benchmark.decisions.arguments import parsed
from benchmark.decisions.benchmark import benchmark
from sglang_memserve.bench import children


def main() -> int:
    return children.run(benchmark(parsed(None, __doc__ or "")))


if __name__ == "__main__":
    sys.exit(main())
