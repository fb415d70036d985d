import subprocess
import sys


def test_it_brings_in_neither_torch_nor_an_engine():
    code = (
        "import sys, router.cost; sys.exit(bool({'torch', 'sglang', 'sglang_memserve'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
