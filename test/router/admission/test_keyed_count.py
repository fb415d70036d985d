from router.admission.keyed_count import KeyedCount


def test_a_key_holds_no_more_than_its_limit():
    held = KeyedCount()
    assert [held.take("a", 2) for _ in range(3)] == [True, True, False]
    assert held.take("b", 2)
    assert (held["a"], held["b"], held.total) == (2, 1, 3)
    held.give_back("a")
    assert held.take("a", 2)
    assert not held.take("a", 2)


def test_a_limit_is_each_keys_own_and_none_is_none():
    held = KeyedCount()
    assert not held.take("a", 0)
    assert all(held.take("b", None) for _ in range(100))


def test_keys_that_hold_nothing_are_forgotten():
    held = KeyedCount()
    for number in range(1000):
        assert held.take(str(number), 1)
        held.give_back(str(number))
        assert held[str(number)] == 0
    assert (len(held._held), held.total) == (0, 0)
