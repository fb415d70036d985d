from types import SimpleNamespace

import pytest
import torch

from sglang_memserve import cpu_host


@pytest.mark.parametrize(
    ("gpu", "native", "float32"), [(False, False, True), (False, True, False), (True, False, False)]
)
def test_float32_is_for_hosts_where_nothing_computes_bfloat16(monkeypatch, gpu, native, float32):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(
        torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: native), raising=False
    )
    assert cpu_host.prefers_float32() == float32


@pytest.mark.parametrize(("asked", "gets"), [("auto", "float32"), ("bfloat16", "bfloat16")])
def test_a_dtype_that_the_user_chose_stays(monkeypatch, asked, gets):
    platform = pytest.importorskip("sglang_memserve.cpu.platform").MemServeCpuPlatform
    monkeypatch.setattr(cpu_host, "prefers_float32", lambda: True)
    args = SimpleNamespace(dtype=asked)
    platform().apply_server_args_defaults(args)
    assert args.dtype == gets
