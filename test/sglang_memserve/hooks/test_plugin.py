"""The plug-in in a process of its own: what it changes in SGLang lasts as long as the process."""

import os
import subprocess
import sys

import pytest
from zygote import Zygote

# All of SGLang that the checks have in common before the plug-in is loaded: its import takes many seconds.
SGLANG = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.disaggregation.decode",
    "sglang.srt.disaggregation.prefill",
)
LOADED = "from sglang.srt.plugins import load_plugins\nload_plugins()\n"


@pytest.fixture(scope="module")
def sglang():
    """Runs code as `python -c` does, in a process that has SGLang loaded."""
    zygote = Zygote(*SGLANG)

    def run(code, argv=(), **environ):
        command = [sys.executable, "-c", code, *argv]
        return zygote.run(command, capture_output=True, text=True, timeout=120, env=os.environ | environ)

    return run


def python(code, **environ):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=os.environ | environ
    )


def test_sglang_loads_the_backend_and_every_hook_takes_hold(sglang):
    done = sglang(
        LOADED + "from sglang.srt.disaggregation.utils import TransferBackend, KVClassType, get_kv_class\n"
        "from sglang_memserve.hook_check import require_applied\n"
        "require_applied()\n"
        "ours, fake = TransferBackend('memserve'), TransferBackend.FAKE\n"
        "assert ours is TransferBackend.MEMSERVE and ours in list(TransferBackend)\n"
        "print(*(get_kv_class(ours, kind).__name__ for kind in KVClassType))\n"
        "print(get_kv_class(fake, KVClassType.SENDER).__name__)\n"
        "from sglang.srt.disaggregation import prefill\n"
        "assert prefill.get_kv_class(ours, KVClassType.SENDER).__name__ == 'MemServeKVSender'\n"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [
        "KVArgs",
        "MemServeKVManager",
        "MemServeKVSender",
        "MemServeKVReceiver",
        "MemberBootstrapServer",
        "FakeKVSender",
    ]


def test_a_hook_whose_target_is_gone_is_named(sglang):
    done = sglang(
        "import sglang.srt.disaggregation.decode as decode\n"
        "del decode.DecodePreallocQueue._init_kv_manager\n"
        + LOADED
        + "from sglang.srt.disaggregation.utils import TransferBackend, KVClassType, get_kv_class\n"
        "get_kv_class(TransferBackend('memserve'), KVClassType.MANAGER)\n"
    )
    assert done.returncode != 0
    assert "DecodePreallocQueue._init_kv_manager to hook into" in done.stderr


def test_a_server_that_is_not_served_ends_before_it_loads_anything(sglang):
    flags = ["--disaggregation-mode", "prefill", "--tokenizer-worker-num", "2", "--pp-size", "2"]
    as_main = "run_module('sglang_memserve.launch_server', run_name='__main__', alter_sys=True)"
    done = sglang(f"from runpy import run_module\n{as_main}\n", flags)
    assert done.returncode != 0
    assert "Unsupported" in done.stderr
    assert "--pp-size 2 (each stage has" in done.stderr
    assert "--tokenizer-worker-num 2 (SGLang loads no" in done.stderr
    assert "Load weight" not in done.stderr


@pytest.mark.parametrize(("argv", "code"), [("'--disaggregation-transfer-backend', 'memserve'", 1), ("", 0)])
def test_an_untested_sglang_is_refused_where_memserve_is_used(argv, code):
    done = python(
        f"import sys; sys.argv += [{argv}]\n"
        "from sglang_memserve import compat, plugin\n"
        "compat.TESTED_SGLANG = ('0.0.1',)\n"
        "plugin.register()\n"
    )
    assert done.returncode == code
    assert "tested with SGLang 0.0.1" in done.stderr


def test_an_untested_sglang_can_be_allowed():
    done = python(
        "from sglang_memserve import compat\n"
        "compat.TESTED_SGLANG = ('0.0.1',)\n"
        "print(compat.untested_sglang())",
        MEMSERVE_ALLOW_UNTESTED_SGLANG="1",
    )
    assert done.stdout.strip() == "None", done.stderr
