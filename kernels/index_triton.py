"""Where a piece of a partition starts."""

import triton
import triton.language as tl


@triton.jit
def first_element(piece, SIZE: tl.constexpr):
    """piece · SIZE in int64: a partition may have more than 2³¹ elements."""
    return tl.cast(piece, tl.int64) * SIZE
