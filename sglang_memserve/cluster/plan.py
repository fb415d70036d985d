"""From what `memserve up` was told to the instances that it starts."""

from mempool.sockets import endpoint_of
from sglang_memserve.cluster import share
from sglang_memserve.cluster.config import ClusterConfig
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.ports import PortPicker, is_free
from sglang_memserve.cluster.spec import InstanceSpec, Role
from sglang_memserve.launch_server import value_of
from sglang_memserve.model import ModelInfo

_HOST = "127.0.0.1"
_DEFAULT_PAGE = 16


def sizes_pool(config: ClusterConfig) -> bool:
    """Whether the KV pool's size follows from the model: not if it is given, nor on GPUs (SGLang's task)."""
    return not _pool_given(config) and not share.visible_gpus()


def _pool_given(config: ClusterConfig) -> bool:
    return bool(config.max_total_tokens or value_of(list(config.extra), "--max-total-tokens"))


def ports_for(config: ClusterConfig) -> PortPicker:
    """Of the instances, counted up from the router's."""
    return PortPicker(_HOST, config.port + 1)


def plan_instances(config: ClusterConfig, model: ModelInfo | None, ports: PortPicker) -> list[InstanceSpec]:
    """The instances, each with its ports and its share of the machine. They listen on the loopback only.

    `model` is not needed unless `sizes_pool`. `ports` holds what the instances get, so it outlives them.
    Raises ClusterError if the router's port is taken, or memory, GPUs or ports do not suffice.
    """
    if not is_free(config.host, config.port):
        raise ClusterError(
            f"port {config.port} of {config.host} is in use: stop what listens there or choose another --port"
        )
    gpus = share.gpus_each(share.visible_gpus(), config.instances, _gpus_wanted(config.extra))
    tokens = config.max_total_tokens
    if model is not None and not gpus[0] and not _pool_given(config):
        tokens = _pool_tokens(config, model)
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
            max_total_tokens=tokens,
            gpus=own_gpus,
            api_key=config.api_key,
            registries=(registry,),
            extra=config.extra,
        )
        for (role, index), own_gpus in zip(_roles(config), gpus, strict=True)
    ]


def _roles(config: ClusterConfig) -> list[tuple[Role, int]]:
    counts: list[tuple[Role, int]] = [
        ("prefill", config.prefill),
        ("decode", config.decode),
        ("colocated", config.colocated),
    ]
    return [(role, index) for role, count in counts for index in range(count)]


def _pool_tokens(config: ClusterConfig, model: ModelInfo) -> int:
    return share.pool_tokens(
        share.available_memory(),
        config.instances,
        model.kv_bytes_per_token,
        _number(config.extra, "--context-length") or model.context_length,
        _number(config.extra, "--page-size") or _DEFAULT_PAGE,
        model.weight_bytes,
    )


def _gpus_wanted(extra: tuple[str, ...]) -> int:
    tensor = _number(extra, "--tp", "--tp-size", "--tensor-parallel-size") or 1
    return tensor * (_number(extra, "--pp", "--pp-size", "--pipeline-parallel-size") or 1)


def _number(extra: tuple[str, ...], *names: str) -> int | None:
    value = value_of(list(extra), *names)
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ClusterError(f"{names[0]} {value}: give a whole number from 1 up")
    return int(value)
