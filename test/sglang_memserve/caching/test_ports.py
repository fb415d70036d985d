"""An agent listens at the ports that it is given, so that a firewall can let others through to them."""


def test_pinned_ports_are_where_the_agent_listens(make_instance, free_port):
    ports = {name: free_port() for name in ("feed_port", "control_port", "block_port")}
    agent = make_instance("p:1", "prefill", ports=ports).agent
    info = agent._pool.info
    assert info.control == f"tcp://127.0.0.1:{ports['control_port']}"
    assert [endpoint.partition("/")[0] for endpoint in info.fabrics] == ["shm:"]
    assert info.data == f"stream://127.0.0.1:{ports['block_port']}"
    assert agent._feeds.endpoint == f"tcp://127.0.0.1:{ports['feed_port']}"
