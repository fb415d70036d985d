"""The embedded model itself: converted on the first run, then taken from the user's cache."""

import numpy
import pytest

from sglang_memserve import cpu_host
from sglang_memserve.model import describe_model, embedded, embedded_model

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def folder():
    return embedded_model()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


def test_its_size(folder, monkeypatch):
    monkeypatch.setattr(cpu_host, "prefers_float32", lambda: False)
    info = describe_model(str(folder))
    assert (info.context_length, info.kv_bytes_per_token) == (8192, 23040)


def test_an_answer_ends_where_the_chat_template_ends_a_message(folder, tokenizer):
    messages = [{"role": "user", "content": "Hi"}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.eos_token == "<|im_end|>"
    ids = tokenizer.apply_chat_template(messages, return_dict=False)
    assert tokenizer.eos_token_id in ids


@pytest.mark.parametrize("text", ["a  1", "Zürich 你好 🎉", "x = 10**23;\n\tif a:\n", "don't   stop"])
def test_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_each_digit_is_a_token(tokenizer):
    assert len(tokenizer("20240101").input_ids) == 8
    # what stands before a digit is split as if the text ended there, as smollm was trained
    assert tokenizer.convert_ids_to_tokens(tokenizer("a  1").input_ids) == ["a", "ĠĠ", "1"]


def test_the_weights_are_those_of_a_tied_llama(folder):
    torch = pytest.importorskip("torch")
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = set(weights.keys())
        query = weights.get_tensor("model.layers.0.self_attn.q_proj.weight")
    assert len(names) == 272
    assert "lm_head.weight" not in names
    assert (query.dtype, query.shape) == (torch.bfloat16, (576, 576))


def test_rotary_pairs_lie_half_a_head_apart(folder, monkeypatch):
    """GGUF keeps them side by side; the model would still speak with them in the wrong places, only worse."""
    torch = pytest.importorskip("torch")
    from gguf import GGUFReader
    from gguf.quants import dequantize
    from safetensors import safe_open

    # 100,000 parts of the vocabulary are cut out of the file: from an array in memory, in half the time.
    monkeypatch.setattr("numpy.memmap", lambda path, **_: numpy.fromfile(path, numpy.uint8))
    source = next(t for t in GGUFReader(embedded._gguf()).tensors if t.name == "blk.0.attn_k.weight")
    head = torch.from_numpy(dequantize(source.data, source.tensor_type)[64:128].copy()).bfloat16()
    with safe_open(folder / "model.safetensors", "pt") as weights:
        converted = weights.get_tensor("model.layers.0.self_attn.k_proj.weight")[64:128]
    assert torch.equal(converted[:32], head[0::2])
    assert torch.equal(converted[32:], head[1::2])


def test_it_knows_the_capital_of_france(folder, tokenizer):
    """Weights in each other's places would still give 272 tensors of the right shape."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = torch.tensor([tokenizer("The capital of France is").input_ids])
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " Paris"
