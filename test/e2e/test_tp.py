"""A prefill and a decode instance of different tensor parallelism: KV does not fit, and that is said."""

import contextlib
import sys

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.full, pytest.mark.timeout(900)]

FLAGS = ("--max-total-tokens", "4096", "--enable-fp32-lm-head")
# Of each rank; without it SGLang wants a NUMA node for each.
CORES = {"OMP_NUM_THREADS": "1", "SGLANG_CPU_OMP_THREADS_BIND": "0|1|0"}


@pytest.fixture
def instance_process(server_process, free_port):
    """An instance for the length of a block, as a router would know it."""

    @contextlib.contextmanager
    def start(role, *flags):
        port, bootstrap = free_port(), free_port()
        argv = [sys.executable, "-m", "sglang_memserve.launch_server", "--disaggregation-mode", role]
        argv += ["--port", str(port), "--disaggregation-bootstrap-port", str(bootstrap), *FLAGS, *flags]
        with server_process(role, argv, "fired up and ready", CORES):
            yield {"url": f"http://127.0.0.1:{port}", "bootstrap_port": bootstrap, "role": role}

    return start


@pytest.mark.parametrize(("prefill_tp", "decode_tp"), [(3, 1), (1, 3)])
def test_a_request_hears_which_field_differs(instance_process, halves, prefill_tp, decode_tp):
    with (
        instance_process("prefill", "--tp-size", str(prefill_tp)) as prefill,
        instance_process("decode", "--tp-size", str(decode_tp)) as decode,
    ):
        body = {"input_ids": list(range(1000, 1100)), "sampling_params": {"max_new_tokens": 4}}
        first, last = (half.result(120) for half in halves(prefill, decode, body))
    assert last[0] >= 500, last
    assert "heads" in str(last[1]), (first, last)
