"""Where a piece of a shard starts."""

import triton
import triton.language as tl


@triton.jit
def first_element(piece, SIZE: tl.constexpr):
    """piece · SIZE in int64: a shard may have more than 2³¹ elements."""
    return tl.cast(piece, tl.int64) * SIZE
