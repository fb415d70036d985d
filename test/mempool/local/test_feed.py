"""What followers hear of a pool."""

from index_mirror import Mirror
from small_blocks import PAGE

TOKENS = list(range(16))


def test_followers_hear_what_is_published_moved_and_dropped(make):
    pool, news = make(), []
    pool.feed.listen(lambda: news.append(1))
    incarnation, snapshot = pool.feed.snapshot()
    mirror = Mirror(PAGE)
    mirror.apply(snapshot)
    pool.published(TOKENS)
    pool.swap_out(2)
    pool.delete(TOKENS[:8])
    assert news
    for event in pool.feed.events_after(incarnation, mirror.seq):
        mirror.apply(event)
    late = Mirror(PAGE)
    late.apply(pool.feed.snapshot()[1])
    assert mirror.seq == late.seq
    assert mirror.tree.nodes == late.tree.nodes == 0


def test_a_pool_that_begins_anew_says_so_and_tells_of_nothing_before(make):
    pool, news = make(), []
    incarnation, _ = pool.feed.snapshot()
    pool.published(TOKENS)
    pool.feed.listen(lambda: news.append(1))
    pool.reset_incarnation(incarnation + 1)
    assert news == [1]
    assert pool.feed.events_after(incarnation, 0) is None
    now, snapshot = pool.feed.snapshot()
    assert (now, snapshot.stored) == (incarnation + 1, [])
    pool.published(TOKENS)
    assert len(pool.feed.events_after(now, snapshot.seq)) == 1
    assert len(news) == 2
