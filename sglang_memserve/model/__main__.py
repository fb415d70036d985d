"""`python -m sglang_memserve.model`: print the embedded model's folder, making it first if need be."""

import argparse
import dataclasses
import json
import sys

from sglang_memserve.model import ModelError, describe_model, resolve_model


def main(argv: list[str] | None = None) -> int:
    """Prints a path, or with --json a ModelInfo. Returns 1, with the reason on stderr, if there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m sglang_memserve.model", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--model", help="a local folder or a hub name (default: the embedded model)")
    parser.add_argument("--json", action="store_true", help="print path, context length and KV bytes a token")
    args = parser.parse_args(argv)
    try:
        path = resolve_model(args.model)
        print(json.dumps(dataclasses.asdict(describe_model(path))) if args.json else path)
    except ModelError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
