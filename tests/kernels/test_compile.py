"""The kernels compile for a GPU where there is none, to the wide memory accesses that their speed rests on."""

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "support" / "compile_kernels.py"


def test_kernels_compile_to_16_byte_accesses(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run([sys.executable, SCRIPT], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for dtype, num_accesses in (("fp32", 2), ("bf16", 1)):
        # 8 elements per thread from each of 3 partitions
        assert found[f"sums {dtype}"]["ld.global.v4.b32"] == 3 * num_accesses
        # 16 elements
        assert found[f"combine {dtype}"]["ld.global.v4.b32"] == 3 * 2 * num_accesses
        assert found[f"combine {dtype}"]["st.global.v4.b32"] == 2 * num_accesses
    assert found["displace"]["ld.global.v4.b32"] == 2 * 4
    assert found["displace"]["st.global.v4.b32"] == 2
    # to nearest even, which the tests in the interpreter take for granted
    assert any(name.startswith("cvt.rn.bf16") for name in found["displace"])
