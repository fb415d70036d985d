"""Every endpoint of the router, with its handler. What is not listed here gets 404."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from router.http.endpoint import Access, AnsweredBy, Endpoint
from router.http.handlers import everywhere, forwarded, health, inspection, workers
from router.http.messages import json_response
from router.http.openapi import document
from router.http.services import SERVICES


async def _openapi(request: web.Request) -> web.Response:
    return json_response(document(ENDPOINTS, keyed=bool(request.app[SERVICES].config.api_key)))


def _pair(methods: tuple[str, ...], path: str, summary: str) -> Endpoint:
    return Endpoint(methods, path, AnsweredBy.PAIR, summary, forwarded.generate, Access.CLIENT)


def _any(methods: tuple[str, ...], path: str, summary: str) -> Endpoint:
    return Endpoint(methods, path, AnsweredBy.ANY_INSTANCE, summary, forwarded.any_instance, Access.CLIENT)


def _all(
    methods: tuple[str, ...], path: str, summary: str, handler: Handler, access: Access = Access.ADMIN
) -> Endpoint:
    return Endpoint(methods, path, AnsweredBy.ALL_INSTANCES, summary, handler, access)


def _colocated(methods: tuple[str, ...], path: str, summary: str, reason: str) -> Endpoint:
    handler = forwarded.colocated(reason)
    return Endpoint(methods, path, AnsweredBy.COLOCATED, summary, handler, Access.CLIENT, reason)


def _holder(methods: tuple[str, ...], path: str, summary: str) -> Endpoint:
    handler = forwarded.holder(_STORED)
    return Endpoint(methods, path, AnsweredBy.HOLDER, summary, handler, Access.CLIENT, _STORED)


def _router(methods: tuple[str, ...], path: str, summary: str, handler: Handler, access: Access) -> Endpoint:
    return Endpoint(methods, path, AnsweredBy.ROUTER, summary, handler, access)


_PUBLIC, _METRICS, _CLIENT, _TENANT, _ADMIN = Access
_GET, _POST, _POST_PUT, _GET_POST = ("GET",), ("POST",), ("POST", "PUT"), ("GET", "POST")
_EMBEDS = "a prefill/decode pair generates text; embeddings, classes and ranks come from a whole server"
_SCORES = "a prefill/decode pair generates text; it scores nothing"
_ROOMLESS = "this API of SGLang's has no fields that tie the halves of a prefill/decode pair together"
_STORED = "a prefill/decode pair stores no answers"

ENDPOINTS: tuple[Endpoint, ...] = (
    _pair(_POST_PUT, "/generate", "Generate text, in SGLang's own form"),
    _pair(_POST, "/v1/completions", "Complete a prompt, in OpenAI's form"),
    _pair(_POST, "/v1/chat/completions", "Answer a chat, in OpenAI's form"),
    _pair(_POST, "/v1/responses", "Answer, in OpenAI's Responses form"),
    _pair(_POST, "/v1/messages", "Answer a chat, in Anthropic's form"),
    _pair(_POST, "/invocations", "Answer a chat, at SageMaker's path"),
    _any(_GET, "/", "A word of greeting"),
    _any(_GET, "/v1/models", "The models served"),
    _any(_GET, "/v1/models/{model:.+}", "One model"),
    _any(_GET, "/model_info", "What the model is"),
    _any(_GET, "/get_model_info", "/model_info under its old name"),
    _any(_POST, "/tokenize", "Tokens of a text"),
    _any(_POST, "/v1/tokenize", "Tokens of a text"),
    _any(_POST, "/detokenize", "Text of tokens"),
    _any(_POST, "/v1/detokenize", "Text of tokens"),
    _any(_POST, "/parse_function_call", "Tool calls in a text"),
    _any(_POST, "/separate_reasoning", "Reasoning and answer of a text, apart"),
    _any(_POST, "/v1/messages/count_tokens", "Tokens of messages, in Anthropic's form"),
    _any(_GET, "/api/tags", "The models served, in Ollama's form"),
    _any(_POST, "/api/show", "What the model is, in Ollama's form"),
    _all(
        _POST,
        "/abort_request",
        "Abort a request by its rid, or all of them",
        everywhere.abort_request,
        _CLIENT,
    ),
    _all(_GET_POST, "/flush_cache", "Empty the prefix caches", everywhere.flush_cache),
    _all(_GET, "/server_info", "Every instance's settings and state, by role", everywhere.server_info),
    _all(_GET, "/get_server_info", "/server_info under its old name", everywhere.server_info),
    _all(_GET, "/v1/loads", "How busy they are: summed up, and each", everywhere.loads),
    _holder(_GET, "/v1/responses/{response_id}", "A stored answer"),
    _holder(_POST, "/v1/responses/{response_id}/cancel", "Cancel a stored answer"),
    _colocated(_POST, "/api/chat", "Answer a chat, in Ollama's form", _ROOMLESS),
    _colocated(_POST, "/api/generate", "Complete a prompt, in Ollama's form", _ROOMLESS),
    _colocated(_POST, "/vertex_generate", "Generate text, in Vertex AI's form", _ROOMLESS),
    _colocated(_POST, "/v1/audio/transcriptions", "Text of speech", _ROOMLESS),
    _colocated(_POST, "/v1/embeddings", "Embeddings, in OpenAI's form", _EMBEDS),
    _colocated(_POST_PUT, "/encode", "Embeddings, in SGLang's own form", _EMBEDS),
    _colocated(_POST_PUT, "/classify", "Rewards or classes, in SGLang's own form", _EMBEDS),
    _colocated(_POST, "/v1/classify", "Classes of a text", _EMBEDS),
    _colocated(_POST_PUT, "/v1/rerank", "Rank documents by a query", _EMBEDS),
    _colocated(_POST, "/v1/score", "Score items by a query", _SCORES),
    _colocated(_POST, "/v1/decisions", "Decide by scoring", _SCORES),
    _colocated(_POST, "/v1/systemone", "Decide by scoring, in System One's form", _SCORES),
    _router(_GET, "/health", "/liveness under sglang_router's name", health.liveness, _PUBLIC),
    _router(_GET, "/ready", "/readiness under SGLang's name", health.readiness, _PUBLIC),
    _router(_GET, "/readiness", "Whether a request could be served", health.readiness, _PUBLIC),
    _router(
        _GET, "/ping", "Whether its instances, if any, can serve: SageMaker's path", health.ping, _CLIENT
    ),
    _router(_GET, "/liveness", "Whether the router itself runs", health.liveness, _PUBLIC),
    _router(
        _GET, "/health_generate", "Whether a request is served: generates", health.health_generate, _PUBLIC
    ),
    _router(_GET, "/workers", "The instances and their condition", workers.list_workers, _ADMIN),
    _router(_POST, "/workers", "Add an instance", workers.add, _ADMIN),
    _router(_GET, "/workers/{worker:.+}", "One instance, by its id or URL", workers.worker, _ADMIN),
    _router(
        ("DELETE",), "/workers/{worker:.+}", "Remove an instance once it is idle", workers.remove, _ADMIN
    ),
    _router(_POST, "/add_worker", "Add the instance ?url=", workers.add_by_query, _ADMIN),
    _router(
        _POST, "/remove_worker", "Remove the instance ?url= once it is idle", workers.remove_by_query, _ADMIN
    ),
    _router(
        _GET, "/decisions", "The latest routing decisions, the newest first", inspection.decisions, _ADMIN
    ),
    _router(
        _POST,
        "/explain",
        "How a request would be routed now, and why; it is not sent",
        inspection.explain,
        _TENANT,
    ),
    _router(_GET, "/list_workers", "The instances' URLs", workers.list_urls, _ADMIN),
    _router(_GET, "/metrics", "What the router measures, for Prometheus", inspection.metrics, _METRICS),
    _router(_GET, "/openapi.json", "This list, as an OpenAPI document", _openapi, _CLIENT),
)


def routes() -> list[web.RouteDef]:
    served = [_route(method, endpoint) for endpoint in ENDPOINTS for method in endpoint.methods]
    # Browsers ask first whether they may; what SGLang allows is SGLang's to say.
    paths = dict.fromkeys(endpoint.path for endpoint in ENDPOINTS)
    return [*served, *(web.options(path, forwarded.any_instance) for path in paths)]


def _route(method: str, endpoint: Endpoint) -> web.RouteDef:
    if method != "GET":
        return web.route(method, endpoint.path, endpoint.handler)
    # A HEAD must change nothing: none for what a POST does as well.
    return web.get(endpoint.path, endpoint.handler, allow_head=endpoint.methods == ("GET",))
