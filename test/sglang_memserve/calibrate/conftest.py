import json
from functools import partial, partialmethod

import pytest

from sglang_memserve.calibrate import calibration
from sglang_memserve.calibrate.attention import PREFILLS, Attention
from sglang_memserve.calibrate.timing import CallTimer

CONFIG = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 2000,
    "torch_dtype": "float32",
}


@pytest.fixture
def folder(tmp_path):
    """Of a very small model."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


@pytest.fixture
def hasty(monkeypatch):
    """Every call is measured once, and no long prefill: figures mean nothing."""
    short = [(cached, new) for cached, new in PREFILLS if cached + new <= 2100]
    monkeypatch.setattr(Attention, "prefills", partialmethod(Attention.prefills, short))
    monkeypatch.setattr(calibration, "CallTimer", partial(CallTimer, budget_s=0.0, min_calls=1))
