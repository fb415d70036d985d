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


def test_instance_and_router_compute_the_same_digests(folder):
    published = identity(scheduler(folder))
    own = fingerprint(str(folder))
    assert (published["tokenizer"], published["template"]) == (own.tokenizer, own.template)
    assert None not in own
    assert published["kv_dtype"] == "bfloat16"


def test_digests_of_the_embedded_model_as_transformers_loads_it():
    transformers = pytest.importorskip("transformers", reason="transformers loads it as SGLang does")
    folder = resolve_model(None)
    loaded = transformers.AutoTokenizer.from_pretrained(folder)
    own = fingerprint(folder)
    assert own.tokenizer == tokenizer_digest(folder) is not None
    assert own.template == template_digest(None, loaded) is not None


def test_another_tokenizer_template_or_dtype_changes_the_identity(folder, tmp_path_factory):
    first = identity(scheduler(folder))
    other = shutil.copytree(folder, tmp_path_factory.mktemp("other") / "model")
    assert identity(scheduler(other)) == first
    (other / "tokenizer.json").write_text('{"version": "2"}')
    published = identity(scheduler(other, dtype="torch.float16", template={"default": "x"}))
    changed = {name for name in published if published[name] != first[name]}
    assert changed == {"tokenizer", "template", "kv_dtype"}
    assert identity(scheduler(folder, chat_template="llama-2"))["template"] != first["template"]


def test_what_is_not_on_this_machine_has_no_digest(tmp_path):
    published = identity(scheduler("nobody/has-this-model", template=None))
    assert (published["tokenizer"], published["template"]) == (None, None)
    assert identity(scheduler(tmp_path))["tokenizer"] is None


def test_the_identity_is_added_to_the_server_info_of_memserve_alone(folder):
    ours, stock = {"memserve": {"caching": "3"}}, {"status": "ready"}
    identify(ours, scheduler(folder))
    identify(stock, scheduler(folder))
    assert (ours["memserve"]["caching"], ours["memserve"]["kv_dtype"]) == ("3", "bfloat16")
    assert stock == {"status": "ready"}
    colocated = scheduler(folder)
    scheduler_state(colocated).agent = object()
    identify(stock, colocated)
    assert stock["memserve"]["model"] == ours["memserve"]["model"]
