"""What `memserve up` can be told. Defaults are stated here and nowhere else."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from sglang_memserve.cluster.errors import ClusterError


@dataclass(frozen=True)
class ClusterConfig:
    """Counts of instances by role; `host` and `port` are the router's; `start_timeout` in seconds.

    With no instance asked for, one prefill and one decode instance are meant. `threads` and
    `max_total_tokens` hold for each instance; None means a share of this machine. `api_key` is what the
    router asks of clients, and presents to the instances, which ask for it as well.
    `extra` are SGLang's flags for each instance.
    """

    prefill: int = 0
    decode: int = 0
    colocated: int = 0
    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 30000
    api_key: str | None = field(default=None, repr=False)
    log_dir: Path | None = None
    threads: int | None = None
    max_total_tokens: int | None = None
    start_timeout: float = 600.0
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (self.prefill or self.decode or self.colocated):
            object.__setattr__(self, "prefill", 1)
            object.__setattr__(self, "decode", 1)
        if min(self.prefill, self.decode, self.colocated) < 0:
            raise ClusterError("--prefill, --decode and --colocated count instances: they cannot be negative")
        if bool(self.prefill) != bool(self.decode):
            raise ClusterError(
                f"--prefill {self.prefill} --decode {self.decode}: one cannot serve without the other; "
                "give at least one of each, or use --colocated"
            )
        if not 1 <= self.port <= 65535:
            raise ClusterError(f"--port {self.port} is not a port: use 1 to 65535")
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise ClusterError("--api-key: give a key of printable ASCII without spaces")
        for name in ("threads", "max_total_tokens", "start_timeout"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ClusterError(f"--{name.replace('_', '-')} {value} must be positive")

    @property
    def instances(self) -> int:
        return self.prefill + self.decode + self.colocated

    @property
    def logs(self) -> Path:
        """`log_dir`, or $XDG_STATE_HOME (~/.local/state)/memserve/<router port>."""
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return self.log_dir or state / "memserve" / str(self.port)


def environment_defaults(environ: Mapping[str, str]) -> dict[str, str]:
    """What MEMSERVE_PREFILL, MEMSERVE_PORT and so on say, by field, as text."""
    names = {one.name: f"MEMSERVE_{one.name.upper()}" for one in fields(ClusterConfig) if one.name != "extra"}
    return {setting: environ[name] for setting, name in names.items() if environ.get(name)}
