"""MemServe's own flags of an instance, beside SGLang's. Defaults are stated here and nowhere else."""

import difflib
import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from mempool.caching_mode import CachingMode
from mempool.encryption import Encryption
from mempool.endpoints import SHM_URL, check_endpoint
from mempool.flags import TransferMode
from mempool.security.access import ClusterAccess, insecure_of
from mempool.security.cluster_key import KEY_VARIABLE, ClusterKeyError
from mempool.tiers.sizes import bytes_of_size

# A receiver acknowledges every 2 MiB, and counts as dead after 10 s without an acknowledgement.
_MIN_BANDWIDTH = 1 << 20
# A message for each layer of each block, arXiv 2406.17565's baseline: benchmarks measure it.
_NOT_OFFERED = (TransferMode.BY_REQUEST,)
_HELP = """MemServe's flags (each also as an environment variable, MEMSERVE_CACHING and so on; the flag wins):
  --memserve-caching {basic,1,2,3}
                        which instances keep KV. basic: none; 1: prefill keeps what it computed; 2: decode
                        keeps KV too, and is sent only what it lacks; 3: decode also sends the KV of answers
                        back to prefill, where the next turn finds it (default: 3)
  --memserve-dram SIZE  host memory for KV of requests that have ended; it is loaded from there when it has
                        left the device. "8GiB", "10%" of the free memory, "4096 blocks", or 0 for none
                        (default: 2% on a GPU host, 256MiB elsewhere)
  --memserve-transfer {aggregated,by-layer}
                        how prefill sends KV to decode. aggregated: all layers of a block together; by-layer:
                        each layer while the next one computes (default: aggregated)
  --memserve-max-bandwidth SIZE
                        the most KV that is sent to each other instance in a second: "100MiB", or 0 for no
                        bound (Linux only; default: 0)
  --memserve-fabrics FABRIC[,FABRIC]
                        over what KV goes between instances, best first; both take the first that both have.
                        shm: shared memory, between instances of one host and user; stream: TCP, which all
                        need. "stream" leaves shared memory out, and so does a --memserve-max-bandwidth
                        (default: shm,stream)
  --memserve-encrypt {auto,on,off}
                        whether KV is encrypted on its way between instances. auto: unless they listen on the
                        loopback; set all instances alike (default: auto)
  --memserve-registries URL[,URL]
                        registries (memserve registry) through which instances find each other, to fetch
                        prefixes from one another (default: none)
  --memserve-feed-port PORT
                        where routers hear what this instance caches
  --memserve-control-port PORT, --memserve-block-port PORT
                        where other instances ask for KV, and where they send it
  --memserve-transfer-port PORT
                        where a decode instance receives KV from prefill; rank N listens on PORT + N
  --memserve-rank-port PORT
                        where SGLang's ranks hear from their peers on the other side of the split; rank N
                        listens on PORT + N
                        (default of all ports: 0, a free one)
  --memserve-cluster-key-file FILE
                        the cluster's key, in a file of mode 0600. Without it (or the key itself in
                        MEMSERVE_CLUSTER_KEY), addresses of the loopback alone are listened on
  --memserve-insecure {0,1}
                        1: listens on any address without a key, to anybody (default: 0)
"""


_CHOICES: Mapping[str, type[StrEnum]] = {
    "caching": CachingMode,
    "transfer": TransferMode,
    "encrypt": Encryption,
}
# By name, where to listen; "": at the address of the instance.
_FABRICS = {"shm": SHM_URL, "stream": ""}
_EVERYWHERE = "stream"
_PORTS = ("feed_port", "control_port", "block_port", "transfer_port", "rank_port")


class OptionError(ValueError):
    """A flag or environment variable that is unknown, or has a value that cannot be used."""


