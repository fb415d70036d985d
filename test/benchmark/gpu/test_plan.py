"""Which steps a GPU host is given, and that their commands are ones that exist."""

from pathlib import Path

import pytest

from benchmark.caching.arguments import parsed as parsed_bench_caching
from benchmark.gpu.__main__ import main
from benchmark.gpu.arguments import GROUPS, GpuArguments, parsed
from benchmark.gpu.plan import steps

ROOT = Path(__file__).parents[3]


@pytest.fixture
def plan():
    return steps(GpuArguments())


def pytest_steps(plan):
    return [step for step in plan if "pytest" in step.argv]


def value(argv, flag):
    return argv[argv.index(flag) + 1] if flag in argv else None


def test_each_attention_backend_meets_each_page_size_and_the_mla_model(plan):
    parity = [step.argv for step in plan if step.name.startswith("parity")]
    asked = [(value(argv, "--attention-backend"), value(argv, "--page-size")) for argv in parity]
    assert asked == [(name, page) for name in ("flashinfer", "fa3") for page in ("1", "16", "64")]
    mla = [step for step in plan if step.name.startswith("MLA")]
    assert [value(step.argv, "--attention-backend") for step in mla] == ["flashinfer", "fa3"]
    assert {value(step.argv, "--model-path") for step in mla} == {GpuArguments().mla_model}


def test_every_server_is_on_cuda_and_none_has_the_attention_for_cpus(plan):
    for step in plan:
        if "--attention-backend" in step.argv or "check_gpu.py" in " ".join(step.argv):
            assert value(step.argv, "--device") == "cuda", step.name
            assert "memserve_cpu" not in step.argv, step.name


def test_names_of_steps_differ_and_each_has_a_limit(plan):
    assert len({step.name for step in plan}) == len(plan)
    assert all(0 < step.limit_s <= 4 * 3600 for step in plan)
    limited = steps(parsed(["--limit", "7", "--only", "check", "unit", "parity", "bench", "--without-peer"]))
    assert {step.limit_s for step in limited if not step.name.startswith("download")} == {7}


def test_models_of_the_hub_are_downloaded_once_and_not_looked_for_again(plan, tmp_path):
    assert [step.argv[-1] for step in plan if step.name.startswith("download")] == [
        GpuArguments().model,
        GpuArguments().mla_model,
    ]
    assert all(step.env == {"HF_HUB_OFFLINE": "1"} for step in plan if "--model-path" in step.argv)
    local = steps(parsed(["--model", str(tmp_path), "--only", "parity", "pd", "--without-peer"]))
    assert not [step for step in local if step.name.startswith(("download", "peers")) or step.env]


def test_tests_that_are_named_exist_and_pytest_knows_their_flags(plan, pytestconfig):
    for step in pytest_steps(plan):
        for argument in step.argv:
            if argument.startswith("test/"):
                path, _, name = argument.partition("::")
                assert (ROOT / path).exists(), argument
                assert not name or f"def {name}(" in (ROOT / path).read_text(), argument
            elif argument.startswith("--"):
                pytestconfig.getoption(argument)


def test_the_benchmarks_take_the_flags_that_they_get(plan, load_script):
    found = {step.name: step for step in plan}
    options = load_script("bench_pd").parsed(found["bench_pd"].argv[2:])
    assert (options.device, options.attention_backend, options.page_size) == ("cuda", "flashinfer", 16)
    assert (options.model, options.json) == (GpuArguments().model, True)
    caching = parsed_bench_caching(found["bench_caching"].argv[2:], "", ROOT)
    assert (caching.device, caching.options.attention_backend) == ("cuda", "flashinfer")
    assert (caching.options.page_size, caching.options.model) == (16, GpuArguments().model)
    assert load_script("check_gpu").parsed(list(found["check_gpu"].argv[2:])).device == "cuda"


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_can_be_had_alone(group):
    alone = steps(parsed(["--only", group]))
    chosen = [step for step in alone if not step.name.startswith(("download", "peers"))]
    assert 0 < len(chosen) < len(steps(GpuArguments()))


def test_the_plan_is_printed_without_a_gpu(capsys):
    assert main(["--plan", "--only", "parity", "--page-sizes", "64"]) == 0
    printed = capsys.readouterr().out
    assert "parity, fa3, page 64" in printed
    assert "HF_HUB_OFFLINE=1" in printed
    assert "--attention-backend fa3 --page-size 64" in printed
    assert "page 16" not in printed


@pytest.mark.parametrize("arguments", [["--page-sizes", "0"], ["--limit", "0"], ["--only", "nothing"]])
def test_a_wrong_argument_is_refused(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(arguments)
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_the_manual_says_what_has_been_run_of_each_group():
    page = (ROOT / "docs" / "start" / "gpu.md").read_text()
    assert [group for group in GROUPS if f"| `{group}` |" not in page] == []
