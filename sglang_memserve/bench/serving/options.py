"""The options of `memserve bench`. Defaults are stated here and nowhere else."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sglang_memserve.cluster.errors import UsageError

Up = Literal["auto", "together", "in-turn"]


@dataclass(frozen=True)
class Load:
    """How much is sent: `sessions` in all, arriving at `rate` a second, all lengths times `scale`."""

    sessions: int
    rate: float
    scale: float

    def of_single_turns(self) -> "Load":
        """About as many requests, where each session has one only."""
        return replace(self, sessions=5 * self.sessions, rate=5 * self.rate)

    def __str__(self) -> str:
        return f"{self.sessions} sessions, {self.rate:g} a second, lengths times {self.scale:g}"


CPU_LOAD = Load(sessions=10, rate=0.25, scale=0.2)
"""For instances on a machine without a GPU: a run of about a minute."""
GPU_LOAD = Load(sessions=200, rate=2.0, scale=1.0)


@dataclass(frozen=True)
class BenchOptions:
    """Times are in seconds but for the limits of the SLO, which are in ms.

    `arms`: names of systems to start; `urls`: NAME=URL of systems that run. `rates`: sessions a second, one
    run each; None is a trace's own times. What else is None follows from the machine, workload or model.
    """

    workload: str = "sharegpt"
    arms: tuple[str, ...] = ()
    urls: Sequence[str] = ()
    traces: Path | None = None
    tokenizer: str | None = None
    sessions: int | None = None
    rates: tuple[float | None, ...] = ()
    scale: float | None = None
    max_context: int | None = None
    vocabulary: Sequence[int] | None = None
    more: Sequence[tuple[str, Any]] = ()
    seed: int = 0
    rounds: int = 3
    api: str = "generate"
    ignore_eos: bool = True
    request_model: str = "default"
    slo_ttft: float | None = None
    slo_tpot: float | None = None
    timeout: float = 120.0
    run_timeout: float = 600.0
    up: Up = "auto"
    model: str | None = None
    attention_backend: str | None = None
    threads: int = 1
    pool_tokens: int = 16_384
    page_size: int = 16
    port: int = 39_000
    log_dir: Path | None = None
    peers: Path = Path(__file__).resolve().parents[3] / ".peers"
    api_key: str | None = field(default=None, repr=False)
    json: bool = False
    plot: Path | None = None
    plot_format: Literal["png", "svg"] = "svg"
    records: Path | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [*self.arms, *(url.split("=", 1)[0] for url in self.urls)]
        if not names:
            raise UsageError("nothing to measure: give --arms, --url, or both (--list shows the arms)")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UsageError(f"{twice} is there twice: every arm needs a name of its own")
        if self.extra and not self.arms:
            raise UsageError(
                f"{self.extra[0]} after `--` is for instances that --arms starts: there are none"
            )

    @property
    def says_load(self) -> bool:
        """Whether the options name the whole load."""
        return self.sessions is not None and self.scale is not None and bool(self.rates)

    def settings(self, rate: float | None, load: Load) -> dict[str, Any]:
        """The settings of the workload at one rate. `load` has what the options leave open."""
        given = {
            "sessions": load.sessions if self.sessions is None else self.sessions,
            "rate": rate,
            "scale": load.scale if self.scale is None else self.scale,
            "seed": self.seed,
            "max_context": self.max_context,
            "vocabulary": self.vocabulary and tuple(self.vocabulary),
        }
        return {name: value for name, value in given.items() if value is not None} | dict(self.more)
