"""The router as a process."""

import asyncio
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import aiohttp
import pytest
from certificates import Authority
from tenant_files import bearer, entry, write

from router.config.flags import parse


@pytest.fixture
def port(free_port):
    return str(free_port())


@pytest.fixture
def router_process(forked_python):
    @asynccontextmanager
    async def running(*argv, program=("-m", "router.launch_router")):
        process = await asyncio.create_subprocess_exec(
            *forked_python("router.launch_router"), *program, *argv, stderr=asyncio.subprocess.PIPE
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    return running


async def listening(process):
    lines = []
    while not lines or b"listening on" not in lines[-1]:
        lines.append(await process.stderr.readline())
        assert lines[-1], b"".join(lines)
    return b"".join(lines)


def test_it_says_its_version_and_imports_neither_torch_nor_an_engine():
    # A new interpreter, not a forked one, and the same for both: it takes a second.
    command = [sys.executable, "-X", "importtime", "-m", "router.launch_router", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["memserve", version("sglang-memserve")]
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "aiohttp" in imported
    assert not {"torch", "sglang", "sglang_memserve", "transformers"} & imported


@pytest.mark.parametrize(
    ("argv", "environment", "enabled"),
    [
        ([], {}, True),
        (["--no-access-log"], {}, False),
        ([], {"MEMSERVE_ROUTER_ACCESS_LOG": "0"}, False),
        (["--access-log"], {"MEMSERVE_ROUTER_ACCESS_LOG": "false"}, True),
    ],
)
def test_the_access_log_is_on_unless_it_is_switched_off(argv, environment, enabled):
    assert parse(argv, environment).access_log is enabled


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_a_running_stream_end_and_exits_with_0(start, port, router_process, number):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold_after = 1
    async with (
        router_process("--worker-urls", mock.url, "--port", port) as process,
        aiohttp.ClientSession() as session,
    ):
        await listening(process)
        async with session.post(f"http://127.0.0.1:{port}/generate", json={"stream": True}) as response:
            got = await response.content.readany()
            process.send_signal(number)
            while b"stopping" not in await process.stderr.readline():
                pass
            await asyncio.sleep(0.3)
            mock.release.set()
            assert got + await response.read() == b"".join(mock.chunks)
        assert await process.wait() == 0


async def test_a_request_that_never_ends_does_not_keep_it_from_stopping(start, port, router_process):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold = True
    argv = ("--worker-urls", mock.url, "--port", port, "--shutdown-grace-period-secs", "0.2")
    async with router_process(*argv) as process, aiohttp.ClientSession() as session:
        await listening(process)
        request = asyncio.create_task(session.post(f"http://127.0.0.1:{port}/generate", json={}))
        await mock.arrived.wait()
        process.terminate()
        assert await process.wait() == 0
        await mock.aborted.wait()
        with pytest.raises(aiohttp.ClientError):
            await request


async def test_a_client_that_leaves_aborts_the_request_in_the_real_process_too(start, port, router_process):
    cluster = await start(colocated=1)
    mock = cluster.colocated[0]
    mock.hold = True
    async with router_process("--worker-urls", mock.url, "--port", port) as process:
        await listening(process)
        request = asyncio.create_task(cluster.session.post(f"http://127.0.0.1:{port}/generate", json={}))
        await mock.arrived.wait()
        request.cancel()
        await mock.aborted.wait()


async def test_a_taken_port_is_named_and_the_exit_code_is_1(start, router_process):
    cluster = await start(colocated=1)
    port = cluster.url.rsplit(":", 1)[1]
    async with router_process("--worker-urls", cluster.colocated[0].url, "--port", port) as process:
        text = (await process.stderr.read()).decode()
        assert await process.wait() == 1
    assert f"cannot listen on 127.0.0.1:{port}" in text
    assert "Traceback" not in text


async def test_a_crash_of_the_health_checks_ends_it_with_1(start, port, router_process):
    cluster = await start(colocated=1)
    code = (
        "import sys\nfrom router import launch_router\nfrom router.fleet import health\n"
        "async def crash(self, instance): raise RuntimeError('boom')\n"
        "health.HealthWatch._watch = crash\n"
        "sys.exit(launch_router.main())"
    )
    argv = ("--worker-urls", cluster.colocated[0].url, "--port", port)
    async with router_process(*argv, program=("-c", code)) as process:
        text = await process.stderr.read()
        assert await process.wait() == 1
    assert b"health checks" in text
    assert b"boom" in text


@pytest.mark.parametrize(("flags", "lines"), [(("--no-access-log",), 0), ((), 5)])
async def test_it_logs_requests_if_asked_and_nothing_else_when_all_is_well(
    start, port, router_process, flags, lines
):
    cluster = await start(colocated=1)
    argv = ("--worker-urls", cluster.colocated[0].url, "--port", port, *flags)
    async with router_process(*argv) as process:
        await listening(process)
        for _ in range(5):
            async with cluster.session.post(f"http://127.0.0.1:{port}/generate", json={}) as response:
                assert response.status == 200
        process.terminate()
        *logged, stopping = (await process.stderr.read()).splitlines()
        assert b"stopping" in stopping
        assert [b"router.access: request_id=" in line for line in logged] == [True] * lines


async def test_a_process_serves_https_and_reads_its_certificate_again(start, port, router_process, tmp_path):
    ours, new = Authority(tmp_path, "ours"), Authority(tmp_path, "new")
    cert, key = ours.files("router")
    mock = (await start(colocated=1, tls=ours.server(), ca_cert_paths=(ours.trust,))).colocated[0]
    argv = ["--worker-urls", mock.url, "--port", port, "--ca-cert-paths", ours.trust]

    async def served(authority):
        async with aiohttp.ClientSession() as session:
            url = f"https://127.0.0.1:{port}/generate"
            async with session.post(url, json={"text": "a"}, ssl=authority.client()) as response:
                return response.status

    async with router_process(*argv, "--tls-cert-path", cert, "--tls-key-path", key) as process:
        assert f"https://127.0.0.1:{port}".encode() in await listening(process)
        # Who stalls or speaks no TLS holds nobody up, on uvloop either.
        stalled = [await asyncio.open_connection("127.0.0.1", int(port)) for _ in range(5)]
        for _, writer in stalled:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        for reader, writer in stalled:
            assert b"HTTP/1.1 200" not in await reader.read()
            writer.close()
        assert await served(ours) == 200
        for file, source in zip((cert, key), new.files("router"), strict=True):
            Path(file).write_bytes(Path(source).read_bytes())
        process.send_signal(signal.SIGHUP)
        while b"read again" not in await process.stderr.readline():
            pass
        assert await served(new) == 200
        process.send_signal(signal.SIGTERM)
        rest = await process.stderr.read()
        assert await process.wait() == 0
        assert b"Traceback" not in rest


async def test_a_process_reads_its_tenants_again(port, router_process, tmp_path):
    path = tmp_path / "tenants.yaml"
    argv = ["--tenants", write(path, entry("a"), entry("b")), "--port", port]

    async def heard():
        """Of a router without instances, 503 says that the key is known."""
        async with aiohttp.ClientSession() as session:
            statuses = []
            for name in "abc":
                url = f"http://127.0.0.1:{port}/generate"
                async with session.post(url, json={"text": "a"}, headers=bearer(name)) as response:
                    statuses.append(response.status)
            return statuses

    async def logged(process, text):
        while text not in (line := await process.stderr.readline()):
            assert line
        return line

    async with router_process(*argv) as process:
        await listening(process)
        assert await heard() == [503, 503, 401]
        write(path, entry("b"), entry("c"))
        process.send_signal(signal.SIGHUP)
        await logged(process, b"the file of tenants read again")
        assert await heard() == [401, 503, 503]
        write(path, entry("a", requests_in_flight="no"))
        process.send_signal(signal.SIGHUP)
        line = await logged(process, b"stays as it was")
        assert b"tenants.0.requests_in_flight: 'no'" in line
        assert await heard() == [401, 503, 503]
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def test_a_wrong_file_of_tenants_is_said_and_nothing_is_served(port, tmp_path):
    path = write(tmp_path / "tenants.yaml", entry("a", prompt_tokens=0))
    command = [sys.executable, "-m", "router.launch_router", "--port", port, "--tenants", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "tenants.0.prompt_tokens: 0: must be a number greater than 0" in done.stderr
    assert "Traceback" not in done.stderr


def test_certificates_that_do_not_serve_are_said_and_nothing_is_served(port, tmp_path):
    cert, _ = Authority(tmp_path, "ours").files("router")
    command = [sys.executable, "-m", "router.launch_router", "--port", port, "--tls-cert-path", cert]
    for rest, said in (
        ([], "--tls-cert-path without --tls-key-path"),
        (["--tls-key-path", cert + "x"], "No such file"),
    ):
        done = subprocess.run([*command, *rest], capture_output=True, text=True)
        assert (done.returncode, said in done.stderr) == (2, True), done.stderr
