"""sglang_router's command lines, as they are."""

import re
from pathlib import Path

import pytest

from router.config.flags import make_parser, parse
from router.config.settings import ConfigError, RouterConfig
from router.config.sglang_router import IGNORED, REFUSED

ROOT = Path(__file__).parents[3]
WORKER = ["--worker-urls", "http://a:1"]


def test_a_long_command_line_drops_in():
    config = parse(
        [
            *("--pd-disaggregation", "--prefill", "http://p:1", "8998", "--decode", "http://d:1"),
            *(
                "--policy",
                "cache_aware",
                "--prefill-policy",
                "cache_aware",
                "--decode-policy",
                "power_of_two",
            ),
            *("--cache-threshold", "0.5", "--balance-abs-threshold", "32", "--eviction-interval-secs", "120"),
            *("--max-tree-size", "1000", "--retry-max-retries", "3", "--retry-jitter-factor", "0"),
            *("--cb-failure-threshold", "5", "--disable-circuit-breaker", "--log-level", "warn"),
            *("--worker-startup-timeout-secs", "600", "--model-path", "some/model", "--backend", "sglang"),
            *("--max-concurrent-requests", "-1", "--selector", "a=b", "c=d", "--cors-allowed-origins"),
        ],
        {},
    )
    assert config.ignored_flags == (
        "--cache-threshold",
        "--balance-abs-threshold",
        "--eviction-interval-secs",
        "--worker-startup-timeout-secs",
        "--selector",
    )
    assert (config.policy, config.prefill_policy, config.decode_policy) == (
        "cache_aware",
        "cache_aware",
        "power_of_two",
    )
    assert (config.max_tree_size, config.retry_max_retries, config.cb_failure_threshold) == (1000, 3, 5)
    assert config.disable_circuit_breaker
    assert not config.disable_retries
    assert config.tokenizer == "some/model"


@pytest.mark.parametrize(
    "argv",
    [
        ["--enable-igw"],
        ["--service-discovery"],
        ["--backend", "openai"],
        ["--history-backend", "redis"],
        ["--tls-cert-path", "c.pem"],
        ["--control-plane-api-keys", "a:b:admin:c"],
        ["--jwt-issuer", "https://x"],
        ["--mcp-config-path", "m.yaml"],
    ],
)
def test_what_would_be_wrong_to_leave_out_is_refused(argv):
    with pytest.raises(ConfigError) as error:
        parse([*WORKER, *argv], {})
    assert argv[0] in str(error.value)


def test_limits_have_effect():
    flags = ["--max-concurrent-requests", "7", "--queue-size", "0", "--queue-timeout-secs", "5"]
    config = parse([*WORKER, *flags, "--rate-limit-tokens-per-second", "3"], {})
    assert (config.max_concurrent_requests, config.queue_size, config.queue_timeout_secs) == (7, 0, 5)
    assert (config.rate_limit_tokens_per_second, config.ignored_flags) == (3, ())
    assert parse([*WORKER, "--max-concurrent-requests", "-1"], {}).max_concurrent_requests == -1


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--queue-size", "-1"),
        ("--queue-timeout-secs", "0"),
        ("--max-connections", "0"),
        ("--max-body-memory", "0"),
        ("--client-header-timeout-secs", "0"),
        ("--send-timeout-secs", "inf"),
        ("--max-concurrent-requests", "many"),
    ],
)
def test_limits_that_make_no_sense_are_refused(flag, value):
    with pytest.raises(ConfigError) as error:
        parse([*WORKER, flag, value], {})
    assert flag in str(error.value)


def test_tokenizers_by_order_of_names():
    names = ["--model-path", "m", "--tokenizer-path", "t"]
    assert parse([*WORKER, *names], {}).tokenizer == "t"
    assert parse([*WORKER, *names, "--tokenizer", "ours"], {}).tokenizer == "ours"


def test_switches_from_the_environment():
    assert parse(WORKER, {"MEMSERVE_ROUTER_DISABLE_RETRIES": "true"}).disable_retries
    assert not parse(WORKER, {"MEMSERVE_ROUTER_DISABLE_RETRIES": "0"}).disable_retries
    with pytest.raises(ConfigError, match="MEMSERVE_ROUTER_DISABLE_RETRIES='maybe'"):
        parse(WORKER, {"MEMSERVE_ROUTER_DISABLE_RETRIES": "maybe"})


@pytest.mark.parametrize("factor", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_0_to_1(factor):
    with pytest.raises(ConfigError, match="--retry-jitter-factor"):
        RouterConfig(colocated=("http://a:1",), retry_jitter_factor=factor)


def test_the_manual_lists_every_flag():
    manual = (ROOT / "docs" / "guides" / "from-sglang-router.md").read_text()
    known = [*IGNORED, *REFUSED]
    assert [name for name in known if f"`--{name}`" not in manual] == []


def test_sglang_router_has_no_flag_that_is_unknown_here():
    path = ROOT / ".peers" / "sglang_router" / "router_args.py"
    if not path.exists():
        pytest.skip("sglang_router is not installed (scripts/setup_peers.sh)")
    flags = set(re.findall(r'f?"--(?:\{prefix\})?([a-z0-9-]+)"', path.read_text()))
    others = flags - {"prometheus-port", "prometheus-host"}
    known = {flag[2:] for action in make_parser()._actions for flag in action.option_strings}
    assert len(others) > 90
    assert others - known == set()
