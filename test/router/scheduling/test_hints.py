"""What a body says of a fetch, in each endpoint's form."""

import pytest

from router.cost.estimate import Fetch
from router.instances.instance import Instance, Role
from router.instances.server_info import ServerInfo
from router.scheduling.hints import hint_fields

P, D = Instance("http://p:1", Role.PREFILL), Instance("http://d:1", Role.DECODE)
D.learn(ServerInfo(instance="10.0.0.2:30002"))
FETCH = Fetch(D, 512, 250.12345)
PAYLOAD = {"from": "10.0.0.2:30002", "deadline_ms": 250.123, "role": "prefill", "tokens": 512}
OTHER = {"action_id": "a", "action_version": "2", "action_type": "other", "payload": {}}
OWN = {**OTHER, "action_type": "memserve.fetch"}


def envelope(*actions):
    return {"protocol_version": "1", "message_id": "m", "actions": list(actions)}


def test_generate_gets_an_action():
    hints = hint_fields({"text": "x"}, "/generate", FETCH, P)["kv_hints"]
    (action,) = hints["actions"]
    assert (action["action_type"], action["payload"]) == ("memserve.fetch", PAYLOAD)
    assert set(action) == {"action_id", "action_version", "action_type", "payload"}
    assert all(isinstance(hints[name], str) for name in ("protocol_version", "message_id"))


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/invocations"])
def test_openai_forms_get_a_custom_param(path):
    assert hint_fields({}, path, FETCH, P) == {"custom_params": {"memserve.fetch": PAYLOAD}}
    own = {"custom_params": {"x": 1}}
    assert hint_fields(own, path, FETCH, P) == {"custom_params": {"x": 1, "memserve.fetch": PAYLOAD}}
    assert own == {"custom_params": {"x": 1}}


def test_a_clients_other_hints_stay():
    given = envelope(OTHER)
    hints = hint_fields({"kv_hints": given}, "/generate", FETCH, P)["kv_hints"]
    assert hints["message_id"] == "m"
    assert [action["action_type"] for action in hints["actions"]] == ["other", "memserve.fetch"]
    assert given == envelope(OTHER)
    (listed,) = hint_fields({"kv_hints": [given]}, "/generate", FETCH, P)["kv_hints"]
    assert listed == hints


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"kv_hints": envelope(OWN)}, "/generate"),
        ({"sampling_params": {"custom_params": {"memserve.fetch": {}}}}, "/generate"),
        ({"custom_params": {"memserve.fetch": {"from": "x"}}}, "/v1/chat/completions"),
        ({"custom_params": [1]}, "/v1/completions"),
        ({"kv_hints": 7}, "/generate"),
        ({"kv_hints": [None, None]}, "/generate"),
        ({"kv_hints": envelope(5)}, "/generate"),
        ({"kv_hints": {"actions": 5}}, "/generate"),
    ],
)
def test_a_clients_own_hint_wins_and_nonsense_is_left_to_the_instance(fields, path):
    assert hint_fields(fields, path, FETCH, P) == {}
