"""Bodies and headers that no client should send: no 500, no traceback, and JSON says what is wrong."""

import json
import logging
import re

import pytest
from raw_http import assert_refused, exchange, request

from router.http.endpoints import ENDPOINTS

DEEP = b"[" * 5000 + b"]" * 5000
DEEPISH = b"[" * 900 + b"]" * 900
VALUES = [
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1e400",
    b"NaN",
    b"-Infinity",
    b"1180591620717411303424",
    b"9" * 5000,
    b'""',
    b'"\\ud83d"',
    b'"\\u0000"',
    b'"' + b"x" * 3000 + b'"',
    b"[]",
    b"{}",
    b"[[]]",
    b"[{}]",
    b'[1, "a", null]',
    b'["\\ud83d"]',
    b"[NaN]",
    b"[1, 1180591620717411303424]",
    b"[[1, 1180591620717411303424]]",
    b'{"a": {}}',
    b'[{"role": "user", "content": [{"type": "text", "text": {}}]}]',
    b'[{"role": {}, "content": 1}]',
    DEEPISH,
    b'[{"role": "user", "content": %s}]' % DEEPISH,
    b'[{"role": %s}]' % DEEPISH,
    DEEP,
]
FIELDS = [
    "text",
    "prompt",
    "messages",
    "input",
    "input_ids",
    "input_embeds",
    "extra_key",
    "cache_salt",
    "lora_path",
    "model",
    "rid",
    "n",
    "stream",
    "sampling_params",
    "max_tokens",
    "max_completion_tokens",
    "user",
    "session_id",
    "routing_key",
    "conversation_id",
    "tools",
    "tool_choice",
    "chat_template_kwargs",
    "reasoning_effort",
    "continue_final_message",
    "kv_hints",
    "custom_params",
    "bootstrap_room",
    "echo",
    "logprobs",
    "return_logprob",
    "logprob_start_len",
    "token_ids_logprob",
    "return_hidden_states",
]
WHOLE = [
    b"",
    b" ",
    b"{",
    b"}",
    b"null",
    b"[]",
    b"5",
    b'"a"',
    b"{]",
    b"\xff\xfe\x00",
    b"\xef\xbb\xbf{}",
    b"\x00" * 100,
    DEEP,
    b'{"a":' + DEEP + b"}",
    b'{"text": "\xff"}',
    b'{"text": "a"',
    b'{"text": "a"} x',
    b"'text'",
    b"text=a&b=c",
    '{"text": "a"}'.encode("utf-16"),
    '{"text": "a", "x": NaN}'.encode("utf-32"),
    b'{"text": "a", "text": []}',
]
GENERATES = ["/generate", "/v1/chat/completions", "/explain"]


async def attack(cluster, caplog, sent):
    """The answer, which is no failure of the router's."""
    caplog.clear()
    answer = await exchange(cluster, sent)
    assert answer[0] is not None, sent[:300]
    assert answer[0] < 500, (sent[:300], answer)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == [], sent[:300]
    if answer[0] >= 400:
        assert_refused(answer)
    return answer


@pytest.mark.parametrize("policy", ["prompt_tree", "session"])
@pytest.mark.parametrize("path", GENERATES)
async def test_a_field_of_a_wrong_type_breaks_nothing(start, caplog, path, policy):
    cluster = await start(prefill=1, decode=1, colocated=1, policy=policy)
    # Before the first text there is a warning that there is no tokenizer.
    await exchange(cluster, request("POST", "/explain", b'{"text": "a prompt"}'))
    for field in FIELDS:
        for value in VALUES:
            beside = b"" if field in ("text", "messages", "prompt") else b'"text": "a", "prompt": "a", '
            body = b'{%s"%s": %s}' % (beside, field.encode(), value)
            await attack(cluster, caplog, request("POST", path, body))


@pytest.mark.parametrize(
    "path", sorted({e.path for e in ENDPOINTS if "POST" in e.methods and "{" not in e.path})
)
async def test_a_body_that_is_no_object_breaks_nothing(start, caplog, path):
    cluster = await start(prefill=1, decode=1, colocated=1)
    for body in WHOLE:
        for kind in (
            "application/json",
            "application/json; charset=nonsense",
            "text/plain; charset=\xff",
            None,
        ):
            answer = await attack(cluster, caplog, request("POST", path, body, Content_Type=kind))
            if path in ("/workers", "/explain") and body not in WHOLE[-3:-1]:
                assert answer[0] == 400 or b'"text"' in body or b"{}" in body


def is_key(value):
    try:
        return re.fullmatch("[!-~]{1,4096}", json.loads(value)) is not None
    except (TypeError, ValueError, RecursionError):
        return False


