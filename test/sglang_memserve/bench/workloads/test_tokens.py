from collections import Counter

from sglang_memserve.bench.workloads.tokens import TokenSource


def test_a_name_has_the_same_tokens_whatever_was_asked_for_before():
    tokens, other = TokenSource(1, (1000, 40000)), TokenSource(1, (1000, 40000))
    other("first", 100)
    assert tokens("document", 50) == other("document", 50)
    assert tokens("document", 50) == tokens("document", 90)[:50]


def test_another_name_or_seed_has_other_tokens():
    tokens = TokenSource(1, (1000, 40000))
    assert tokens("a", 20) != tokens("b", 20)
    assert tokens("a", 20) != TokenSource(2, (1000, 40000))("a", 20)


def test_every_token_of_the_vocabulary_is_as_likely():
    counts = Counter(TokenSource(1, (5, 15))("many", 20_000))
    assert sorted(counts) == list(range(5, 15))
    assert max(counts.values()) < 1.1 * min(counts.values())
