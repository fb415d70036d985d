"""What instances get of a tenant's body."""

import json

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from tenant_files import SECRET, entry, salt, tag

from router.errors import BadRequest, Forbidden
from router.protocol import body
from router.tenants.file import TenantEntry
from router.tenants.quota import Quota, TenantLimits
from router.tenants.requests import rewritten, rewritten_abort, routed
from router.tenants.tenant import Tenant

GENERATE, RESPONSES = "/generate", "/v1/responses"


def tenant(name="acme", **more):
    return Tenant(TenantEntry(**entry(name, **more)), SECRET.encode(), Quota(name, TenantLimits()))


def sent(given, path=GENERATE, of=None):
    raw = given if isinstance(given, bytes) else json.dumps(given).encode()
    out = rewritten(body.parse(raw), path, of or tenant())
    # What the router reads is what the instance gets.
    assert json.loads(out.raw) == out.fields
    assert len(json.loads(out.raw, object_pairs_hook=list)) == len(out.fields)
    return out.fields


def test_every_request_has_the_tenants_salt_and_a_name_of_its():
    first, second = (sent({"text": "a"}) for _ in range(2))
    assert first["cache_salt"] == second["cache_salt"] == salt("acme")
    assert first["rid"].startswith(tag("acme"))
    assert first["rid"] != second["rid"]
    assert first["text"] == "a"


def test_groups_share_a_salt_and_no_names():
    members = tenant("a", group="g"), tenant("b", group="g")
    first, second = (sent({"text": "x", "rid": "r"}, of=member) for member in members)
    assert first["cache_salt"] == second["cache_salt"] == salt("g")
    assert (first["rid"], second["rid"]) == (tag("a") + "r", tag("b") + "r")


@pytest.mark.parametrize("own", ["x", "\0", "x\0y", "acme", salt("other"), "\ud83d", "ü" * 1024])
def test_a_clients_salt_is_folded_in(own):
    given = {"text": "a", "cache_salt": own}
    forced = sent(given)["cache_salt"]
    assert forced not in (own, salt("acme"), salt("other"))
    assert forced == sent(given)["cache_salt"] != sent(given, of=tenant("other"))["cache_salt"]
    assert len(forced) == 64


def test_no_salt_is_the_same_as_an_empty_one():
    assert {sent({"text": "a", "cache_salt": own})["cache_salt"] for own in ("", None)} == {salt("acme")}


def test_a_batch_has_a_salt_and_a_name_for_each():
    fields = sent({"text": ["a", "b"], "cache_salt": ["x", ""], "rid": ["q", "r"]})
    assert fields["cache_salt"] == [salt("acme", "x"), salt("acme")]
    assert fields["rid"] == [tag("acme") + "q", tag("acme") + "r"]
    assert sent({"text": ["a", "b"], "rid": "q"})["rid"] == [tag("acme") + "q_0", tag("acme") + "q_1"]


@pytest.mark.parametrize(
    "raw",
    [
        b'{"text": "a", "cache_salt": "stolen", "cache_salt": "again"}',
        b'{"text": "a", "cache\\u005fsalt": "stolen"}',
        b'{"text": "a", "cache_salt": "stolen", "temperature": NaN}'.replace(b"NaN", b"1e400"),
        '{"text": "a", "cache_salt": "stolen"}'.encode("utf-16"),
    ],
)
def test_no_spelling_keeps_a_salt(raw):
    out = rewritten(body.parse(raw), GENERATE, tenant()).raw
    assert b"stolen" not in out
    assert out.count(b"cache_salt") == 1


@pytest.mark.parametrize("value", [1, True, {}, [1], [None, {}], ["x" * 1025], "x" * 1025, ["x"] * 4097])
@pytest.mark.parametrize("field", ["cache_salt", "rid"])
def test_what_is_no_name_is_refused(field, value):
    with pytest.raises(BadRequest, match=field):
        sent({"text": "a", field: value})


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'"text"', b"{"])
def test_what_is_no_object_is_refused(raw):
    with pytest.raises(BadRequest, match="JSON object"):
        sent(raw)


@pytest.mark.parametrize(
    "field",
    [
        *("session_params", "kv_hints", "http_worker_ipc", "lora_id", "encoder_urls"),
        *("custom_logit_processor", "background"),
    ],
)
def test_what_reaches_others_is_refused(field):
    with pytest.raises(Forbidden, match=field):
        sent({"text": "a", field: {"id": "x"}})
    for absent in (None, False, "", {}):
        assert sent({"text": "a", field: absent})["text"] == "a"


def test_stored_answers_have_the_tenants_name_where_sglang_looks():
    given = {"input": "a", "request_id": "resp_1", "previous_response_id": "resp_0"}
    fields = sent(given, RESPONSES)
    assert fields["request_id"] == fields["rid"] == f"resp_{tag('acme')}1"
    assert fields["previous_response_id"] == f"resp_{tag('acme')}0"
    assert sent({"input": "a"}, RESPONSES)["request_id"].startswith("resp_" + tag("acme"))


def test_sessions_of_one_name_are_apart():
    a, b = tenant("a", group="g"), tenant("b", group="g")
    for field in ("session_id", "routing_key", "conversation_id", "user"):
        first, second = (routed({field: "s"}, of)["session_id"] for of in (a, b))
        assert first != second
    assert "session_id" not in routed({"text": "a"}, a)
    assert sent({"text": "a", "session_id": "s"}, of=a)["session_id"] == tag("a") + "s"


def test_an_abort_names_the_tenants_own():
    def abort(given):
        return rewritten_abort(body.parse(json.dumps(given).encode()), tenant())

    assert abort({"rid": "r"}) == {"rid": tag("acme") + "r"}
    assert abort({"rid": tag("other") + "r"}) == {"rid": tag("acme") + tag("other") + "r"}
    assert abort({"rid": "resp_1"}) == {"rid": f"resp_{tag('acme')}1"}
    assert abort({"abort_all": True}) is abort({"rid": "", "abort_all": 1}) is None
    # SGLang takes a name for all that begin with it; of "" these would be everybody's.
    for rid in ("", None, 1, [], ["r"], {}):
        with pytest.raises(BadRequest, match="rid"):
            abort({"rid": rid})


def test_other_secrets_give_other_salts_and_names():
    given = TenantEntry(**entry("a"))
    first, same, second = (
        Tenant(given, secret * 32, Quota("a", TenantLimits())) for secret in (b"1", b"1", b"2")
    )
    assert (first.salt(""), first.tag) == (same.salt(""), same.tag)
    assert first.salt("") != second.salt("")
    assert first.tag != second.tag


NAMES = ["cache_salt", "rid", "text", "session_id", "extra_key", "request_id", "previous_response_id", "x"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(salt("other")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@drawn(
    st.dictionaries(st.sampled_from(NAMES), VALUES), st.sampled_from([GENERATE, RESPONSES, "/v1/completions"])
)
def test_whatever_a_client_writes_stays_its_own(given, path):
    of = tenant()
    try:
        fields = sent(given, path, of)
    except (BadRequest, Forbidden):
        return
    salts, names = fields["cache_salt"], fields["rid"]
    for forced in [salts] if isinstance(salts, str) else salts:
        assert len(forced) == 64
        assert forced != salt("other")
    for name in [names] if isinstance(names, str) else names:
        assert of.owns(name)
    if path == RESPONSES:
        assert of.owns(fields["request_id"])
        assert not fields.get("previous_response_id") or of.owns(fields["previous_response_id"])
