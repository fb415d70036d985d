"""The OpenAPI document."""

import json
import re

import pytest

from router.http.endpoint import Access
from router.http.endpoints import ENDPOINTS
from router.http.openapi import document


@pytest.fixture(params=[False, True])
def described(request):
    return document(ENDPOINTS, keyed=request.param), request.param


def operations(doc):
    return [
        (path, method, operation) for path, item in doc["paths"].items() for method, operation in item.items()
    ]


def test_it_has_every_endpoint_and_method(described):
    doc, _ = described
    served = {
        (re.sub(r":[^}]*", "", endpoint.path), method.lower())
        for endpoint in ENDPOINTS
        for method in endpoint.methods
    }
    assert {(path, method) for path, method, _ in operations(doc)} == served
    assert len(served) == sum(len(endpoint.methods) for endpoint in ENDPOINTS)


def test_it_is_built_as_openapi_3_1_asks(described):
    doc, _ = described
    assert doc["openapi"].startswith("3.1.")
    assert {"title", "version"} <= doc["info"].keys()
    ids = [operation["operationId"] for _, _, operation in operations(doc)]
    assert len(set(ids)) == len(ids)
    for path, method, operation in operations(doc):
        assert path.startswith("/")
        named = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path))
        assert all(p["required"] for p in operation["parameters"] if p["in"] == "path")
        assert all(p["in"] in ("path", "query") and p["schema"] for p in operation["parameters"])
        assert "requestBody" not in operation or method not in ("get", "delete")
        for response in operation["responses"].values():
            assert response["description"]
            assert all(isinstance(media, dict) for media in response["content"].values())


def test_references_resolve(described):
    doc, _ = described
    for ref in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(doc)):
        node = doc
        for part in ref.split("/"):
            node = node[part]


def test_a_key_is_asked_for_where_it_is_demanded(described):
    doc, keyed = described
    assert ("security" in doc) == ("securitySchemes" in doc["components"]) == keyed
    public = {path for path, _, operation in operations(doc) if operation.get("security") == []}
    assert public == (
        {endpoint.path for endpoint in ENDPOINTS if endpoint.access < Access.CLIENT} if keyed else set()
    )


async def test_the_router_serves_it(start):
    cluster = await start(colocated=1)
    async with cluster.session.get(cluster.url + "/openapi.json") as response:
        assert json.loads(await response.read()) == document(ENDPOINTS, keyed=False)
