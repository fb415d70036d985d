#!/usr/bin/env python3
"""What is a router worth that knows where KV is and what computing it again would cost?

One cluster of three prefill instances and a decode instance (MemServe, everything cached), and before it one
router after the other: ours with --policy cost_model, session, prompt_tree, least_load (with --full all
policies), and sglang-router with cache_aware, its default policy (scripts/setup_peers.sh). All get the same
requests at the same moments, in rounds, in an order of their own in each. A router is started for its turn,
and knows nothing then; the instances' caches are emptied.

The load is the scheduler test of the MemServe paper, on LooGLE's lengths: a user asks two to four questions
about a document, one after the answer to the other, and every such session is had by three users, at random
moments (Poisson). Requests name their session (routing_key). Prompts are text: sglang-router, before split
instances, goes by nothing else. What is the same for all: docs/benchmarking.md.

Figures are medians of the rounds with lowest and highest. The bars are about the P99 of TTFT; of a round's
120 requests it is the second slowest.
"""

import sys
from pathlib import Path

from benchmark.policies.arguments import parsed
from benchmark.policies.benchmark import benchmark
from sglang_memserve.bench import children

PEERS = Path(__file__).resolve().parents[1] / ".peers"


def main() -> int:
    return children.run(benchmark(parsed(None, __doc__ or "", PEERS)))


if __name__ == "__main__":
    sys.exit(main())