@pytest.mark.parametrize("field", ["url", "worker_type", "api_key", "bootstrap_port"])
async def test_a_worker_of_wrong_fields_is_refused(start, caplog, field):
    cluster = await start()
    for value in VALUES:
        if value in (b"null", b'""') and field in ("worker_type", "api_key"):
            continue
        if field == "api_key" and is_key(value):
            continue
        fields = {"url": b'"http://127.0.0.1:1"', "worker_type": b'"prefill"', field: value}
        if field == "bootstrap_port" and value == b"null":
            continue
        pairs = [b'"%s": %s' % (name.encode(), written) for name, written in fields.items()]
        answer = await attack(cluster, caplog, request("POST", "/workers", b"{" + b", ".join(pairs) + b"}"))
        assert answer[0] == 400, (field, value[:50])


@pytest.mark.parametrize(
    "path",
    [
        "/add_worker",
        "/add_worker?url=",
        "/add_worker?url=%00",
        "/add_worker?url=http://h:9&worker_type=x",
        "/add_worker?url=http://h:9&bootstrap_port=%D9%A3x",
        "/add_worker?url=http://[::1",
        "/add_worker?url=%ff",
        "/add_worker?url=http://h:99999",
        "/add_worker?url=ftp://h:1",
        "/add_worker?url=http://a..b:1",
        "/remove_worker",
        "/remove_worker?url=%ff%fe",
        "/remove_worker?x=%zz&url=;",
    ],
)
async def test_a_worker_of_a_wrong_query_is_refused(start, caplog, path):
    cluster = await start(colocated=1)
    assert_refused(await attack(cluster, caplog, request("POST", path)))


@pytest.mark.parametrize(
    "path",
    [
        "/decisions?last=",
        "/decisions?last=-1",
        "/decisions?last=x",
        "/decisions?last=%D9%A3",
        "/decisions?last=%ff",
        "/decisions?last=1.5",
        "/v1/loads?format=",
        "/v1/loads?format=%ff",
        "/workers/%ff",
        "/workers/%00",
        "/workers/" + 3000 * "x",
        "/no/such/%ff%0d%0a",
        "/no/" + 3000 * "x",
    ],
)
async def test_a_wrong_query_or_name_is_refused(start, caplog, path):
    cluster = await start(colocated=1)
    assert_refused(await attack(cluster, caplog, request("GET", path)))


@pytest.mark.parametrize("rid", [value for value in VALUES if value[:1] not in b'n"'])
async def test_an_abort_of_what_is_no_name_is_the_instances_to_refuse(start, caplog, rid):
    cluster = await start(colocated=1)
    answer = await attack(cluster, caplog, request("POST", "/abort_request", b'{"rid": %s}' % rid))
    assert answer[0] in (200, 400)
    assert len(cluster.colocated[0].aborts) == (answer[0] == 200)


HEADERS = [
    "X-Request-Id",
    "Authorization",
    "Accept",
    "Accept-Encoding",
    "Content-Type",
    "Cookie",
    "X-Any",
    "Host",
    "Connection",
    "Origin",
    "Range",
    "If-None-Match",
    "X-Override-Bootstrap-Host",
    "Forwarded",
    "Trailer",
]
OCTETS = [
    b"",
    b"\xff",
    b"\xc3\xa9",
    b"caf\xe9",
    b"\xed\xa0\x80",
    b"a\tb",
    b",,,;;;q=q=",
    b'"',
    b"*/*;q=x",
    b"\\",
    b"%00",
    5000 * b"a,",
]


@pytest.mark.parametrize("name", HEADERS)
async def test_a_strange_header_breaks_nothing(start, caplog, name):
    cluster = await start(prefill=1, decode=1, colocated=1)
    for value in OCTETS:
        for method, path, body in (
            ("POST", "/generate", b'{"text": "a"}'),
            ("POST", "/tokenize", b"{}"),
            ("POST", "/abort_request", b"{}"),
            ("POST", "/v1/score", b"{}"),
            ("GET", "/metrics", b""),
            ("GET", "/server_info", b""),
            ("GET", "/health_generate", b""),
            ("GET", "/v1/loads", b""),
            ("GET", "/openapi.json", b""),
            ("POST", "/explain", b'{"text": "a"}'),
            ("OPTIONS", "/generate", b""),
            ("POST", "/flush_cache", b""),
        ):
            answer = await attack(
                cluster, caplog, request(method, path, body, **{name.replace("-", "_"): value})
            )
            assert answer[0] == 200, (name, value, path, answer)
