"""The real router, where its part is tested, in front of fake instances."""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from certificates import Authority

from router.config.flags import parse
from router.protocol.tls import pinned
from sglang_memserve.cluster import probe
from sglang_memserve.cluster.config import ClusterConfig
from sglang_memserve.cluster.errors import ClusterError
from sglang_memserve.cluster.local import LocalCluster, read_model
from sglang_memserve.cluster.supervisor import Limits

LIMITS = Limits(start_s=30, stop_s=10, poll_s=0.05, restarts=2, backoff_s=0.05)


@pytest.fixture
async def cluster(tmp_path, fake_argv, fake_spec, free_port, monkeypatch):
    monkeypatch.setenv("TEST_MARK_OF_MEMSERVE", str(tmp_path))
    lines = []
    async with probe.client() as session:

        def make(*roles, **counts):
            specs = []
            for i, role in enumerate(roles):
                port = free_port()
                requests = tmp_path / f"{role}-{i}.requests"
                command = tuple(fake_argv(port, "--requests-log", requests))
                bootstrap = free_port() if role == "prefill" else None
                specs.append(fake_spec(role, i, port, bootstrap_port=bootstrap, command=command))
            config = ClusterConfig(
                **{role: roles.count(role) for role in ("prefill", "decode", "colocated")},
                port=free_port(),
                log_dir=tmp_path / "logs",
            )
            report = lambda name, what: lines.append(f"{name} {what}")  # noqa: E731
            made = LocalCluster(config, specs, session, report, LIMITS)
            made.session, made.lines = session, lines
            return made

        yield make


def asked(folder):
    return sorted(path.stem for path in folder.glob("*.requests"))


async def test_it_serves_once_a_request_has_gone_through_each_instance(cluster, tmp_path, survivors):
    local = cluster("prefill", "prefill", "decode", "colocated")
    await local.start()
    async with asyncio.timeout(10):
        # A real decode instance answers after prefill; the fake one may be first.
        while asked(tmp_path) != ["colocated-3", "decode-2", "prefill-0", "prefill-1"]:
            await asyncio.sleep(0.05)
    assert len(await probe.healthy_workers(local.session, local.url)) == 4
    await local.stop()
    assert survivors() == []
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {
        "router.log",
        "prefill-0.log",
        "prefill-1.log",
        "decode-2.log",
        "colocated-3.log",
    }


async def test_after_a_kill_it_serves_again(cluster, survivors):
    local = cluster("prefill", "decode")
    await local.start()
    watching = asyncio.create_task(local.watch())
    for victim in ("decode-1", "router"):
        member = next(m for m in local._members if m.name == victim)
        os.kill(member.process.pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while f"{victim} back" not in local.lines:
                await asyncio.sleep(0.05)
        await probe.generate_once(local.session, local.url, 20)
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await local.stop()
    assert survivors() == []


@pytest.fixture
def fake_router(fake_argv, monkeypatch):
    """For the real one, which takes a second to start, where it matters only that there is a router."""
    monkeypatch.setattr("sglang_memserve.cluster.local.router_argv", lambda _, port, *__: fake_argv(port))


async def test_an_instance_that_refuses_requests_stops_the_start(
    cluster, fake_router, monkeypatch, survivors
):
    local = cluster("colocated")

    async def refused(*_):
        raise ClusterError("refused")

    async def healthy(*_):
        return {spec.url for spec in local._instances.values()}

    monkeypatch.setattr(probe, "healthy_workers", healthy)
    monkeypatch.setattr(probe, "generate_once", refused)
    with pytest.raises(ClusterError, match="refused"):
        await local.start()
    await local.stop()
    assert survivors() == []


async def test_a_death_is_reported_before_the_router_misses_it(cluster, fake_router, monkeypatch, survivors):
    local = cluster("colocated")

    async def healthy(*_):
        with suppress(ProcessLookupError):
            os.kill(local._members[1].process.pid, signal.SIGKILL)
        return set()

    monkeypatch.setattr(probe, "healthy_workers", healthy)
    with pytest.raises(ClusterError, match="colocated-0 died before all was ready"):
        await local.start()
    await local.stop()
    assert survivors() == []


async def test_the_model_is_described_by_another_process(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"max_position_embeddings": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32,'
        ' "dtype": "float32"}'
    )
    model = await read_model(str(tmp_path), 60)
    assert Path(model.path) == tmp_path
    assert (model.context_length, model.kv_bytes_per_token) == (64, 2 * 2 * 4 * 8 * 4)


async def test_a_model_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ClusterError, match="no model"):
        await read_model(str(tmp_path / "nothing"), 60)


async def test_the_routers_settings_of_a_cluster_file_reach_it(tmp_path, fake_spec, free_port):
    config = ClusterConfig(colocated=1, log_dir=tmp_path / "logs", router={"policy": "session"})
    async with probe.client() as session:
        cluster = LocalCluster(config, [fake_spec("colocated", 0, free_port())], session, print)
    (router,) = (member for member in cluster._members if member.name == "router")
    settings = parse(router.argv[router.argv.index("router.launch_router") + 1 :], {})
    assert (settings.policy, settings.port) == ("session", 30000)


async def test_it_starts_with_tls_and_an_admin_key(tmp_path, fake_argv, fake_spec, free_port, survivors):
    cert, key = Authority(tmp_path, "ours").files("router", "router.example")
    port = free_port()
    config = ClusterConfig(
        colocated=1,
        port=free_port(),
        log_dir=tmp_path / "logs",
        api_key="client-key",
        admin_api_key="admin-key",
        router={"tls_cert_path": cert, "tls_key_path": key},
    )
    spec = fake_spec("colocated", 0, port, command=tuple(fake_argv(port)))
    async with probe.client("client-key") as session, probe.client("admin-key", pinned(cert)) as asking:
        local = LocalCluster(config, [spec], session, print, LIMITS, router_session=asking)
        await local.start()
        assert local.url.startswith("https://")
        assert await probe.healthy_workers(asking, local.url) == {spec.url}
        await local.stop()
