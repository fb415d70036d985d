"""What bench_caching measures: all caching against less of it, and what a cached prefix is worth by source.

`parts` says what meets what and under which load, `duels` lets them meet and `bars` judges them; `crossover`
measures prompts of which `sources` have a part, on the `pair` that it starts.
"""
