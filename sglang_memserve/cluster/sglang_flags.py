"""SGLang's flags by name, so that a wrong one is found before anything starts.

SGLang's own parser knows them, but importing it takes seconds: a process of its own does it (run this as a
module), and the names stay in the user's cache, for each version of SGLang.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, CalledProcessError

from router.config.explain import did_you_mean
from sglang_memserve.cluster.errors import ClusterError, UsageError
from sglang_memserve.cluster.json_output import json_output
from sglang_memserve.model.embedded import cache_root
from sglang_memserve.options import flag_names as memserve_flags


async def check_flags(args: Iterable[str], timeout_s: float) -> None:
    """Raises UsageError for a flag that neither SGLang nor MemServe's instances have."""
    given = [arg.partition("=")[0] for arg in args if arg.startswith("--") and arg != "--"]
    if not given:
        return
    known = {*await flag_names(timeout_s), *memserve_flags()}
    for flag in given:
        if flag not in known:
            raise UsageError(
                f"{flag}: SGLang {version('sglang')} has no such flag{did_you_mean(flag, known)}"
            )


async def flag_names(timeout_s: float) -> list[str]:
    """All of SGLang's flags, from the cache, or from SGLang itself. Raises ClusterError."""
    cache = cache_root().parent / f"sglang-flags-{version('sglang')}.json"
    try:
        return [str(name) for name in json.loads(cache.read_text())]
    except (OSError, ValueError, TypeError):
        names = await _from_sglang(timeout_s)
        _keep(cache, names)
        return names


async def _from_sglang(timeout_s: float) -> list[str]:
    try:
        names = await json_output([__name__], timeout_s, stderr=PIPE)
    except TimeoutError:
        raise ClusterError(f"SGLang did not list its flags within {timeout_s:.0f} s") from None
    except CalledProcessError as error:
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ClusterError(f"SGLang cannot be imported: {' '.join(last) or 'it says nothing'}") from None
    return [str(name) for name in names]


def _keep(cache: Path, names: list[str]) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=cache.parent, delete=False) as file:
            json.dump(names, file)
        Path(file.name).replace(cache)
    except OSError:
        pass  # without a cache it only takes longer


def main() -> None:
    """Prints SGLang's flags as JSON, in the last line."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    print(json.dumps(sorted(parser._option_string_actions)))


if __name__ == "__main__":
    main()
