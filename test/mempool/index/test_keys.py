import subprocess
import sys
from array import array

import numpy as np
import pytest

from mempool.index.keys import TOKEN_BYTES, common_bytes, key_of

SAME = [1, 0, 150_000, 2**31 - 1]


@pytest.mark.parametrize(
    "tokens",
    [
        SAME,
        tuple(SAME),
        array("q", SAME),
        array("i", SAME),
        np.array(SAME, np.int64),
        np.array(SAME, np.int32),
        np.array(SAME, np.uint64),
        np.array(SAME, ">i8"),
        np.repeat(np.array(SAME, np.int32), 2)[::2],
    ],
)
def test_every_form_of_the_same_tokens_is_one_key(tokens):
    assert key_of(tokens) == np.array(SAME, "<i4").tobytes()


@pytest.mark.parametrize("wrong", [-1, 2**31, 2**32 + 5, -(2**40)])
@pytest.mark.parametrize("form", [list, lambda t: array("q", t), np.array], ids=["list", "array", "numpy"])
def test_a_token_that_is_negative_or_too_large_is_refused_and_never_wraps(form, wrong):
    with pytest.raises(ValueError, match="int32"):
        key_of(form([1, 2, wrong, 3]))


def test_a_negative_int32_is_refused_too():
    with pytest.raises(ValueError, match="token -7 is negative"):
        key_of(np.array([1, -7], np.int32))


def test_an_uint64_that_an_int64_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="token 18446744073709551615"):
        key_of(np.array([1, 2**64 - 1], np.uint64))


@pytest.mark.parametrize("wrong", [[1.5], np.array([1.0]), np.zeros((2, 2), np.int32), b"abcd", "abcd"])
def test_what_is_no_row_of_ints_is_refused(wrong):
    with pytest.raises(TypeError):
        key_of(wrong)


def test_no_tokens_are_an_empty_key():
    assert key_of([]) == key_of(np.array([])) == b""


def test_the_index_imports_without_torch():
    code = "import sys, mempool.index.index; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("tokens", "at", "page", "common"),
    [([1, 2, 3, 4], 0, 1, 3), ([1, 2, 3, 4], 0, 2, 2), ([2, 3], 1, 1, 2), ([9], 0, 1, 0)],
)
def test_common_bytes_are_whole_units(tokens, at, page, common):
    found = common_bytes(key_of(tokens), key_of([1, 2, 3, 5, 6]), at * TOKEN_BYTES, page * TOKEN_BYTES)
    assert found == common * TOKEN_BYTES
