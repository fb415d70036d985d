"""`memserve calibrate`: the profile of a device, for the router's cost model."""

import argparse
import asyncio
import os
from pathlib import Path
from typing import Any

from sglang_memserve.cli.address import checked_url
from sglang_memserve.cli.engine import require_engine
from sglang_memserve.cli.output import show
from sglang_memserve.cluster.errors import ClusterError, UsageError
from sglang_memserve.model import resolve_model

_EXAMPLES = """\
examples:
  memserve calibrate --out profile.json
  memserve calibrate --out profile.json --url http://127.0.0.1:30001 --attention-backend torch_native

Without --url, the profile has the operators alone, without the engine's overhead.
Measure while the machine does nothing else. docs/cost_model.md says what the figures mean."""


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="measure a device for the router's cost model",
        description="Measures a model's operators on the device of this machine, in under two minutes, and "
        "writes the profile that the router's cost model reads.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="file to write the profile to"
    )
    parser.add_argument("--model", help="a folder with config.json (default: the embedded model)")
    parser.add_argument("--device", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--attention-backend",
        metavar="NAME",
        help="attention backend of the instances (default: memserve_cpu)",
    )
    parser.add_argument("--threads", type=int, help="threads of an instance on a CPU (default: 1)")
    parser.add_argument("--page-size", type=int, help="page size of the instances (default: 16)")
    parser.add_argument(
        "--transfer-gb-s", type=float, metavar="GB/s", help="bandwidth between instances, if it is known"
    )
    parser.add_argument("--url", help="an idle instance of this model, to measure the engine's overhead")
    parser.add_argument("--api-key", metavar="KEY", help="the instance's API key (default: MEMSERVE_API_KEY)")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, passed_on: list[str]) -> int:
    """Writes the profile and says how well it fits.

    Raises ClusterError for what cannot be measured, UsageError for a wrong value.
    """
    require_engine("memserve calibrate")
    if not args.out.parent.is_dir():
        raise UsageError(f"--out {args.out}: there is no folder {args.out.parent}")
    url = checked_url(args.url, "--url") if args.url else None
    key = args.api_key or os.environ.get("MEMSERVE_API_KEY")
    # Imported here, so that no other command loads torch.
    from sglang_memserve.calibrate import calibration
    from sglang_memserve.calibrate.options import CalibrationOptions
    from sglang_memserve.calibrate.shape import CalibrationError, model_shape

    names = ("device", "attention_backend", "threads", "page_size", "transfer_gb_s")
    given = {name: value for name in names if (value := getattr(args, name)) is not None}
    try:
        options = CalibrationOptions(model=resolve_model(args.model), **given)
        shape = model_shape(options.model)
    except (CalibrationError, ValueError) as error:
        raise UsageError(str(error)) from error
    prefills = []
    try:
        if url:
            show(f"measuring prefills of {url}")
            prefills = asyncio.run(calibration.sample_prefills(url, shape.vocab, key))
        profile = calibration.measure(options, lambda what: show(f"measuring {what}"))
        if prefills:
            profile = calibration.with_overhead(profile, shape, prefills)
    except (CalibrationError, ValueError) as error:
        raise ClusterError(str(error)) from error
    profile.save(args.out)
    for name, share in profile.errors.items():
        show(f"{name:<20} fitted within {100 * share:.1f} % on average")
    show(f"{args.out} is the profile of {profile.device}")
    return 0
