"""What an instance tells so that others can see whether they fit; a router makes the same of its own."""

import shutil
from types import SimpleNamespace

import pytest

from router.prompt.tokenizer import fingerprint
from sglang_memserve.hooks.scheduler_state import scheduler_state
from sglang_memserve.hooks.server import identify
from sglang_memserve.identity import identity, template_digest, tokenizer_digest
from sglang_memserve.model import resolve_model

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def scheduler(folder, dtype="torch.bfloat16", template=TEMPLATE, **args):
    return SimpleNamespace(
        server_args=SimpleNamespace(
            **{"model_path": str(folder), "tokenizer_path": None, "chat_template": None, **args}
        ),
        tokenizer=SimpleNamespace(chat_template=template),
        token_to_kv_pool_allocator=SimpleNamespace(get_kvcache=lambda: SimpleNamespace(dtype=dtype)),
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    return tmp_path


def test_an_instance_and_a_router_make_the_same_of_a_tokenizer(folder):
    told = identity(scheduler(folder))
    own = fingerprint(str(folder))
    assert (told["tokenizer"], told["template"]) == (own.tokenizer, own.template)
    assert None not in own
    assert told["kv_dtype"] == "bfloat16"


def test_that_of_the_embedded_model_as_transformers_loads_it():
    transformers = pytest.importorskip("transformers", reason="transformers loads it as SGLang does")
    folder = resolve_model(None)
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    own = fingerprint(folder)
    assert own.tokenizer == tokenizer_digest(folder) is not None
    assert own.template == template_digest(None, loaded) is not None


def test_another_tokenizer_template_or_dtype_is_told(folder, tmp_path_factory):
    first = identity(scheduler(folder))
    other = shutil.copytree(folder, tmp_path_factory.mktemp("other") / "model")
    assert identity(scheduler(other)) == first
    (other / "tokenizer.json").write_text('{"version": "2"}')
    told = identity(scheduler(other, dtype="torch.float16", template={"default": "x"}))
    assert {name for name in told if told[name] != first[name]} == {"tokenizer", "template", "kv_dtype"}
    assert identity(scheduler(folder, chat_template="llama-2"))["template"] != first["template"]


def test_what_is_not_on_this_machine_is_not_told(tmp_path):
    told = identity(scheduler("nobody/has-this-model", template=None))
    assert (told["tokenizer"], told["template"]) == (None, None)
    assert identity(scheduler(tmp_path))["tokenizer"] is None


def test_it_is_told_beside_what_a_router_may_count_on_and_of_ours_alone(folder):
    ours, stock = {"memserve": {"caching": "3"}}, {"status": "ready"}
    identify(ours, scheduler(folder))
    identify(stock, scheduler(folder))
    assert (ours["memserve"]["caching"], ours["memserve"]["kv_dtype"]) == ("3", "bfloat16")
    assert stock == {"status": "ready"}
    colocated = scheduler(folder)
    scheduler_state(colocated).agent = object()
    identify(stock, colocated)
    assert stock["memserve"]["model"] == ours["memserve"]["model"]
