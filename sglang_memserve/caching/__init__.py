"""Context caching across the split: SGLang's radix tree as one instance's view of the MemPool.

`agent` puts the parts together. Each part imports only those below its own:

- requests: `prefetcher` before a request is scheduled, `request_tracker` from then on
- DRAM to HBM: `write_back_receiver` for answers from decode, `loader` into the tree
- HBM to DRAM: `offload_planner` on the scheduler's thread, `offloader` on its own, `write_back` to prefill
- the tree: `tree`, which calls `tree_observers`; `hbm_index` publishes its pages
- bookkeeping: `fetches`, `pending_write_backs`, `written_back_answers`, `prefill_origins`, `counters`
"""
