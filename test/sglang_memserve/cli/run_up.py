"""`memserve up` with the real router and a fake instance.

`run_up.py INSTANCE_PORT ROUTER_PORT LOG_DIR ROUTERS_PYTHON`, the last a command as a JSON list.
"""

import asyncio
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sglang_memserve.cli import up
from sglang_memserve.cluster import local, spec
from sglang_memserve.cluster.config import ClusterConfig
from sglang_memserve.cluster.spec import InstanceSpec
from sglang_memserve.cluster.supervisor import Limits
from sglang_memserve.model import ModelInfo

FAKE = Path(__file__).parents[1] / "cluster" / "fake_server.py"


@dataclass(frozen=True)
class FakeSpec(InstanceSpec):
    def argv(self):
        return [sys.executable, str(FAKE), "--port", str(self.port)]


async def model(name, timeout_s):
    return ModelInfo("tiny", 8192, 2)


if __name__ == "__main__":
    port, router, logs, python = sys.argv[1:]
    spec._PYTHON = (*json.loads(python), "-m")
    local.Limits = partial(Limits, poll_s=0.05, backoff_s=0.05)
    up.read_model = model
    up.plan_instances = lambda config, info, ports, key: [FakeSpec("colocated", 0, int(port))]
    config = ClusterConfig(colocated=1, port=int(router), log_dir=Path(logs), start_timeout=30)
    sys.exit(asyncio.run(up._Up(config, chat=False, leave=False).run()))
