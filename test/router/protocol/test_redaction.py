"""Keys in what an instance reports."""

from router.protocol.redaction import without_secrets


def test_what_is_no_secret_stays():
    info = {"api_key": None, "port": 1, "launch_command": "a", "states": [{"x": [1.5, None, "s"]}]}
    assert without_secrets(info) == info


def test_what_is_named_as_a_secret_is_blanked_wherever_it_stands():
    named = [
        "api_key",
        "admin_api_key",
        "hf_token",
        "ssl_keyfile_password",
        "secret",
        "s3_access_key",
        "HF_TOKEN",
    ]
    info = {"launch_command": "", "states": [{name: f"v-{name}" for name in named}], "token": ["v-a", "v-b"]}
    assert "v-" not in str(without_secrets(info))


def test_names_that_only_look_like_secrets_stay():
    info = {
        "extra_key": "x",
        "tokenizer_path": "p",
        "max_total_num_tokens": 5,
        "first_token": 0.5,
        "ssl_keyfile": "f",
    }
    assert without_secrets(info) == info
