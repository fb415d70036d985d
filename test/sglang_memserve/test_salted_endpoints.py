"""Where SGLang takes a tenant's salt and names, and where it does not, as the router has it."""

import dataclasses

import pytest

from router.tenants.requests import SALTED_PATHS

BODIES = {
    "/generate": {"text": "a"},
    "/v1/completions": {"model": "m", "prompt": "a"},
    "/v1/chat/completions": {"model": "m", "messages": []},
    "/invocations": {"model": "m", "messages": []},
    "/v1/responses": {"model": "m", "input": "a"},
}


def parsed(path, fields):
    from sglang.srt.entrypoints.openai import protocol
    from sglang.srt.managers.io_struct import GenerateReqInput

    if path == "/generate":
        return GenerateReqInput(**fields)
    models = {
        "/v1/completions": protocol.CompletionRequest,
        "/v1/responses": protocol.ResponsesRequest,
    }
    return models.get(path, protocol.ChatCompletionRequest)(**fields)


def test_every_salted_path_is_tried_here():
    assert set(BODIES) == SALTED_PATHS


@pytest.mark.parametrize("path", sorted(BODIES))
def test_the_salt_and_the_name_arrive(path):
    name = "request_id" if path == "/v1/responses" else "rid"
    request = parsed(path, {**BODIES[path], "cache_salt": "s", name: "n"})
    assert (request.cache_salt, getattr(request, name)) == ("s", "n")


def test_a_batch_takes_a_name_for_each_prompt():
    request = parsed("/generate", {"text": ["a", "b"], "cache_salt": ["s", "t"], "rid": ["n_0", "n_1"]})
    request.normalize_batch_and_arguments()
    assert [(each.rid, each.cache_salt) for each in (request[0], request[1])] == [("n_0", "s"), ("n_1", "t")]
    # Of one name SGLang makes the same.
    request = parsed("/generate", {"text": ["a", "b"], "cache_salt": "s", "rid": "n"})
    request.normalize_batch_and_arguments()
    assert [(each.rid, each.cache_salt) for each in (request[0], request[1])] == [("n_0", "s"), ("n_1", "s")]


def test_what_is_closed_to_tenants_takes_no_salt():
    """If one of these takes a salt some day, tenants may use it."""
    from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest
    from sglang.srt.entrypoints.ollama.protocol import OllamaChatRequest, OllamaGenerateRequest
    from sglang.srt.entrypoints.openai import protocol
    from sglang.srt.managers.io_struct import EmbeddingReqInput

    models = (AnthropicMessagesRequest, OllamaChatRequest, OllamaGenerateRequest, protocol.EmbeddingRequest)
    for model in (*models, protocol.ScoringRequest, protocol.V1RerankReqInput, protocol.TranscriptionRequest):
        assert "cache_salt" not in model.model_fields
    assert "cache_salt" not in {field.name for field in dataclasses.fields(EmbeddingReqInput)}
