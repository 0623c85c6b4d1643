"""Index arithmetic beyond 2³¹, for partitions that no test machine can hold."""

import torch
import triton
import triton.language as tl
from erasediff.kernels.index_triton import first_element


@triton.jit
def _store_first_element(piece, out, SIZE: tl.constexpr):
    tl.store(out, first_element(tl.load(piece), SIZE))


def test_first_element_is_computed_in_int64():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = torch.full((1,), -1, device=device)
    piece = torch.tensor([2**20 + 3], dtype=torch.int32, device=device)
    _store_first_element[(1,)](piece, out, SIZE=tl.constexpr(4_096))
    assert out.item() == (2**20 + 3) * 4_096
