"""When bench_pd calls a bar met."""

from sglang_memserve.bench.figures import Rounds


def test_bars_compare_medians_with_the_peer_of_the_same_run(load_script):
    bench_pd = load_script("bench_pd")
    rounds = Rounds()
    for tokens, ours, theirs in ((2048, 60.0, 80.0), (6144, 300.0, 200.0)):
        rounds.note(f"{tokens} tokens", bench_pd.OURS, handoff_ms=ours)
        rounds.note(f"{tokens} tokens", bench_pd.MOONCAKE, handoff_ms=theirs)
    values = [(bar.value, bar.ok) for bar in bench_pd.bars(rounds)]
    assert values == [(0.75, True), (1.5, False), (None, False)]
