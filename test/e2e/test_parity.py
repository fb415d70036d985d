"""The split answers as one stock server does, token by token, greedily."""

from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

# In bf16, stock SGLang itself, asked 8 at once instead of one by one, repeats 17 of these 24 and moves what
# two tokens are apart by up to 0.33 nats: how batches fall is chance. In fp32 nothing moves by 0.0001, of
# whatever batch, chunk or kernel: there every token has to be the same.
MIN_EXACT = 0.8
FLOAT32 = ("--dtype", "float32")
CHUNKED = ("--chunked-prefill-size", "512")
OUR_ATTENTION = ("--attention-backend", "memserve_cpu")

SHORT = (
    "The capital of France is",
    "Once upon a time",
    "def fibonacci(n):",
    "Q: What is 2 + 2?\nA:",
    "1, 2, 3, 4,",
    "Water boils at",
    "import numpy as np\n",
    "Dear Sir or Madam,",
)


def documents():
    """Long English prose that every Python brings along."""
    from pydoc_data.topics import topics

    return [topics[name] for name in ("assignment", "exceptions", "numbers", "objects", "string-methods")]


def prompts(page):
    """Short ones, long ones, prompts that share a prefix, one asked twice, and lengths at page borders."""
    assignment, exceptions, numbers, objects, methods = documents()
    texts = list(SHORT)
    texts += [objects[:900], methods[:1900], exceptions[:3000], objects[1000:6500]]
    texts += [f"{assignment[:4000]}\n\nQuestion: {question}\nAnswer:" for question in SHORT[3:7]]
    texts += [numbers[:1500], numbers[:1500]]
    asked = [{"text": text} for text in texts]
    borders = (max(1, page - 1), page, page + 1, 7 * page, 7 * page, 7 * page + 1)
    return asked + [{"input_ids": list(range(5000, 5000 + length))} for length in borders]


@pytest.fixture(scope="module")
def in_float32(stock_of, greedy):
    """What stock SGLang answers to `prompts` in fp32, asked one by one."""
    with stock_of(*FLOAT32) as url:
        return ids([greedy.answer(url, prompt) for prompt in prompts(greedy.page_size)])


def ids(answers):
    return [answer["output_ids"] for answer in answers]


def ask(greedy, url, concurrency):
    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(lambda prompt: greedy.answer(url, prompt), prompts(greedy.page_size)))


def check(from_stock, greedy, url):
    """In bf16, one by one."""
    expected = from_stock("parity", lambda stock: ask(greedy, stock, 1))
    found = [greedy.difference(e, g) for e, g in zip(expected, ask(greedy, url, 1), strict=True)]
    wrong = [f"prompt {i}: {what}" for i, what in enumerate(found) if what not in (None, "tie")]
    assert not wrong
    print(f"parity in bf16: {found.count(None)} exact, {found.count('tie')} ties")
    assert found.count(None) / len(found) >= MIN_EXACT


def check_exactly(in_float32, greedy, url):
    for concurrency in (1, 8):
        assert ids(ask(greedy, url, concurrency)) == in_float32, f"{concurrency} at once"


def test_one_prefill_and_one_decode(from_stock, one_p_one_d, greedy):
    check(from_stock, greedy, one_p_one_d.url)


def chat(greedy, url):
    """The prompts of eight turns, each with all answers before it in it, and the answers."""
    talk = list(range(3000, 3100))
    prompts, answers = [], []
    for turn in range(8):
        talk = [*talk, *range(7000 + 50 * turn, 7000 + 50 * turn + 30)]
        prompts.append({"input_ids": talk})
        answers.append(greedy.answer(url, prompts[-1]))
        talk = [*talk, *answers[-1]["output_ids"]]
    return prompts, answers


def test_a_chat_whose_answers_feed_back(from_stock, one_p_one_d, greedy):
    """Each turn is asked at once: the last answer's KV may be there, on its way, or neither."""
    prompts, answers = chat(greedy, one_p_one_d.url)
    expected = from_stock("chat", lambda stock: [greedy.answer(stock, prompt) for prompt in prompts])
    found = [greedy.difference(e, g) for e, g in zip(expected, answers, strict=True)]
    assert not [what for what in found if what not in (None, "tie")]
    assert found.count(None) >= len(found) / 2


@pytest.mark.full
@pytest.mark.cpu
def test_our_attention(from_stock, cluster_of, greedy):
    with cluster_of.used("--prefill", "1", "--decode", "1", flags=OUR_ATTENTION) as cluster:
        check(from_stock, greedy, cluster.url)


@pytest.mark.cpu
@pytest.mark.parametrize(
    "flags",
    [CHUNKED, (*OUR_ATTENTION, "--disable-overlap-schedule")],
    ids=["chunked prefill", "our attention, without overlap"],
)
def test_in_float32_every_token_is_the_same(in_float32, cluster_of, greedy, flags):
    with cluster_of.used("--prefill", "1", "--decode", "1", flags=(*flags, *FLOAT32)) as cluster:
        check_exactly(in_float32, greedy, cluster.url)


@pytest.mark.full
@pytest.mark.cpu
@pytest.mark.parametrize("flags", [(), CHUNKED, OUR_ATTENTION], ids=["default", "chunked", "our attention"])
@pytest.mark.parametrize("sizes", [("2", "1"), ("1", "2")], ids=["2P1D", "1P2D"])
def test_more_instances(in_float32, cluster_of, greedy, sizes, flags):
    prefill, decode = sizes
    flags = (*flags, *FLOAT32)
    with cluster_of.used("--prefill", prefill, "--decode", decode, flags=flags) as cluster:
        check_exactly(in_float32, greedy, cluster.url)
