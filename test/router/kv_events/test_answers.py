"""The tree comes right whatever happens to answers on their way."""

import asyncio
import random

import msgspec
import pytest
from fake_feed import HBM, NAMESPACE, has, new_index, new_instance, state, straight, tokens
from waiting import eventually

from mempool.address import Owner
from mempool.feed import messages
from mempool.feed.messages import EventBatch, Unknown
from mempool.index.events import Cleared


def unreliable(rng):
    """Loses, doubles, delays (past the next request) and spoils; so answers come out of order, too."""

    def delivery(request, frame):
        match rng.randrange(12):
            case 0 | 1:
                return []
            case 2 | 3:
                return [(0, frame), (rng.random() * 0.05, frame)]
            case 4 | 5:
                return [(rng.random() * 0.08, frame)]
            case 6:
                return [(0, rng.randbytes(20))]
            case 7:
                return [(0, frame[: rng.randrange(len(frame))])]
            case 8:
                spoilt = bytearray(frame)
                spoilt[rng.randrange(20)] ^= 1 << rng.randrange(8)
                return [(0, bytes(spoilt))]
            case 9:
                return [
                    (
                        0,
                        messages.encode(
                            EventBatch(request.number, 7, [Cleared(seq=request.seq + 5, namespace=None)])
                        ),
                    )
                ]
            case 10:
                return [(0, messages.encode(Unknown(request.number + 1, "of another request"))), (0, frame)]
        return [(0, frame)]

    return delivery


@pytest.mark.parametrize("seed", range(3))
async def test_the_tree_comes_right_whatever_happens_to_answers(tree, make_feed, follow, seed):
    rng = random.Random(seed)
    feeds = [make_feed() for _ in range(3)]
    instances = [new_instance(feed, number) for number, feed in enumerate(feeds)]
    follow(*instances)
    for feed in feeds[:2]:
        feed.delivery = unreliable(rng)
    for _ in range(150):
        feed = rng.choice(feeds)
        match rng.randrange(10):
            case 0:
                feed.indexes[HBM].evict(Owner("i", feed.incarnation, HBM), 5)
            case 1 if rng.random() < 0.3:
                feed.restart()
            case _:
                feed.insert(tokens([1] * 10, [rng.randrange(2) for _ in range(rng.randrange(4, 40))]))
        await asyncio.sleep(0.003)
    for feed in feeds:
        feed.delivery = straight
        feed.insert(tokens(range(8)))
    asked = [tokens([1] * 10, [rng.randrange(2) for _ in range(40)]) for _ in range(100)] + [tokens(range(9))]

    def equal():
        return all(
            tree.match(prompt, "").get(instance, (0, 0))[1]
            == feed.indexes[HBM].match(NAMESPACE, prompt[:-1]).tokens
            for prompt in asked
            for instance, feed in zip(instances, feeds, strict=True)
        )

    await eventually(equal)


async def test_doubled_and_late_answers_cost_nothing(tree, make_feed, follow):
    feed = make_feed()
    feed.delivery = lambda _, frame: [(0, frame), (0.002, frame), (0.01, frame)]
    instance = new_instance(feed)
    feeds = follow(instance)
    for n in range(40):
        feed.insert(tokens([n] * 8))
        await eventually(lambda n=n: has(tree, instance, [n] * 8) == 8)
    await eventually(lambda: feed.requests[HBM] > 40)
    assert [state(feeds, instance)[name] for name in ("snapshots", "gaps", "errors")] == [1, 0, 0]


async def test_events_of_another_incarnation_are_not_applied(tree, make_feed, follow):
    feed, sent = make_feed(), []
    feed.insert(tokens(range(40)))

    def mistaken(request, frame):
        if request.seq >= 0 and not sent:
            sent.append(request)
            frame = messages.encode(
                EventBatch(request.number, 99, [Cleared(seq=request.seq + 1, namespace=None)])
            )
        return [(0, frame)]

    feed.delivery = mistaken
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: sent and feed.requests[HBM] > 4)
    assert has(tree, instance, range(100)) == 40
    assert [state(feeds, instance)[name] for name in ("snapshots", "gaps", "errors")] == [1, 0, 1]


async def test_a_new_incarnation_has_the_instance_asked_what_it_is(tree, make_feed, follow):
    feed = make_feed()
    feed.insert(tokens(range(40)))
    instance = new_instance(feed)
    follow(instance)
    await eventually(lambda: has(tree, instance, range(100)) == 40)
    assert not instance.recheck_requested
    feed.restart()
    feed.insert(tokens(range(8)))
    await eventually(lambda: has(tree, instance, range(100)) == 8)
    assert instance.recheck_requested
    assert instance.probe_requested.is_set()


async def test_a_client_that_fell_behind_gets_a_snapshot(tree, make_feed, follow):
    feed = make_feed()
    feed.indexes[HBM] = new_index(log_events=4)
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: tree.mirrors.follows(instance))
    for n in range(10):
        feed.insert(tokens([n] * 8))
    # A snapshot is taken in steps.
    await eventually(lambda: all(has(tree, instance, [n] * 8) == 8 for n in range(10)))
    await eventually(lambda: state(feeds, instance)["snapshots"] == 2)


async def test_a_gap_is_healed_by_a_snapshot_quietly(tree, make_feed, follow, caplog):
    feed, skipped = make_feed(), []

    def skip_one(_, frame):
        answer = messages.decode_reply(frame)
        if isinstance(answer, EventBatch) and len(answer.events) > 1 and not skipped:
            skipped.append(answer.events[0])
            frame = messages.encode(msgspec.structs.replace(answer, events=answer.events[1:]))
        return [(0, frame)]

    feed.delivery = skip_one
    instance = new_instance(feed)
    feeds = follow(instance)
    await eventually(lambda: tree.mirrors.follows(instance))
    for n in range(3):
        feed.insert(tokens([n] * 8))
    await eventually(lambda: skipped and has(tree, instance, [0] * 8) == 8)
    await eventually(lambda: state(feeds, instance)["snapshots"] == 2)
    assert (state(feeds, instance)["gaps"], state(feeds, instance)["errors"]) == (1, 0)
    assert "feed" not in caplog.text
