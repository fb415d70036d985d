"""`memserve calibrate`: measures the operators of a model on this machine's device, and fits its profile."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch

from router.cost import CostModel, ModelShape, Profile
from router.cost.fitting import FitError
from router.cost.gemm import Gemm
from router.cost.profile import Prefill
from router.cost.streams import MemoryBound, Overhead, OverheadRow
from sglang_memserve.calibrate.attention import Attention
from sglang_memserve.calibrate.instance import SAMPLES, PrefillProbe
from sglang_memserve.calibrate.operators import Measured
from sglang_memserve.calibrate.options import CalibrationOptions
from sglang_memserve.calibrate.shape import CalibrationError, model_shape
from sglang_memserve.calibrate.timing import CallTimer
from sglang_memserve.cluster import probe
from sglang_memserve.cpu.attention import NAME as MEMSERVE_CPU
from sglang_memserve.cpu.attention.memory import keep_freed_memory
from sglang_memserve.machine import cpu_name

_CPU_TILES = (16, 32, 64)
_GPU_TILES = (64, 128, 256)
Say = Callable[[str], None]


def measure(options: CalibrationOptions, say: Say = lambda _: None) -> Profile:
    """Measures and fits all operators. Sets the number of torch's threads. Raises CalibrationError."""
    begun, device = time.perf_counter(), options.torch_device
    shape, units, tiles = model_shape(options.model), options.threads, _CPU_TILES
    if device.type == "cuda":
        units, tiles = torch.cuda.get_device_properties(device).multi_processor_count, _GPU_TILES
    else:
        torch.set_num_threads(options.threads)
        if options.attention_backend == MEMSERVE_CPU:
            keep_freed_memory()
    timer = CallTimer(device)
    attention = Attention(shape, timer, options.attention_backend, options.page_size, units)
    measured = Measured(shape, timer)
    with torch.inference_mode():
        say("matrices")
        gemms = measured.gemms()
        say("attention")
        prefills, decodes = attention.prefills(), attention.decodes()
        say("norms, activations, copies")
        streams, swaps = measured.streams(), measured.swap_in(options.page_size)
    try:
        gemm = Gemm.fit(gemms, units, shape.element_bytes, tiles)
        prefill = attention.kernels().fit(prefills)
        decode, swap_in = MemoryBound.fit(decodes), MemoryBound.fit(swaps)
        by_name = {name: MemoryBound.fit(rows) for name, rows in streams.items()}
    except FitError as error:
        raise CalibrationError(str(error)) from error
    transfer = options.transfer_gb_s
    return Profile(
        device=_device_name(device),
        dtype=shape.dtype,
        gemm=gemm,
        prefill_attention=prefill,
        decode_attention=decode,
        streams=by_name,
        swap_in=swap_in,
        transfer=MemoryBound(byte_s=1e-9 / transfer) if transfer else None,
        errors={
            "gemm": gemm.error(gemms),
            "prefill_attention": prefill.error(prefills),
            "decode_attention": decode.error(decodes),
            "swap_in": swap_in.error(swaps),
            **{name: by_name[name].error(rows) for name, rows in streams.items()},
        },
        about={
            **{name: str(value) for name, value in dataclasses.asdict(options).items()},
            "model": Path(options.model).name,
            "torch": str(torch.__version__),
            "seconds": f"{time.perf_counter() - begun:.1f}",
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    )


async def sample_prefills(url: str, vocab: int, api_key: str | None = None) -> list[Prefill]:
    """A handful of prefills on the instance at `url`. Raises ClusterError if it does not answer."""
    async with probe.client(api_key) as session:
        instance = PrefillProbe(session, url, vocab)
        limit = await instance.forward_tokens()
        await instance.seconds([(0, 64)])
        # What takes several forwards would count a forward's own time more than once.
        fitting = [batch for batch in SAMPLES if limit is None or sum(new for _, new in batch) <= limit]
        return [Prefill(batch, await instance.median_seconds(batch)) for batch in fitting]


def with_overhead(profile: Profile, shape: ModelShape, prefills: Sequence[Prefill]) -> Profile:
    """The profile with the overhead that an engine adds to its operators. Raises ShapeError, FitError."""
    model = CostModel(profile, shape)
    rows = []
    for batch, seconds in prefills:
        operators = sum(model.operator_seconds(batch).values())
        rows.append(OverheadRow(len(batch), sum(new for _, new in batch), operators, seconds))
    overhead = Overhead.fit(rows)
    return msgspec.structs.replace(
        profile,
        overhead=overhead,
        prefills=tuple(prefills),
        errors={**profile.errors, "overhead": overhead.error(rows)},
    )


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return cpu_name()
