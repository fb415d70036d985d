from sglang_memserve.machine import machine_description


def test_the_machine_names_the_packages_that_are_there():
    machine = machine_description("aiohttp", "no-such-package")
    assert machine["cores"] >= 1
    assert machine["aiohttp"]
    assert "no-such-package" not in machine
