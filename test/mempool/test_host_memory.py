"""What a machine, or the container that it is seen from, has of memory."""

from mempool.host_memory import available_memory


def test_memory_is_what_the_container_allows(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert available_memory(tmp_path) == 600
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 250\n")
    assert available_memory(tmp_path) == 850
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(tmp_path) > 1000
