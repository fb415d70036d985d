"""What a module prints as JSON, run in a process of its own: it may import what this one must not."""

import asyncio
import json
import sys
from collections.abc import Sequence
from subprocess import PIPE, CalledProcessError
from typing import Any

from sglang_memserve.cluster import child


async def json_output(module: Sequence[str], timeout_s: float, stderr: int | None = None) -> Any:
    """The last line that `python -m` with these words prints.

    `stderr`: as `subprocess.Popen` takes it; without it the user sees what the module writes there. Raises
    TimeoutError, and CalledProcessError for an exit status other than 0.
    """
    # -P: a folder of the same name where the user stands must not be imported instead.
    argv = [sys.executable, "-P", "-m", *module]
    process = await asyncio.create_subprocess_exec(
        *child.wrapped(argv), stdout=PIPE, stderr=stderr, start_new_session=True
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise CalledProcessError(process.returncode, argv, out, errors)
    return json.loads(out.splitlines()[-1])
