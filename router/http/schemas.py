"""What endpoints take: the bodies and queries of the OpenAPI document.

Bodies are SGLang's and OpenAI's, and instances check them. Here is what the router itself reads of them, and
what most clients send. Further fields are passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_TOKEN: Schema = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_TOKENS: Schema = {"type": "array", "items": _TOKEN, "minItems": 1}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_SHARE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
_NAME: Schema = {"type": ["string", "null"], "maxLength": 1024}
_OBJECT: Schema = {"type": "object"}
_STOP: Schema = {"anyOf": [_TEXT, {"type": "array", "items": _TEXT}, {"type": "null"}]}


def _list(items: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


def _either(*schemas: Schema) -> Schema:
    return {"anyOf": list(schemas)}


def _object(fields: Mapping[str, Schema], *required: str) -> Schema:
    return {
        "type": "object",
        "properties": dict(fields),
        **({"required": list(required)} if required else {}),
    }


_SAMPLING = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": _SHARE,
    "n": {"type": "integer", "minimum": 1, "maximum": 128},
    "stop": _STOP,
}
# What decides where a request goes, and what it may share KV with.
_ROUTED = {
    "stream": _FLAG,
    "rid": _either(_TEXT, _list(_TEXT)),
    "extra_key": _either(_NAME, _list(_NAME)),
    "cache_salt": _either(_NAME, _list(_NAME)),
    "session_id": _TEXT,
    "user": _TEXT,
}
_OPENAI = {**_ROUTED, **_SAMPLING, "model": _TEXT, "max_tokens": _COUNT, "logprobs": _either(_FLAG, _COUNT)}
_MESSAGE = _object(
    {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": _either(
            _TEXT,
            {"type": "null"},
            _list(_object({"type": {"const": "text"}, "text": _TEXT}, "type", "text")),
        ),
    },
    "role",
)
_CHAT_FIELDS = {"messages": _list(_MESSAGE, 1), "tools": _list(_OBJECT)}
_PROMPT = _either(_TEXT, _TOKENS, _list(_TEXT, 1), _list(_TOKENS, 1))

SCHEMAS: Mapping[str, Schema] = {
    "GenerateRequest": _object(
        {
            **_ROUTED,
            "text": _either(_TEXT, _list(_TEXT, 1)),
            "input_ids": _either(_TOKENS, _list(_TOKENS, 1)),
            "sampling_params": _object({**_SAMPLING, "max_new_tokens": _COUNT, "ignore_eos": _FLAG}),
            "return_logprob": _FLAG,
            "lora_path": _either(_NAME, _list(_NAME)),
        }
    )
    | {"anyOf": [{"required": ["text"]}, {"required": ["input_ids"]}]},
    "CompletionRequest": _object({**_OPENAI, "prompt": _PROMPT, "echo": _FLAG}, "prompt"),
    "ChatRequest": _object(
        {**_OPENAI, **_CHAT_FIELDS, "max_completion_tokens": _COUNT, "continue_final_message": _FLAG},
        "messages",
    ),
    "ResponsesRequest": _object(
        {**_ROUTED, "model": _TEXT, "input": _either(_TEXT, _list(_OBJECT)), "max_output_tokens": _COUNT},
        "input",
    ),
    "MessagesRequest": _object(
        {**_ROUTED, **_CHAT_FIELDS, "model": _TEXT, "max_tokens": _COUNT}, "messages", "max_tokens"
    ),
    "TokenizeRequest": _object({"model": _TEXT, "prompt": _either(_TEXT, _list(_TEXT))}, "prompt"),
    "DetokenizeRequest": _object({"model": _TEXT, "tokens": _either(_TOKENS, _list(_TOKENS))}, "tokens"),
    "AbortRequest": _object({"rid": _TEXT, "abort_all": _FLAG}),
    "WorkerRequest": _object(
        {
            "url": {"type": "string", "minLength": 1, "description": "http://host:port or https://host:port"},
            "worker_type": {
                "type": ["string", "null"],
                "enum": ["prefill", "decode", "colocated", "regular", None],
            },
            "bootstrap_port": {"type": ["integer", "null"], "minimum": 1, "maximum": 65535},
            "api_key": {"type": ["string", "null"]},
        },
        "url",
    ),
    "EmbeddingRequest": _object({"model": _TEXT, "input": _PROMPT}, "input"),
    "RerankRequest": _object({"query": _TEXT, "documents": _list(_TEXT)}, "query", "documents"),
    "ScoreRequest": _object(
        {"query": _either(_TEXT, _TOKENS), "items": _list(_TEXT), "label_token_ids": _TOKENS}
    ),
}
_BODIES = {
    "/generate": "GenerateRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/chat/completions": "ChatRequest",
    "/invocations": "ChatRequest",
    "/v1/responses": "ResponsesRequest",
    "/v1/messages": "MessagesRequest",
    "/v1/messages/count_tokens": "MessagesRequest",
    "/tokenize": "TokenizeRequest",
    "/v1/tokenize": "TokenizeRequest",
    "/detokenize": "DetokenizeRequest",
    "/v1/detokenize": "DetokenizeRequest",
    "/abort_request": "AbortRequest",
    "/workers": "WorkerRequest",
    "/encode": "GenerateRequest",
    "/classify": "GenerateRequest",
    "/v1/embeddings": "EmbeddingRequest",
    "/v1/classify": "EmbeddingRequest",
    "/v1/rerank": "RerankRequest",
    "/v1/score": "ScoreRequest",
}
_EXPLAINED = ("GenerateRequest", "CompletionRequest", "ChatRequest")
# SGLang and the router read no body there.
_WITHOUT_BODY = frozenset(
    {"/flush_cache", "/add_worker", "/remove_worker", "/v1/responses/{response_id}/cancel"}
)
_WORKER_QUERY = {"url": ({"type": "string", "minLength": 1}, True)}
_QUERIES: Mapping[str, Mapping[str, tuple[Schema, bool]]] = {
    "/add_worker": _WORKER_QUERY
    | {
        "worker_type": ({"type": "string", "enum": ["prefill", "decode", "colocated", "regular"]}, False),
        "bootstrap_port": ({"type": "integer", "minimum": 1, "maximum": 65535}, False),
    },
    "/remove_worker": _WORKER_QUERY,
    "/decisions": {"last": ({"type": "integer", "minimum": 0, "default": 20}, False)},
}


def body_of(path: str) -> Schema | None:
    """The body that is read at this path of the list of endpoints; None: there is none."""
    if path in _WITHOUT_BODY:
        return None
    if path == "/explain":
        return _either(*map(_reference, _EXPLAINED))
    return _reference(_BODIES[path]) if path in _BODIES else _OBJECT


def query_of(path: str) -> list[dict[str, Any]]:
    """The parameters of a path's query, as OpenAPI names them."""
    return [
        {"name": name, "in": "query", "required": required, "schema": schema}
        for name, (schema, required) in _QUERIES.get(path, {}).items()
    ]


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
