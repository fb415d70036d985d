"""From the settings of `memserve up` to the instances that it starts."""

from mempool.host_memory import available_memory
from mempool.security.cluster_key import ClusterKey
from mempool.sockets import endpoint_of
from sglang_memserve.cluster import share
from sglang_memserve.cluster.config import ROLES, ClusterConfig
from sglang_memserve.cluster.errors import ClusterError, UsageError
from sglang_memserve.cluster.ports import PortPicker, is_free
from sglang_memserve.cluster.spec import InstanceSpec, Role
from sglang_memserve.launch_server import value_of
from sglang_memserve.model import ModelInfo

_HOST = "127.0.0.1"
_DEFAULT_PAGE = 16


def sizes_pool(config: ClusterConfig) -> bool:
    """Whether a KV pool's size follows from the model: not if it is given, nor on GPUs (SGLang's task)."""
    roles = [role for role in ROLES if config.of(role).count]
    return not all(_pool_given(config, role) for role in roles) and not share.visible_gpus()


def _pool_given(config: ClusterConfig, role: str) -> bool:
    return bool(config.max_total_tokens or value_of(list(config.args_of(role)), "--max-total-tokens"))


def ports_for(config: ClusterConfig) -> PortPicker:
    """Of the instances, counted up from the router's."""
    return PortPicker(_HOST, config.port + 1)


def plan_instances(
    config: ClusterConfig,
    model: ModelInfo | None,
    ports: PortPicker,
    cluster_key: ClusterKey | None = None,
) -> list[InstanceSpec]:
    """The instances, each with its ports and its share of the machine. They listen on the loopback only.

    `model` is needed if `sizes_pool` is true. `ports` holds the ports of the instances, so it outlives them.
    Raises ClusterError if the router's port is taken, or memory, GPUs or ports do not suffice.
    """
    if not is_free(config.host, config.port):
        raise ClusterError(
            f"port {config.port} of {config.host} is in use: stop what listens there or choose another --port"
        )
    roles = _roles(config)
    wanted = [_gpus_wanted(config.args_of(role)) for role, _ in roles]
    gpus = share.gpus_each(share.visible_gpus(), wanted)
    sized = model is not None and not gpus[0]
    tokens = {role: _pool_tokens(config, role, model if sized else None) for role, _ in roles}
    threads = config.threads or share.threads_each(share.available_cores(), config.instances)
    registry = endpoint_of("tcp", _HOST, ports.pick())
    return [
        InstanceSpec(
            role=role,
            index=index,
            host=_HOST,
            port=ports.pick(),
            bootstrap_port=ports.pick() if role == "prefill" else None,
            model=config.model,
            threads=threads,
            max_total_tokens=tokens[role],
            gpus=own_gpus,
            api_key=config.api_key,
            cluster_key=cluster_key,
            registries=(registry,),
            extra=("--enable-metrics", *config.args_of(role)),
        )
        for (role, index), own_gpus in zip(roles, gpus, strict=True)
    ]


def _roles(config: ClusterConfig) -> list[tuple[Role, int]]:
    return [(role, index) for role in ROLES for index in range(config.of(role).count)]


def _pool_tokens(config: ClusterConfig, role: str, model: ModelInfo | None) -> int | None:
    if model is None or _pool_given(config, role):
        return config.max_total_tokens
    args = config.args_of(role)
    return share.pool_tokens(
        available_memory(),
        config.instances,
        model.kv_bytes_per_token,
        _number(args, "--context-length") or model.context_length,
        _number(args, "--page-size") or _DEFAULT_PAGE,
        model.weight_bytes,
    )


def _gpus_wanted(args: tuple[str, ...]) -> int:
    tensor = _number(args, "--tp", "--tp-size", "--tensor-parallel-size") or 1
    return tensor * (_number(args, "--pp", "--pp-size", "--pipeline-parallel-size") or 1)


def _number(args: tuple[str, ...], *names: str) -> int | None:
    value = value_of(list(args), *names)
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UsageError(f"{names[0]} {value}: give a whole number from 1 up")
    return int(value)
