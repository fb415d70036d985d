"""The OpenAPI document."""

import json
import re

import pytest

from router.http.endpoints import ENDPOINTS
from router.http.openapi import document


@pytest.fixture(params=[False, True])
def described(request):
    return document(ENDPOINTS, keyed=request.param), request.param


def operations(doc):
    return [(path, method, one) for path, item in doc["paths"].items() for method, one in item.items()]


def test_it_has_every_endpoint_and_method(described):
    doc, _ = described
    served = {
        (re.sub(r":[^}]*", "", one.path), method.lower()) for one in ENDPOINTS for method in one.methods
    }
    assert {(path, method) for path, method, _ in operations(doc)} == served
    assert len(served) == sum(len(one.methods) for one in ENDPOINTS)


def test_it_is_built_as_openapi_3_1_asks(described):
    doc, _ = described
    assert doc["openapi"].startswith("3.1.")
    assert {"title", "version"} <= doc["info"].keys()
    ids = [one["operationId"] for _, _, one in operations(doc)]
    assert len(set(ids)) == len(ids)
    for path, method, one in operations(doc):
        assert path.startswith("/")
        named = {parameter["name"] for parameter in one["parameters"]}
        assert named == set(re.findall(r"{(\w+)}", path))
        assert all(p["in"] == "path" and p["required"] and p["schema"] for p in one["parameters"])
        assert ("requestBody" in one) == (method not in ("get", "delete"))
        for response in one["responses"].values():
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
    public = {path for path, _, one in operations(doc) if one.get("security") == []}
    assert public == ({one.path for one in ENDPOINTS if one.public} if keyed else set())


async def test_the_router_serves_it(start):
    cluster = await start(colocated=1)
    async with cluster.session.get(cluster.url + "/openapi.json") as response:
        assert json.loads(await response.read()) == document(ENDPOINTS, keyed=False)
