#!/usr/bin/env python3
"""Does KV survive a GPU, and how fast does it move? One CUDA GPU, `mempool` and torch; no SGLang; minutes.

Correctness: blocks of MHA, of K and V of different sizes, of MLA and of 8-bit floats, pages of 1, 16 and 64
tokens, gathered and scattered byte by byte as plain indexing has them. Order: a page that a long computation
still writes to is overwritten after it; without the event it is not, which shows that the check can fail.
Speed: gather and scatter of 2 to 128 MiB against one direct copy of as much pinned memory; pinned memory's
cost against PyTorch's own; launches beside a gathering thread; HBM to TCP to HBM on the loopback. And a
gather while another stream captures a graph. `--device cpu` is a dry run of the same code, without its bars.

Figures are medians of the repetitions.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from mempool.arena import DramArena
from mempool.device import Device, device_of
from mempool.errors import TransferError
from mempool.layout import BlockLayout
from mempool.paged import PagedBuffers
from mempool.transfer.receiver import BlockReceiver
from mempool.transfer.sender import BlockSender

MIB = 1 << 20
_TIMEOUT_S = 60.0
# kind, dtype, heads, K and V bytes of a token and layer: Llama 8B's, one with different sizes, MLA, fp8.
_SHAPES = [("mha", "bfloat16", 8, 2048, 2048), ("mha", "bfloat16", 8, 3072, 2048),
           ("mla", "bfloat16", 1, 1152, 0), ("mha", "float8_e4m3fn", 8, 1024, 1024)]  # fmt: skip


def layout_of(shape: tuple[str, str, int, int, int], page: int, layers: int) -> BlockLayout:
    kind, dtype, heads, k_bytes, v_bytes = shape
    return BlockLayout(
        kind=kind, dtype=dtype, page_size=page, layers=layers, heads=heads,
        k_plane_bytes=k_bytes * page, v_plane_bytes=v_bytes * page,
    )  # fmt: skip


class Check:
    """`results` and `bars` are what the JSON has."""

    def __init__(self, device: torch.device, repetitions: int, layers: int) -> None:
        self.torch_device = device
        self.device: Device = device_of(device)
        self.repetitions = repetitions
        self.layers = layers
        self.results: dict[str, Any] = {}
        self.bars: list[dict[str, Any]] = []

    def bar(self, name: str, value: float, bar: float, unit: str, *, at_least: bool) -> None:
        ok = value >= bar if at_least else value <= bar
        self.bars.append({"name": name, "value": value, "unit": unit, "bar": bar, "ok": ok})

    def must(self, name: str, holds: bool) -> None:
        self.bar(name, float(holds), 1.0, "holds", at_least=True)

    def buffers(
        self, layout: BlockLayout, pages: int, seed: int | None = 1
    ) -> tuple[PagedBuffers, list[Any]]:
        generator = torch.Generator().manual_seed(seed or 0)
        planes = []
        for size in layout.plane_bytes:
            rows = torch.zeros((pages * layout.page_size, size // layout.page_size), dtype=torch.uint8)
            if seed is not None:
                rows.random_(0, 256, generator=generator)
            planes.append(rows.to(self.torch_device))
        return PagedBuffers(planes, layout), planes

    def synchronize(self) -> None:
        stream = self.device.current_stream()
        if stream is not None:
            torch.cuda.synchronize(self.torch_device)

    def seconds(self, act: Callable[[], object]) -> float:
        act()
        spent = []
        for _ in range(self.repetitions):
            self.synchronize()
            began = time.perf_counter()
            act()
            self.synchronize()
            spent.append(time.perf_counter() - began)
        return statistics.median(spent)

    def correctness(self) -> None:
        wrong = []
        for shape in _SHAPES:
            for page in (1, 16, 64):
                layout = layout_of(shape, page, self.layers)
                source, planes = self.buffers(layout, 9)
                target, _ = self.buffers(layout, 9, None)
                pages, out = torch.tensor([7, 2, 8, 0]), source.host_blocks(4)
                source.gather(pages, out)
                rows = [plane.cpu().view(9, -1)[pages] for plane in planes]
                target.scatter(torch.tensor([1, 3, 4, 6]), out)
                back = target.host_blocks(4)
                target.gather(torch.tensor([1, 3, 4, 6]), back)
                if not (torch.equal(out, torch.cat(rows, dim=1)) and torch.equal(back, out)):
                    wrong.append(f"{shape} page {page}")
        self.results["wrong_layouts"] = wrong
        self.must("blocks are what plain indexing has", not wrong)

    def order(self) -> None:
        """A page that a long computation writes to, with and without the event that orders the scatter."""
        layout = layout_of(_SHAPES[0], 16, self.layers)
        buffers, planes = self.buffers(layout, 4)
        blocks = buffers.host_blocks(1).fill_(7)

        def survives(*, guarded: bool) -> bool:
            busy = torch.ones((4096 if self.device.runs_ahead else 8,) * 2, device=self.torch_device)
            self.synchronize()
            for _ in range(200 if self.device.runs_ahead else 1):
                busy = busy @ busy * 1e-4
            planes[0].fill_(1)
            current = self.device.current_stream()
            event = None if current is None or not guarded else current.record_event()
            buffers.scatter(torch.tensor([2]), blocks, event)
            self.synchronize()
            return bool((planes[0][2 * 16 : 3 * 16] == 7).all())

        self.must("a page is overwritten after the computation before", survives(guarded=True))
        if self.device.runs_ahead:
            self.must("without the event the check finds it", not survives(guarded=False))

    def speed(self, sizes: list[int]) -> None:
        layout = layout_of(_SHAPES[0], 16, self.layers)
        figures = {}
        for size in sizes:
            count = max(1, size // layout.block_bytes)
            buffers, _ = self.buffers(layout, 2 * count, None)
            pages, host = torch.randperm(2 * count)[:count], buffers.host_blocks(count)
            rows = DramArena(layout, count).parts(torch.arange(count))
            there = torch.empty_like(host, device=self.torch_device)
            seconds = {
                "gather": self.seconds(partial(buffers.gather, pages, host)),
                "scatter": self.seconds(partial(buffers.scatter, pages, host)),
                "direct to host": self.seconds(partial(host.copy_, there, non_blocking=True)),
                "direct to device": self.seconds(partial(there.copy_, host, non_blocking=True)),
                "gather to DRAM": self.seconds(partial(buffers.gather_to, pages, rows)),
            }
            moved = count * layout.block_bytes
            figures[f"{size // MIB} MiB"] = {name: moved / spent / 1e9 for name, spent in seconds.items()}
            if self.device.runs_ahead and size >= 32 * MIB:
                for kind, peer in (("gather", "direct to host"), ("scatter", "direct to device")):
                    ratio = seconds[peer] / seconds[kind]
                    self.bar(f"{kind}, {size // MIB} MiB", ratio, 0.8, "of a direct copy", at_least=True)
        self.results["gb_per_second"] = figures

    def pinned(self, count: int) -> None:
        began = time.perf_counter()
        memory = self.device.host_memory(count)
        ours = time.perf_counter() - began
        self.results["pinned"] = {"bytes": memory.nbytes, "seconds_per_gib": ours / count * (1 << 30)}
        self.must("pinned memory has the size that was asked for", memory.nbytes == count)
        if self.device.runs_ahead:
            began = time.perf_counter()
            torch.empty(count, dtype=torch.uint8, pin_memory=True)
            self.results["pinned"]["torch_seconds_per_gib"] = (
                (time.perf_counter() - began) / count * (1 << 30)
            )

    def launches(self) -> None:
        """How long a thread takes to launch 100 small kernels, alone and beside one that gathers."""
        layout = layout_of(_SHAPES[0], 16, self.layers)
        buffers, _ = self.buffers(layout, 64, None)
        pages, host, stop = torch.arange(32), buffers.host_blocks(32), threading.Event()
        small = torch.zeros(16, device=self.torch_device)

        def launch() -> None:
            for _ in range(100):
                small.add_(1)

        def gather() -> None:
            while not stop.is_set():
                buffers.gather(pages, host)

        alone, beside = self.seconds(launch), threading.Thread(target=gather)
        beside.start()
        try:
            busy = self.seconds(launch)
        finally:
            stop.set()
            beside.join()
        self.results["launch_us"] = {"alone": alone * 1e4, "beside a gathering thread": busy * 1e4}
        if self.device.runs_ahead:
            self.bar("a launch beside a gathering thread", busy / alone, 2.0, "of one alone", at_least=False)

    def wire(self, size: int) -> None:
        layout = layout_of(_SHAPES[0], 16, self.layers)
        count = max(1, size // layout.block_bytes)
        (source, _), (target, there) = self.buffers(layout, count), self.buffers(layout, count, None)
        receiver, sender = BlockReceiver("stream://127.0.0.1:0"), BlockSender()
        pages = torch.arange(count)

        def carry() -> None:
            ended, errors = threading.Event(), list[TransferError | None]()

            def end(error: TransferError | None) -> None:
                errors.append(error)
                ended.set()

            ticket = receiver.expect(target, pages, lambda cookie: None, errors.append)
            transfer = sender.open(source, receiver.endpoint, ticket, end)
            transfer.send(pages, 0)
            transfer.finish(count)
            if not ended.wait(_TIMEOUT_S) or any(errors):
                raise RuntimeError(f"{count} blocks did not arrive over the loopback: {errors}")

        try:
            spent = self.seconds(carry)
        finally:
            sender.close()
            receiver.close()
        sent, back = source.host_blocks(count), target.host_blocks(count)
        source.gather(pages, sent)
        target.gather(pages, back)
        self.results["hbm_tcp_hbm_gb_per_second"] = count * layout.block_bytes / spent / 1e9
        self.must("blocks arrive over TCP", torch.equal(sent, back) and bool(there[0].any()))

    def capture(self) -> None:
        """A gather by another thread while this one captures a graph, as SGLang does at its start."""
        if not self.device.runs_ahead:
            return
        buffers, _ = self.buffers(layout_of(_SHAPES[0], 16, self.layers), 8)
        before, during = buffers.host_blocks(8), buffers.host_blocks(8)
        buffers.gather(torch.arange(8), before)
        small, graph, failed = torch.zeros(16, device=self.torch_device), torch.cuda.CUDAGraph(), []

        def gather() -> None:
            try:
                buffers.gather(torch.arange(8), during)
            except RuntimeError as error:
                failed.append(str(error))

        other = threading.Thread(target=gather)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            small.add_(1)
            other.start()
            other.join()
        self.results["gather_during_capture"] = failed or "went through"
        self.must("a gather beside a capture", not failed and torch.equal(before, during))


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a dry run (default: cuda)")
    parser.add_argument("--repetitions", type=int, default=10, help="of each timing (default: 10)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parsed(arguments)
    device = torch.device(options.device)
    is_cuda = device.type == "cuda"
    if is_cuda and not torch.cuda.is_available():
        print("check_gpu: no CUDA device is visible: --device cpu is a dry run", file=sys.stderr)
        return 2
    check = Check(device, options.repetitions if is_cuda else 1, 32 if is_cuda else 2)
    check.correctness()
    check.order()
    check.speed([2 * MIB, 8 * MIB, 32 * MIB, 128 * MIB] if is_cuda else [2 * MIB])
    check.pinned((1 << 30) + 4096 if is_cuda else MIB + 4096)
    check.launches()
    check.wire(256 * MIB if is_cuda else 2 * MIB)
    check.capture()
    for bar in check.bars:
        print(f"{'met   ' if bar['ok'] else 'MISSED'}  {bar['name']}: {bar['value']:.3g} {bar['unit']}")
    if options.json:
        machine = {
            "device": str(torch.cuda.get_device_name(device)) if is_cuda else "cpu: a dry run",
            "torch": torch.__version__,
            "python": platform.python_version(),
        }
        skipped = [] if is_cuda else ["bars of speed, unguarded order and capture: no CUDA"]
        print(
            json.dumps({"machine": machine, "results": check.results, "bars": check.bars, "skipped": skipped})
        )
    return 0 if all(bar["ok"] for bar in check.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
