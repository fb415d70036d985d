import pytest

from benchmark.mock_engine import MockEngine
from sglang_memserve.bench.serving.apis import APIS, RequestSettings
from sglang_memserve.bench.serving.client import Client, open_session
from sglang_memserve.bench.workloads.form import Workload, WorkloadSession, WorkloadTurn


@pytest.fixture
async def engines(free_port):
    """Starts mock engines that serve at their `url`; their delays may be set at any time."""
    servers = []

    async def start():
        mock, port = MockEngine(), free_port()
        servers.append(await mock.serve("127.0.0.1", port))
        mock.url = f"http://127.0.0.1:{port}"
        return mock

    yield start
    for server in servers:
        server.close()


@pytest.fixture
async def engine(engines):
    return await engines()


@pytest.fixture
async def client(engine):
    async with open_session() as session:
        yield Client(session, engine.url, timeout_s=5.0)


@pytest.fixture(params=list(APIS))
def api(request):
    return request.param


@pytest.fixture
def conversing():
    """Makes conversations in one of the forms, each for a session's name."""
    return lambda api="generate", **asking: lambda session="": APIS[api](RequestSettings(**asking), session)


def turn(tokens=10, output=3, text=None, after=0.0):
    return WorkloadTurn(
        tuple(range(100, 100 + tokens)), output, "word " * tokens if text is None else text, after
    )


@pytest.fixture
def dialogue():
    """A workload of sessions that arrive at `arrivals`, each with the turns given."""

    class Dialogue:
        turn = staticmethod(turn)

        def __call__(self, *arrivals, turns=None):
            turns = turns or [turn()]
            sessions = (WorkloadSession(f"s{n}", at, tuple(turns)) for n, at in enumerate(arrivals))
            return Workload("test", tuple(sessions))

    return Dialogue()
