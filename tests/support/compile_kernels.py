"""Compile every kernel for A100, without a GPU, and print as JSON the memory accesses and conversions of each.

Run in a process of its own: within the tests Triton interprets.
"""

import json
import re
from collections import Counter
from typing import Any

import triton
from erasediff.kernels import tiles
from erasediff.kernels.combine_triton import _combine
from erasediff.kernels.displace_triton import _displace
from erasediff.kernels.inner_products_triton import _add_up, _chunk_sums
from erasediff.kernels.multiplier_triton import _multiplier
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

A100 = GPUTarget("cuda", 80, 32)


def instructions(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], num_warps: int, **options: int
) -> Counter[str]:
    options |= {"num_warps": num_warps, "enable_fp_fusion": tiles.FP_FUSION}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    # what a launch finds out by itself: tensors start at multiples of 16 bytes
    aligned = {(names.index(name),): [["tt.divisibility", 16]] for name in types if types[name].startswith("*")}
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},  # pyright: ignore
        attrs=aligned,  # pyright: ignore
    )
    ptx = triton.compile(source, target=A100, options=options).asm["ptx"]
    return Counter(re.findall(r"(?:ld|st)\.global\.[\w.]+|cvt\.rn\.bf16\w*", ptx))


def main() -> None:
    found = {}
    for dtype in ("fp32", "bf16"):
        shard = f"*{dtype}"
        found[f"sums {dtype}"] = instructions(
            _chunk_sums,
            {
                "u": shard,
                "v": shard,
                "w": shard,
                "bounds": "*i64",
                "partials": "*fp64",
                "num_chunks": "i32",
            },
            {"HAS_W": True, "TILE": tiles.REDUCTION_TILE}
            | {"TILE_AGAIN": tiles.REDUCTION_TILE_AGAIN, "ALIGNMENT": tiles.ALIGNMENT, "SMALL": tiles.SMALL},
            tiles.NUM_WARPS,
            maxnreg=tiles.FIRST_ORDER_REGISTERS,
        )
        found[f"combine {dtype}"] = instructions(
            _combine,
            {"g_r": shard, "g_f": shard, "g_phi": shard, "lambda_t": "*fp64", "n": "i64"},
            {"HAS_PHI": True, "TILE": tiles.ELEMENTWISE_TILE, "SMALLEST": tiles.SMALLEST, "LARGEST": tiles.LARGEST},
            tiles.NUM_WARPS,
        )
    found["displace"] = instructions(
        _displace,
        {"out": "*bf16", "theta": "*fp32", "v": "*fp32", "n": "i64", "alpha": "fp32"},
        {"HAS_V": True, "TILE": tiles.ELEMENTWISE_TILE},
        tiles.NUM_WARPS,
    )
    for has_rows, tile, warps in (
        (False, tiles.TOTAL_TILE, tiles.TOTAL_WARPS),
        (True, tiles.ROW_TILE, tiles.ROW_WARPS),
    ):
        found[f"add up, rows {has_rows}"] = instructions(
            _add_up,
            {
                "partials": "*fp64",
                "sum_stride": "i32",
                "stride": "i32",
                "rows": "*i64",
                "count": "i32",
                "sums": "*fp64",
            },
            {"HAS_ROWS": has_rows, "TILE": tile},
            warps,
        )
    found["multiplier"] = instructions(
        _multiplier,
        {"sums": "*fp64", "g": "*fp32", "out": "*fp64", "eta": "fp64", "lambda_cap": "fp64"},
        {"NUM_SUMS": 6, "HAS_G": True, "VALUE": True},
        1,
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
