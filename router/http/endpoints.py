"""Every endpoint of the router, and who answers it. What is not listed here gets 404."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Who(StrEnum):
    PAIR = "a prefill/decode pair or a colocated instance"
    ANYONE = "any healthy instance"
    EVERYONE = "all instances at once"
    COLOCATED = "a colocated instance"
    HOLDER = "the colocated instance that holds it"
    ROUTER = "the router"


class Endpoint(NamedTuple):
    """`path` is aiohttp's pattern. `pd_unsupported_reason`: why a pair cannot answer, where only others can.

    `public` ones are answered without an API key, as by SGLang, so that probes need none.
    """

    methods: tuple[str, ...]
    path: str
    who: Who
    summary: str
    pd_unsupported_reason: str = ""
    public: bool = False


_GET, _POST, _POST_PUT, _GET_POST = ("GET",), ("POST",), ("POST", "PUT"), ("GET", "POST")
_EMBEDS = "a prefill/decode pair generates text; embeddings, classes and ranks come from a whole server"
_SCORES = "a prefill/decode pair generates text; it scores nothing"
_ROOMLESS = "this API of SGLang's has no fields that tie the halves of a prefill/decode pair together"
_STORED = "a prefill/decode pair stores no answers"

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(_POST_PUT, "/generate", Who.PAIR, "Generate text, in SGLang's own form"),
    Endpoint(_POST, "/v1/completions", Who.PAIR, "Complete a prompt, in OpenAI's form"),
    Endpoint(_POST, "/v1/chat/completions", Who.PAIR, "Answer a chat, in OpenAI's form"),
    Endpoint(_POST, "/v1/responses", Who.PAIR, "Answer, in OpenAI's Responses form"),
    Endpoint(_POST, "/v1/messages", Who.PAIR, "Answer a chat, in Anthropic's form"),
    Endpoint(_POST, "/invocations", Who.PAIR, "Answer a chat, at SageMaker's path"),
    Endpoint(_GET, "/", Who.ANYONE, "A word of greeting"),
    Endpoint(_GET, "/v1/models", Who.ANYONE, "The models served"),
    Endpoint(_GET, "/v1/models/{model:.+}", Who.ANYONE, "One model"),
    Endpoint(_GET, "/model_info", Who.ANYONE, "What the model is"),
    Endpoint(_GET, "/get_model_info", Who.ANYONE, "/model_info under its old name"),
    Endpoint(_POST, "/tokenize", Who.ANYONE, "Tokens of a text"),
    Endpoint(_POST, "/v1/tokenize", Who.ANYONE, "Tokens of a text"),
    Endpoint(_POST, "/detokenize", Who.ANYONE, "Text of tokens"),
    Endpoint(_POST, "/v1/detokenize", Who.ANYONE, "Text of tokens"),
    Endpoint(_POST, "/parse_function_call", Who.ANYONE, "Tool calls in a text"),
    Endpoint(_POST, "/separate_reasoning", Who.ANYONE, "Reasoning and answer of a text, apart"),
    Endpoint(_POST, "/v1/messages/count_tokens", Who.ANYONE, "Tokens of messages, in Anthropic's form"),
    Endpoint(_GET, "/api/tags", Who.ANYONE, "The models served, in Ollama's form"),
    Endpoint(_POST, "/api/show", Who.ANYONE, "What the model is, in Ollama's form"),
    Endpoint(_POST, "/abort_request", Who.EVERYONE, "Abort a request by its rid, or all of them"),
    Endpoint(_GET_POST, "/flush_cache", Who.EVERYONE, "Empty the prefix caches"),
    Endpoint(_GET, "/server_info", Who.EVERYONE, "Every instance's settings and state, by role"),
    Endpoint(_GET, "/get_server_info", Who.EVERYONE, "/server_info under its old name"),
    Endpoint(_GET, "/v1/loads", Who.EVERYONE, "How busy they are: summed up, and each"),
    Endpoint(_GET, "/v1/responses/{response_id}", Who.HOLDER, "A stored answer", _STORED),
    Endpoint(_POST, "/v1/responses/{response_id}/cancel", Who.HOLDER, "Cancel a stored answer", _STORED),
    Endpoint(_POST, "/api/chat", Who.COLOCATED, "Answer a chat, in Ollama's form", _ROOMLESS),
    Endpoint(_POST, "/api/generate", Who.COLOCATED, "Complete a prompt, in Ollama's form", _ROOMLESS),
    Endpoint(_POST, "/vertex_generate", Who.COLOCATED, "Generate text, in Vertex AI's form", _ROOMLESS),
    Endpoint(_POST, "/v1/audio/transcriptions", Who.COLOCATED, "Text of speech", _ROOMLESS),
    Endpoint(_POST, "/v1/embeddings", Who.COLOCATED, "Embeddings, in OpenAI's form", _EMBEDS),
    Endpoint(_POST_PUT, "/encode", Who.COLOCATED, "Embeddings, in SGLang's own form", _EMBEDS),
    Endpoint(_POST_PUT, "/classify", Who.COLOCATED, "Rewards or classes, in SGLang's own form", _EMBEDS),
    Endpoint(_POST, "/v1/classify", Who.COLOCATED, "Classes of a text", _EMBEDS),
    Endpoint(_POST_PUT, "/v1/rerank", Who.COLOCATED, "Rank documents by a query", _EMBEDS),
    Endpoint(_POST, "/v1/score", Who.COLOCATED, "Score items by a query", _SCORES),
    Endpoint(_POST, "/v1/decisions", Who.COLOCATED, "Decide by scoring", _SCORES),
    Endpoint(_POST, "/v1/systemone", Who.COLOCATED, "Decide by scoring, in System One's form", _SCORES),
    Endpoint(_GET, "/health", Who.ROUTER, "Whether a request could be served", public=True),
    Endpoint(_GET, "/ready", Who.ROUTER, "/health under SGLang's other name", public=True),
    Endpoint(_GET, "/readiness", Who.ROUTER, "/health under sglang_router's name", public=True),
    Endpoint(_GET, "/ping", Who.ROUTER, "/health at SageMaker's path"),
    Endpoint(_GET, "/liveness", Who.ROUTER, "Whether the router itself runs", public=True),
    Endpoint(_GET, "/health_generate", Who.ROUTER, "Whether a request is served: generates", public=True),
    Endpoint(_GET, "/workers", Who.ROUTER, "The instances and their condition"),
    Endpoint(_POST, "/workers", Who.ROUTER, "Add an instance"),
    Endpoint(_GET, "/workers/{worker:.+}", Who.ROUTER, "One instance, by its id or URL"),
    Endpoint(("DELETE",), "/workers/{worker:.+}", Who.ROUTER, "Remove an instance once it is idle"),
    Endpoint(_POST, "/add_worker", Who.ROUTER, "Add the instance ?url="),
    Endpoint(_POST, "/remove_worker", Who.ROUTER, "Remove the instance ?url= once it is idle"),
    Endpoint(_GET, "/decisions", Who.ROUTER, "The latest routing decisions, the newest first"),
    Endpoint(_POST, "/explain", Who.ROUTER, "How a request would be routed now, and why; it is not sent"),
    Endpoint(_GET, "/list_workers", Who.ROUTER, "The instances' URLs"),
    Endpoint(_GET, "/metrics", Who.ROUTER, "What the router measures, for Prometheus", public=True),
    Endpoint(_GET, "/openapi.json", Who.ROUTER, "This list, as an OpenAPI document"),
)
