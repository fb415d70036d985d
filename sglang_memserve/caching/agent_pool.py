"""The agent's MemPool, and the feeds of what the instance has."""

from mempool.address import Medium
from mempool.arena import DramArena
from mempool.feed.feed import Feed
from mempool.feed.server import FeedServer
from mempool.pool import MemPool
from mempool.remote.fetching import PublishRequest
from mempool.remote.serving import Received
from mempool.sockets import endpoint_of
from mempool.transports.registry import Transports
from sglang_memserve.caching.config import CachingAgentConfig
from sglang_memserve.caching.inbox import Inbox

# Each may cost the scheduler's thread a look-up and a lock.
_MAX_PUBLISH_REQUESTS = 256


def start_pool(
    config: CachingAgentConfig,
    arena: DramArena,
    *,
    write_backs: Inbox[Received],
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
        config.name,
        {Medium.DRAM: arena},
        role=config.role,
        namespace=config.namespace,
        registries=config.registries,
        control=endpoint_of("tcp", config.host, 0),
        data=endpoint_of("stream", config.host, 0),
        on_hbm=write_backs.put,
        on_wanted=put_publish_request if config.publishes else None,
        transports=Transports(config.max_bandwidth),
    )


def serve_feeds(config: CachingAgentConfig, hbm: Feed, dram: Feed) -> FeedServer:
    """DRAM that only stages what is under way has no feed."""
    feeds = {Medium.HBM: hbm} | ({Medium.DRAM: dram} if config.publishes else {})
    return FeedServer(endpoint_of("tcp", config.host, 0), feeds)
