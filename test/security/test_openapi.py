"""The router before whatever its OpenAPI document allows, and what it does not: no failure of its own."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from waiting import until

from router.http.endpoints import ENDPOINTS
from router.http.openapi import document

SCHEMA = schemathesis.openapi.from_dict(document(ENDPOINTS, keyed=False))
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]
# The same examples in every run: what fails here fails again.
STEADY = settings(
    max_examples=10, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.fixture(scope="module")
def processes():
    started = []
    yield lambda *command, **how: started.append(subprocess.Popen([sys.executable, "-m", *command], **how))
    for process in started:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def router(processes, free_port, tmp_path_factory):
    """A router process before instances that answer everything."""
    ports = [free_port() for _ in range(4)]
    log = tmp_path_factory.mktemp("router") / "log"
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    processes("benchmark.attack.engine", *map(str, ports[1:]))
    flags = [
        "--port",
        str(ports[0]),
        "--prefill",
        urls[1],
        "8998",
        "--decode",
        urls[2],
        "--worker-urls",
        urls[3],
    ]
    with log.open("wb") as written:
        processes("router.launch_router", *flags, stdout=written, stderr=written)
    with requests.Session() as session:
        until(lambda: is_ready(session, urls[0]))
        yield SimpleNamespace(url=urls[0], session=session, log=log)


def is_ready(session, url):
    try:
        workers = session.get(f"{url}/workers", timeout=5).json()["workers"]
    except requests.ConnectionError:
        return False
    return all(worker["is_healthy"] for worker in workers)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.label)
@given(data=st.data())
@STEADY
def test_no_request_makes_the_router_fail(router, operation, data):
    mode = data.draw(st.sampled_from(GenerationMode))
    case = data.draw(operation.as_strategy(generation_mode=mode))
    answer = case.call(base_url=router.url, session=router.session, timeout=20)
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400 and case.method != "HEAD":
        error = json.loads(answer.content)["error"]
        assert (error["code"], set(error)) == (answer.status_code, {"message", "type", "code"})


def test_nothing_of_it_is_in_the_routers_log(router):
    log = router.log.read_text()
    assert "Traceback" not in log
    assert " ERROR " not in log
