import json

import pytest

from router.cost import ProfileError, load_profile


def test_a_profile_is_read_as_it_was_written(profile, tmp_path):
    file = tmp_path / "profile.json"
    profile.save(file)
    assert load_profile(file) == profile
    assert json.loads(file.read_text())["device"] == "a test"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"none\.json cannot be read.*memserve calibrate"):
        load_profile(tmp_path / "none.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": "one"}', '{"version": 1}'])
def test_what_is_no_profile_is_named(text, tmp_path):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(ProfileError, match=r"other\.json is not a profile"):
        load_profile(file)


def test_another_version_is_named_before_missing_fields(tmp_path):
    file = tmp_path / "old.json"
    file.write_text('{"version": 0, "unknown": []}')
    with pytest.raises(ProfileError, match="version 0, not 1; run memserve calibrate"):
        load_profile(file)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [("gemm", None, r"\$\.gemm"), ("dtype", 7, r"\$\.dtype"), ("more", 1, "unknown field `more`")],
)
def test_a_wrong_field_is_named(profile, tmp_path, field, value, named):
    file = tmp_path / "profile.json"
    profile.save(file)
    file.write_text(json.dumps({**json.loads(file.read_text()), field: value}))
    with pytest.raises(ProfileError, match=named):
        load_profile(file)
