"""The settings of `memserve up`. Defaults are stated here and nowhere else."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from router.config.explain import ConfigError, SettingsModel
from router.config.fields import Count, Key, Port
from sglang_memserve.cluster.spec import Role

ROLES: tuple[Role, ...] = ("prefill", "decode", "colocated")


def _args(value: Any) -> Any:
    """Flags as a list, or in one text as a shell takes them."""
    if isinstance(value, str):
        return tuple(shlex.split(value))
    return [str(flag) for flag in value] if isinstance(value, list) else value


def _role(value: Any) -> Any:
    """A count alone, or settings by name."""
    return value if isinstance(value, dict | BaseModel) else {"count": value}


Args = Annotated[tuple[str, ...], BeforeValidator(_args)]


class RoleConfig(BaseModel):
    """The instances of one role: how many, and SGLang's flags for them alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    count: Annotated[int, Field(ge=0)] = 0
    args: Args = ()


Instances = Annotated[RoleConfig, BeforeValidator(_role)]


class ClusterConfig(SettingsModel):
    """Instances by role; `host` and `port` are the router's; `start_timeout` in seconds.

    With no instance asked for, there are one prefill and one decode instance. `threads` and
    `max_total_tokens` hold for each instance; None means a share of this machine. `api_key` is what the
    router asks of clients, and presents to the instances, which ask for it as well. `admin_api_key` is what
    the router asks of who administers it. `args` are SGLang's flags for each instance; those of a role win
    over them. `router` has settings of the router's by name.

    Raises ConfigError for a setting that makes no sense.
    """

    prefill: Instances = RoleConfig()
    decode: Instances = RoleConfig()
    colocated: Instances = RoleConfig()
    model: str | None = Field(None, description="a local folder or a hub name (default: the embedded model)")
    host: str = Field("127.0.0.1", description="the router's address (default: {})")
    port: Port = Field(30000, description="the router's port (default: {})")
    api_key: Key | None = Field(
        None,
        repr=False,
        description="key that clients must present; set it as MEMSERVE_API_KEY, which `ps` does not show",
    )
    admin_api_key: Key | None = Field(
        None,
        repr=False,
        description="key that alone administers the router; set it as MEMSERVE_ADMIN_API_KEY",
    )
    cluster_key_file: str | None = Field(
        None,
        description="file with the cluster's key, or the key in MEMSERVE_CLUSTER_KEY (default: a new key)",
    )
    log_dir: Path | None = Field(
        None, description="folder for the logs (default: ~/.local/state/memserve/PORT)"
    )
    threads: Count | None = Field(
        None, description="OpenMP threads of each instance (default: its share of the cores)"
    )
    max_total_tokens: Count | None = Field(
        None, description="KV pool of each instance, in tokens (default: its share of free memory)"
    )
    start_timeout: Annotated[float, Field(gt=0)] = Field(
        600.0, description="seconds until each instance must be ready (default: {:.0f})"
    )
    args: Args = ()
    router: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_pair(cls, values: Any) -> Any:
        roles = {name: _role(values[name]) for name in ROLES if name in values}
        if any(not isinstance(role, dict) or "count" in role for role in roles.values()):
            return values
        pair = {name: {**roles.get(name, {}), "count": 1} for name in ("prefill", "decode")}
        return {**values, **pair}

    @model_validator(mode="after")
    def _checked(self) -> Self:
        prefill, decode = self.prefill.count, self.decode.count
        if not self.instances:
            raise ConfigError(
                f"--prefill {prefill} --decode {decode} --colocated 0: nothing to start; "
                "give at least one --prefill and one --decode, or --colocated"
            )
        if bool(prefill) != bool(decode):
            raise ConfigError(
                f"--prefill {prefill} --decode {decode}: one cannot serve without the other; "
                "give at least one of each, or use --colocated"
            )
        return self

    @property
    def instances(self) -> int:
        return sum(self.of(role).count for role in ROLES)

    def of(self, role: str) -> RoleConfig:
        """The settings of a role."""
        return {"prefill": self.prefill, "decode": self.decode, "colocated": self.colocated}[role]

    def args_of(self, role: str) -> tuple[str, ...]:
        """SGLang's flags for the instances of a role; later ones win."""
        return (*self.args, *self.of(role).args)

    @property
    def logs(self) -> Path:
        """`log_dir`, or $XDG_STATE_HOME (~/.local/state)/memserve/<router port>."""
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return self.log_dir or state / "memserve" / str(self.port)
