"""The steps that the arguments ask for: real commands, each of which can be run by hand."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmark.gpu.arguments import GpuArguments

ROOT = Path(__file__).resolve().parents[2]
_PARITY = (
    "test/e2e/test_parity.py",
    "test/e2e/test_caching_parity.py::test_chats_that_ask_for_what_is_on_its_way",
)
_OVERLAP = (
    "test/e2e/test_answers.py::test_an_answer_is_what_stock_sglang_gives",
    "test/e2e/test_answers.py::test_both_halves_launch_a_batch_beside_one_that_runs",
)
_PAGE = 16
_MLA_PAGE = 64


@dataclass(frozen=True)
class GpuStep:
    """`argv` runs from the repository's root, with `env` beside the caller's, for `limit_s` seconds at most.

    `measures`: its output ends with one JSON object of results and bars.
    """

    name: str
    about: str
    argv: tuple[str, ...]
    limit_s: float
    env: dict[str, str] = field(default_factory=dict)
    measures: bool = False


def steps(asked: GpuArguments) -> list[GpuStep]:
    """In the order in which they run: what others need first, then the quick ones."""
    makers = {
        "check": _check,
        "unit": _unit,
        "parity": _parity,
        "overlap": _overlap,
        "caching": _caching,
        "mla": _mla,
        "leaks": _leaks,
        "pd": _pd,
        "bench": _bench,
    }
    chosen = [step for name in asked.only for step in makers[name](asked)]
    return [*_preparations(asked), *chosen]


def _preparations(asked: GpuArguments) -> Iterator[GpuStep]:
    wanted = []
    if set(asked.only) - {"check", "unit", "mla"}:
        wanted.append(asked.model)
    if "mla" in asked.only:
        wanted.append(asked.mla_model)
    for model in filter(_on_the_hub, wanted):
        argv = (sys.executable, "-m", "benchmark.gpu.download", model)
        yield GpuStep(f"download {model}", "so that no server waits for it", argv, 2 * 3600)
    if asked.peer and {"pd", "bench"} & set(asked.only):
        yield GpuStep("peers", "Mooncake and sglang-router", ("scripts/setup_peers.sh",), 1800)


def _on_the_hub(model: str) -> bool:
    return not Path(model).expanduser().exists()


def _offline(model: str) -> dict[str, str]:
    """It was downloaded before."""
    return {"HF_HUB_OFFLINE": "1"} if _on_the_hub(model) else {}


def _script(name: str, about: str, asked: GpuArguments, limit_s: float, *flags: str) -> GpuStep:
    argv = (sys.executable, f"scripts/{name}", "--device", asked.device, *flags, "--json")
    return GpuStep(Path(name).stem, about, argv, asked.limit_s or limit_s, _offline(asked.model), True)


def _tests(
    name: str,
    about: str,
    asked: GpuArguments,
    limit_s: float,
    tests: tuple[str, ...],
    model: str,
    attention: str,
    page: int,
) -> GpuStep:
    flags = ("--device", asked.device, "--attention-backend", attention, "--page-size", str(page))
    argv = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests, *flags, "--model-path", model)
    return GpuStep(name, about, argv, asked.limit_s or limit_s, _offline(model))


def _servers(name: str, about: str, asked: GpuArguments, limit_s: float, *tests: str) -> GpuStep:
    """With the model, the first attention backend and the default page size."""
    return _tests(name, about, asked, limit_s, tests, asked.model, asked.attention_backends[0], _PAGE)


def _check(asked: GpuArguments) -> Iterator[GpuStep]:
    yield _script("check_gpu.py", "blocks, orders and speed of copies, without SGLang", asked, 900)


def _unit(asked: GpuArguments) -> Iterator[GpuStep]:
    argv = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "gpu", "test/mempool")
    yield GpuStep("unit tests", "the unit tests that need CUDA", argv, asked.limit_s or 900)


def _parity(asked: GpuArguments) -> Iterator[GpuStep]:
    for attention in asked.attention_backends:
        for page in asked.page_sizes:
            name, about = f"parity, {attention}, page {page}", "1P1D answers as a stock server"
            yield _tests(name, about, asked, 1800, _PARITY, asked.model, attention, page)


def _overlap(asked: GpuArguments) -> Iterator[GpuStep]:
    about = "samples, scores and streams are a stock server's; batches are launched beside others"
    yield _servers("overlap", about, asked, 1800, *_OVERLAP)


def _caching(asked: GpuArguments) -> Iterator[GpuStep]:
    about = "chats with each caching mode, way to send and size of the pool"
    yield _servers("caching", about, asked, 2 * 3600, "test/e2e/test_caching_parity.py", "--full")


def _mla(asked: GpuArguments) -> Iterator[GpuStep]:
    for attention in asked.attention_backends:
        name, about = f"MLA, {attention}", "1P1D answers as a stock server, with latent KV"
        yield _tests(name, about, asked, 3600, _PARITY, asked.mla_model, attention, _MLA_PAGE)


def _leaks(asked: GpuArguments) -> Iterator[GpuStep]:
    for size, about in (("1P1D", "300 requests, many given up"), ("2P2D", "1,000 requests, with kills")):
        tests = {"1P1D": "test/e2e/test_leaks.py", "2P2D": "test/e2e/test_caching_leaks.py"}[size]
        yield _servers(f"leaks, {size}", f"{about}, leave nothing behind", asked, 3600, tests, "--full")


def _benchmark_flags(asked: GpuArguments) -> tuple[str, ...]:
    engine = ("--model-path", asked.model, "--attention-backend", asked.attention_backends[0])
    return (*engine, "--page-size", str(_PAGE), *(() if asked.peer else ("--without-peer",)))


def _pd(asked: GpuArguments) -> Iterator[GpuStep]:
    about = "handoff and first tokens against stock SGLang over Mooncake TCP"
    yield _script("bench_pd.py", about, asked, 3600, *_benchmark_flags(asked))


def _bench(asked: GpuArguments) -> Iterator[GpuStep]:
    about = "chats with all caching against less of it, and against stock SGLang"
    yield _script("bench_caching.py", about, asked, 3 * 3600, *_benchmark_flags(asked))
