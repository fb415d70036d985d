"""Keys in what an instance reports."""

from router.protocol.redaction import without_secrets


def test_what_is_no_secret_stays():
    info = {"api_key": None, "port": 1, "launch_command": "a", "states": [{"x": [1.5, None, "s"]}]}
    assert without_secrets(info) == info
