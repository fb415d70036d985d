"""Which of a client's headers reach an instance."""

import pytest

from router.protocol.headers import HeaderFilter

CLIENTS = {
    "Authorization": "Bearer k",
    "Content-Type": "application/json",
    "Cookie": "session=secret",
    "Forwarded": "for=10.0.0.1",
    "X-Forwarded-For": "10.0.0.1",
    "X-Override-Rid": "another's",
    "X-Override-Bootstrap-Room": "5",
    "X-Override-Priority": "9",
    "X-Internal-Token": "t",
    "X-Request-Id": "r",
    "X-Request-Id-Parent": "p",
    "Traceparent": "00-a-b-01",
    "X-SMG-Routing-Key": "k",
    "X-SglExt-Return-Input-Ids": "1",
    "Transfer-Encoding": "chunked",
    "Host": "router",
}
ALWAYS = {
    "Content-Type",
    "X-Request-Id",
    "X-Request-Id-Parent",
    "Traceparent",
    "X-SMG-Routing-Key",
    "X-SglExt-Return-Input-Ids",
}


def test_an_instance_gets_what_sglang_reads_and_what_traces():
    assert set(HeaderFilter(credentials=False).of(CLIENTS)) == ALWAYS
    assert set(HeaderFilter(credentials=True).of(CLIENTS)) == ALWAYS | {"Authorization"}


def test_headers_that_are_named_reach_it_too():
    got = HeaderFilter(credentials=False, also=("x-internal-token",)).of(CLIENTS)
    assert set(got) == ALWAYS | {"X-Internal-Token"}


@pytest.mark.parametrize("name", ["Authorization", "Host", "Transfer-Encoding", "Content-Length"])
def test_naming_them_lets_neither_keys_nor_the_connections_own_through(name):
    assert name not in HeaderFilter(credentials=False, also=(name,)).of({**CLIENTS, "Content-Length": "5"})


def test_what_the_client_keeps_for_its_connection_stays_behind():
    headers = {**CLIENTS, "Connection": "X-Request-Id, close"}
    assert set(HeaderFilter(credentials=False).of(headers)) == ALWAYS - {"X-Request-Id"}