@dataclass(frozen=True)
class InstanceOptions:
    """`dram`: as `mempool.tiers.sizes.blocks_of_size` takes it; "0" for none; "" for the device's default.

    `registries`: endpoints, with commas between them. `max_bandwidth`: bytes, as `bytes_of_size` takes them;
    "0" for no bound. `fabrics`: names with commas between them. Ports: 0 for a free one. Raises OptionError.
    """

    caching: CachingMode = CachingMode.WRITE_BACK
    dram: str = ""
    registries: str = ""
    transfer: TransferMode = TransferMode.AGGREGATED
    max_bandwidth: str = "0"
    fabrics: str = "shm,stream"
    encrypt: Encryption = Encryption.AUTO
    feed_port: int = 0
    control_port: int = 0
    block_port: int = 0
    transfer_port: int = 0
    rank_port: int = 0
    cluster_key_file: str = ""
    insecure: bool = False

    def __post_init__(self) -> None:
        for endpoint in self.all_registries:
            try:
                check_endpoint(endpoint)
            except ValueError as error:
                raise OptionError(f"--memserve-registries: {error}") from None
        if self.max_bytes_per_second and self.max_bytes_per_second < _MIN_BANDWIDTH:
            raise OptionError(f"--memserve-max-bandwidth {self.max_bandwidth}: give at least 1MiB, or 0")
        named = self.all_fabrics
        if named[-1:] != [_EVERYWHERE] or len(set(named)) < len(named) or not {*named} <= {*_FABRICS}:
            raise OptionError(
                f"--memserve-fabrics {self.fabrics}: name {' or '.join(_FABRICS)}, each once, and "
                f"{_EVERYWHERE} last, since instances of other hosts have nothing else"
            )
        pinned = [port for port in (getattr(self, name) for name in _PORTS) if port]
        if len(set(pinned)) < len(pinned):
            raise OptionError(f"MemServe's ports {pinned} are not all different")

    def access(self, name: str = "") -> ClusterAccess:
        """As whom this instance connects, and whom it hears. Raises OptionError."""
        try:
            return ClusterAccess.from_environment(
                key_file=self.cluster_key_file, insecure=self.insecure, name=name
            )
        except ClusterKeyError as error:
            raise OptionError(str(error)) from None

    def dram_for(self, device: str) -> str:
        """The size of the DRAM tier where KV is on a torch device of this type."""
        return self.dram or {"cuda": "2%"}.get(device, "256MiB")

    @property
    def max_bytes_per_second(self) -> int:
        """0: no bound. Raises OptionError."""
        try:
            return bytes_of_size(self.max_bandwidth)
        except ValueError as error:
            raise OptionError(f"--memserve-max-bandwidth: {error}") from None

    @property
    def all_fabrics(self) -> list[str]:
        return [name.strip() for name in self.fabrics.split(",")]

    @property
    def fabric_urls(self) -> tuple[str, ...]:
        """Where to receive KV beside stream://, best first. Shared memory knows no bound of bandwidth."""
        urls = (_FABRICS[name] for name in self.all_fabrics)
        return () if self.max_bytes_per_second else tuple(url for url in urls if url)

    @property
    def uses_shm(self) -> bool:
        return SHM_URL in self.fabric_urls

    @property
    def caveat(self) -> str:
        """What is to be known of a value that is not offered; "" for none."""
        if self.transfer not in _NOT_OFFERED:
            return ""
        return f"--memserve-transfer {self.transfer} is for measurements only: leave it out to send KV faster"

    @property
    def all_registries(self) -> list[str]:
        return [endpoint.strip() for endpoint in self.registries.split(",") if endpoint.strip()]

    @classmethod
    def parse(cls, texts: Mapping[str, str]) -> "InstanceOptions":
        """From text by field; a field that is not there has its default. Raises OptionError."""
        values: dict[str, Any] = dict(texts)
        for name, choices in _CHOICES.items():
            if name in texts:
                values[name] = _choice(name, texts[name], choices)
        values |= {name: _port(name, texts[name]) for name in _PORTS if name in texts}
        if "insecure" in texts:
            try:
                values["insecure"] = insecure_of(texts["insecure"])
            except ValueError as error:
                raise OptionError(f"--memserve-insecure {error}") from None
        return cls(**values)

    @classmethod
    def from_environment(cls) -> "InstanceOptions":
        """As `publish` left them, for the processes that SGLang spawns. Raises OptionError."""
        names = {field.name: _variable(field.name) for field in fields(cls)}
        return cls.parse({name: os.environ[found] for name, found in names.items() if os.environ.get(found)})

    def publish(self, environ: MutableMapping[str, str]) -> None:
        """Sets the environment variable of each field."""
        for field in fields(self):
            environ[_variable(field.name)] = str(getattr(self, field.name))


def take(argv: list[str]) -> tuple[InstanceOptions, list[str]]:
    """The options of a command line and the environment, and what is left for SGLang. Raises OptionError."""
    given: dict[str, str] = {}
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        flag, equals, value = word.partition("=")
        if not flag.startswith("--memserve-"):
            rest.append(word)
            continue
        name = flag.removeprefix("--memserve-").replace("-", "_")
        if name not in {field.name for field in fields(InstanceOptions)}:
            raise OptionError(f"{flag}: there is no such flag{_near(flag)}")
        text = value if equals else next(words, None)
        if not text or text.startswith("--"):
            raise OptionError(f"{flag} needs a value: --help lists MemServe's flags")
        given[name] = text
    environment = InstanceOptions.from_environment()
    return InstanceOptions.parse({**{k: str(v) for k, v in vars(environment).items()}, **given}), rest


def flag_names() -> list[str]:
    return [f"--memserve-{field.name.replace('_', '-')}" for field in fields(InstanceOptions)]


def port_flags() -> dict[str, str]:
    """The flags that pin a port, each with its environment variable."""
    return {f"--memserve-{name.replace('_', '-')}": _variable(name) for name in _PORTS}


def variables() -> list[str]:
    """The environment variables from which instances read their options."""
    return [*(_variable(field.name) for field in fields(InstanceOptions)), KEY_VARIABLE]


def help_text() -> str:
    return _HELP


def check_variables(environ: Mapping[str, str]) -> None:
    """Raises OptionError for a variable that is almost an option's. `memserve` knows all others too."""
    for name in environ:
        if name.startswith("MEMSERVE_") and name not in variables():
            near = difflib.get_close_matches(name, variables(), n=1, cutoff=0.85)
            if near:
                raise OptionError(f"{name} is set, and no option has that name: did you mean {near[0]}?")


def _near(flag: str) -> str:
    near = difflib.get_close_matches(flag, flag_names(), n=1, cutoff=0.7)
    return f": did you mean {near[0]}?" if near else ", it has " + ", ".join(flag_names())


def _choice(name: str, text: str, choices: type[StrEnum]) -> StrEnum:
    try:
        return choices(text)
    except ValueError:
        offered = [choice for choice in choices if choice not in _NOT_OFFERED]
        raise OptionError(f"--memserve-{name} {text}: choose from {', '.join(offered)}") from None


def _port(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        flag = f"--memserve-{name.replace('_', '-')}"
        raise OptionError(f"{flag} {text}: give a port from 1 to 65535, or 0 for a free one")
    return int(text)


def _variable(name: str) -> str:
    return f"MEMSERVE_{name.upper()}"
