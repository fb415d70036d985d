"""What bench_decisions measures: whether the router's decisions are the faster ones.

`two` instances run under a bound on what they send; `predicted` asks the router's cost model about them,
`points` measures what it decides between, and `judged` compares. `hot` sends a rising load of one prefix
through a router.
"""
