"""Nothing that only `memserve bench` needs is loaded to serve. import-linter keeps what else is forbidden."""

import grimp


def test_only_the_bench_command_imports_bench():
    graph = grimp.build_graph("sglang_memserve", "router", "mempool", cache_dir=None)
    modules = graph.find_descendants("sglang_memserve.bench")
    importers = {name for module in modules for name in graph.find_modules_that_directly_import(module)}
    outside = {name for name in importers if not name.startswith("sglang_memserve.bench.")}
    assert outside == {"sglang_memserve.cli.bench"}
