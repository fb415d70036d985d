"""What the real servers of test/e2e run on and with."""

import itertools
from dataclasses import dataclass

import pytest

from benchmark.device import GPU_FLAGS, gpus_of
from sglang_memserve.cluster.errors import UsageError

MODEL_NAME = "SmolLM2-135M-Instruct"
PAGE = 16
_ALL_STOCK = ("--max-total-tokens", "16384", "--enable-fp32-lm-head", "--enable-cache-report")
_CPU_STOCK = (
    *("--device", "cpu", "--attention-backend", "torch_native", "--disable-cuda-graph"),
    *("--disable-overlap-schedule", "--sleep-on-idle"),
)
# More than a test starts instances: the same GPU may come several times, and an instance takes the next.
_PLACES = 16


def add_options(parser):
    group = parser.getgroup("servers", "the real servers of test/e2e")
    devices = ("auto", "cpu", "cuda")
    group.addoption("--device", choices=devices, default="auto", help="auto: cuda where there is a GPU")
    group.addoption("--attention-backend", metavar="NAME", help="of every server")
    group.addoption("--page-size", type=int, default=PAGE, metavar="TOKENS", help="of every server")
    group.addoption("--model-path", metavar="MODEL", help="a folder or hub name; default: the embedded model")


def visible_gpus(config):
    """That servers run on; none on a CPU."""
    try:
        return tuple(gpus_of(config.getoption("--device")))
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None


def engine_of(config):
    return Engine(
        gpus=visible_gpus(config),
        page_size=config.getoption("--page-size"),
        attention_backend=config.getoption("--attention-backend"),
        model=config.getoption("--model-path"),
    )


@dataclass(frozen=True)
class Engine:
    """`gpus`: none on a CPU. What is None is left to MemServe's launcher, or is the embedded model."""

    gpus: tuple[int, ...] = ()
    page_size: int = PAGE
    attention_backend: str | None = None
    model: str | None = None

    @property
    def _flags(self):
        """Of every server, ours or stock."""
        flags = ["--page-size", str(self.page_size)]
        flags += ["--attention-backend", self.attention_backend] if self.attention_backend else []
        return [*flags, *(GPU_FLAGS if self.gpus else ())]

    @property
    def stock_flags(self):
        """Of a stock server, with its model."""
        from sglang_memserve.model import resolve_model

        own = () if self.gpus else _CPU_STOCK
        model = ["--model-path", resolve_model(self.model), "--served-model-name", MODEL_NAME]
        return [*model, *own, *_ALL_STOCK, *self._flags]

    @property
    def stock_env(self):
        """The last GPU: instances begin with the first."""
        return {"CUDA_VISIBLE_DEVICES": str(self.gpus[-1])} if self.gpus else {}

    @property
    def up_flags(self):
        """Of `memserve up`, before those that it passes on."""
        return ["--model", self.model] if self.model else []

    @property
    def passed_on(self):
        """Of SGLang's, for the instances of `memserve up`."""
        return [*self._flags, *(["--served-model-name", MODEL_NAME] if self.model else [])]

    @property
    def up_env(self):
        """`memserve up` gives each instance GPUs of its own: they are named as often as it takes."""
        places = itertools.islice(itertools.cycle(self.gpus), _PLACES)
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, places))} if self.gpus else {}
