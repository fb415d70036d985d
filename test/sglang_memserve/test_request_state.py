"""The one attribute that MemServe sets on SGLang's requests."""

import copy

from sglang_memserve.request_state import request_state


class Req:
    pass


def test_a_request_has_one_state_in_one_attribute():
    req, other = Req(), Req()
    request_state(req).began_early = True
    assert request_state(req).began_early
    assert not request_state(other).began_early
    assert len(vars(req)) == 1


def test_a_copy_of_a_request_shares_its_state():
    req = Req()
    state = request_state(req)
    assert request_state(copy.copy(req)) is state
