#!/usr/bin/env python3
"""What is context caching across the split worth, and what does it cost?

The parts, of which only the first is run unless --full or --part says otherwise:
- sharegpt: chats of ShareGPT's lengths. PD-Caching-3 (memserve-pd: prefill and decode cache, answers go back
  to prefill) against each of PD-Basic (no cache), PD-Caching-2 (no write-back) and stock SGLang split over
  Mooncake's TCP, with decode's radix cache, behind sglang-router with cache_aware, its default policy
  (scripts/setup_peers.sh). With --full also against PD-Caching-1 and a colocated stock server.
- loogle, react: the same for questions about documents and for agents with one long common prompt.
- transfer: KV sent aggregated against by-layer and by-request, at a low and a high rate of prompts that share
  nothing: each is sent as a whole.
- crossover: TTFT over the cached share of a prompt, for a prefix in prefill's HBM, one that was evicted to
  prefill's DRAM, one that only decode has and that a hint lets prefill fetch, and for none. One request at
  a time. prefill's own counters must show that each was served as meant: otherwise it is an error.

Workloads, arms, client and what is held constant are those of `memserve bench` (docs/benchmarking.md). All
systems get the same sessions at the same moments. Two are up at a time, as memory has no room for more:
memserve-pd stays, and meets the others one after the other, in rounds in which either has its turn. The bars'
ratios are of one round's pair, a minute apart; figures are medians with lowest and highest.
"""

import sys
from pathlib import Path

from benchmark.caching.arguments import parsed
from benchmark.caching.benchmark import benchmark
from sglang_memserve.bench import children

PEERS = Path(__file__).resolve().parents[1] / ".peers"


def main() -> int:
    return children.run(benchmark(parsed(None, __doc__ or "", PEERS)))


if __name__ == "__main__":
    sys.exit(main())
