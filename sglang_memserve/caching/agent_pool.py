"""The agent's MemPool, and the feeds of what the instance has."""

from mempool.address import Medium
from mempool.arena import DramArena
from mempool.config import MemPoolConfig
from mempool.engine import EngineHbm, PublishRequest, ReceivedBlocks
from mempool.feed.feed import Feed
from mempool.feed.server import FeedServer
from mempool.pool import MemPool
from mempool.sockets import endpoint_of
from mempool.transports.registry import Transports
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.inbox import Inbox
from sglang_memserve.caching.namespace import Namespace

# Each may cost the scheduler's thread a look-up and a lock.
_MAX_PUBLISH_REQUESTS = 256


def start_pool(
    config: CachingAgentConfig,
    arena: DramArena,
    *,
    write_backs: Inbox[ReceivedBlocks],
    publish_requests: Inbox[PublishRequest],
) -> MemPool:
    """`write_backs` gets what others send to HBM; `publish_requests` what they want of it in DRAM, which is
    refused where too much waits. Raises what `MemPool` raises.
    """

    def put_publish_request(request: PublishRequest) -> None:
        if len(publish_requests) < _MAX_PUBLISH_REQUESTS:
            publish_requests.put(request)
        else:
            request.done()

    return MemPool(
        MemPoolConfig(
            instance=config.name,
            role=config.role,
            namespace=config.namespace,
            registries=config.registries,
            control_url=endpoint_of("tcp", config.host, config.control_port),
            data_url=endpoint_of("stream", config.host, config.block_port),
            access=config.access,
            encrypt=config.encrypt,
            fabric_urls=config.fabric_urls,
        ),
        stores={Medium.DRAM: arena},
        engine=EngineHbm(
            on_received=write_backs.put,
            on_publish_request=put_publish_request if config.publishes else None,
            serves=Namespace.is_name,
        ),
        transports=Transports(config.max_bandwidth, access=config.access, shm=config.uses_shm),
    )


def serve_feeds(config: CachingAgentConfig, hbm: Feed, dram: Feed) -> FeedServer:
    """DRAM that only stages what is under way has no feed."""
    feeds = {Medium.HBM: hbm} | ({Medium.DRAM: dram} if config.publishes else {})
    return FeedServer(endpoint_of("tcp", config.host, config.feed_port), feeds, access=config.access)
