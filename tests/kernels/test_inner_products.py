"""Inner products against float64, in all and per parameter."""

import math
import mmap

import gradient_reference as reference
import pytest
import torch
from erasediff.kernels.inner_products import first_non_finite, inner_products_by_parameter
from erasediff.kernels.table import ParameterTable
from erasediff.kernels.tiles import CHUNK, CPU_CHUNK, REDUCTION_TILE
from hypothesis import given, settings
from hypothesis import strategies as st

DTYPES = [torch.float32, torch.bfloat16]
LENGTHS = [0, 1, 3, REDUCTION_TILE, CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 2_049, CPU_CHUNK + 1, 3 * CPU_CHUNK + 7]


def third(u: torch.Tensor, noise: torch.Tensor, first_order: bool) -> torch.Tensor | None:
    """w close to u, as ∇L_f(φ^K) is to ∇L_f(θ)."""
    return (u.float() + 1e-2 * noise.float()).to(u.dtype) if first_order else None


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_sums_match_float64(form, n, dtype, first_order):
    u, v, noise = (form.randn(n, dtype, seed) for seed in range(3))
    w = third(u, noise, first_order)
    sums = form.sums(u, v, w)
    assert (sums.dtype, sums.shape) == (torch.float64, (6 if first_order else 3,))
    assert reference.sums_error(sums, u, v, w) <= reference.SUMS_TOLERANCE


@pytest.mark.parametrize("mixed", [DTYPES, DTYPES[::-1]])
def test_mixed_dtypes(form, mixed):
    u, v, w = form.randn(5_001, mixed[0], 0), form.randn(5_001, mixed[1], 1), form.randn(5_001, mixed[1], 2)
    assert reference.sums_error(form.sums(u, v, w), u, v, w) <= reference.SUMS_TOLERANCE


@pytest.mark.parametrize("value", [0.1, 1.7, 3.3e-3, -1e15, 1e-15])
def test_equal_elements_whose_roundings_add_up(form, value):
    u = torch.full((2 * CPU_CHUNK,), value, device=form.device)
    assert reference.sums_error(form.sums(u, -u), u, -u) <= reference.SUMS_TOLERANCE


@pytest.mark.parametrize("first_order", [False, True])
def test_roundings_that_all_go_one_way(form, first_order):
    """Rows of one large element, to which every addition of a small one is lost, as are parts of d, d² and d's pair."""
    large, small, lost = 1 + 2.0**-12, 2.0**-12, [*range(1, 8), *range(8, 32, 8), *range(32, 128, 32)]
    row = torch.zeros(128, device=form.device)
    row[0], row[lost] = large, small
    second = torch.zeros(128, device=form.device)
    second[0] = small
    u = torch.cat([row.repeat(CPU_CHUNK // 128), second.repeat(CPU_CHUNK // 128)])
    w = torch.where(u == large, -(2.0**-24) * (1 - 2.0**-10), 0.0) if first_order else None
    assert reference.sums_error(form.sums(u, u, w), u, u, w) <= reference.SUMS_TOLERANCE


@settings(deadline=None)
@given(st.data())
def test_sums_match_float64_for_any_numbers(form, data):
    scale = 10.0 ** data.draw(st.integers(-35, 35))
    numbers = st.floats(-1.0, 1.0, width=32)
    dtype = data.draw(st.sampled_from(DTYPES))
    n = data.draw(st.integers(1, 40))
    u, v, w = (
        (torch.tensor(data.draw(st.lists(numbers, min_size=n, max_size=n)), dtype=torch.float64) * scale).to(
            form.device, dtype
        )
        for _ in range(3)
    )
    w = w if data.draw(st.booleans()) else None
    sums = form.sums(u, v, w)
    expected, bound = reference.sums(u, v, w)
    d_bound = 0.0 if w is None else 1e-37
    assert ((sums - expected).abs() <= reference.SUMS_TOLERANCE * bound + d_bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 3])
def test_misaligned_starts(form, dtype, offset):
    u, v = form.randn(CHUNK + 7, dtype, 0), form.randn(CHUNK + 7, dtype, 1)
    shifted = [torch.empty(x.numel() + offset, dtype=dtype, device=form.device)[offset:].copy_(x) for x in (u, v)]
    sums = form.sums(*shifted)
    assert reference.sums_error(sums, u, v) <= reference.SUMS_TOLERANCE
    if form.device.type == "cpu":
        assert torch.equal(sums, form.sums(u, v))


@pytest.mark.parametrize("first_order", [False, True])
def test_the_same_data_give_the_same_bits(form, first_order):
    n = 3 * CHUNK + 5
    u, v, noise = (form.randn(n, torch.float32, seed) for seed in range(3))
    w = third(u, noise, first_order)
    table = ParameterTable.from_rows([(1, 0, 2 * CHUNK), (0, 2 * CHUNK, CHUNK), (2, 3 * CHUNK, 5)], 3)
    first, (_, first_rows) = form.sums(u, v, w), form.sums_by_parameter(u, v, w, table=table)
    runs = 100 if form.device.type == "cuda" or not form.is_triton else 4
    for run in range(runs):
        assert torch.equal(form.sums(u, v, w, num_programs=1 + run), first)
        assert torch.equal(form.sums_by_parameter(u, v, w, table=table, num_programs=1 + run)[1], first_rows)


@pytest.mark.parametrize("scale", [1, 1e-18])  # squares of the second underflow fp32, and are summed again
@pytest.mark.parametrize("first_order", [False, True])
def test_the_number_of_threads_does_not_change_a_bit(first_order, scale):
    n = 3 * CPU_CHUNK + 5
    u, v, noise = (scale * torch.randn(n, generator=torch.Generator().manual_seed(seed)) for seed in range(3))
    w = third(u, noise, first_order)
    # the whole of it, and in two pieces
    tables = [
        ParameterTable.from_rows([(0, 0, n)], 1),
        ParameterTable.from_rows([(1, 0, 2 * CPU_CHUNK + 1), (0, 2 * CPU_CHUNK + 1, CPU_CHUNK + 4)], 2),
    ]
    threads, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            found.append(torch.cat([inner_products_by_parameter(u, v, w, table=table)[1] for table in tables]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(other, found[0]) for other in found[1:])


def difference_between_worlds(form, *partitions: torch.Tensor) -> float:
    """Between one rank's sums and those of two and three ranks, the largest, in units of the norms."""
    _, scale = reference.sums(*partitions)
    one, *others = (
        torch.stack([form.sums(*of_rank) for of_rank in zip(*(x.chunk(world) for x in partitions), strict=True)]).sum(0)
        for world in (1, 2, 3)
    )
    return max(float(((other - one).abs() / scale).max()) for other in others)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_partition_borders_do_not_matter(form, dtype, first_order):
    u, v, noise = (form.randn(40_003, dtype, seed) for seed in range(3))
    w = third(u, noise, first_order)
    assert difference_between_worlds(form, u, v, *(() if w is None else (w,))) <= 2e-7


@pytest.mark.parametrize(("n", "num_values"), [(CHUNK, 30), (40_003, 30), (3 * CPU_CHUNK, 5)])
def test_partition_borders_do_not_matter_where_all_elements_are_equal(form, n, num_values):
    values = torch.linspace(1, 2, num_values)
    # interpreted, a value takes seconds
    for value in values[:: 5 if form.is_triton and form.device.type == "cpu" else 1].tolist():
        u = torch.full((n,), value, device=form.device)
        assert difference_between_worlds(form, u, -u) <= 2e-7


@pytest.mark.parametrize(("num_parameters", "first_order"), [(1, False), (7, False), (7, True), (300, False)])
def test_rows_of_parameters(form, num_parameters, first_order):
    """Parameters of 1 to a few thousand elements, at any offset, in any order, some in two pieces, some elsewhere."""
    generator = torch.Generator().manual_seed(num_parameters)
    longest = 6 * CHUNK // num_parameters
    rows, offset = [], 0
    for parameter in torch.randperm(num_parameters, generator=generator).tolist():
        for _ in range(int(torch.randint(0, 3, (), generator=generator)) if num_parameters > 1 else 2):
            length = int(torch.randint(1, longest, (), generator=generator))
            rows.append((parameter, offset, length))
            # a gap of padding now and then
            offset += length + int(torch.randint(0, 2, (), generator=generator))
    u, v, noise = (form.randn(offset, torch.float32, seed) for seed in range(3))
    w = third(u, noise, first_order)
    table = ParameterTable.from_rows(rows, num_parameters)

    sums, by_parameter = form.sums_by_parameter(u, v, w, table=table)

    k = sums.numel()
    expected = torch.zeros(num_parameters, k, dtype=torch.float64)
    # Σ ‖x‖‖y‖ over pieces ≤ ‖x‖‖y‖ of the whole: the stricter bound
    bound = torch.zeros(num_parameters, k, dtype=torch.float64)
    for parameter, start, length in rows:
        piece = [None if x is None else x[start : start + length].cpu() for x in (u, v, w)]
        row, scale = reference.sums(*piece)  # pyright: ignore[reportArgumentType]
        expected[parameter] += row
        bound[parameter] += scale
    assert ((by_parameter.cpu() - expected).abs() <= reference.SUMS_TOLERANCE * bound).all()
    assert ((sums.cpu() - expected.sum(0)).abs() <= reference.SUMS_TOLERANCE * bound.sum(0)).all()


def test_a_rank_without_elements(form):
    empty = torch.empty(0, device=form.device)
    sums, by_parameter = form.sums_by_parameter(empty, empty, empty, table=ParameterTable.from_rows([], 4))
    assert sums.tolist() == [0.0] * 6
    assert by_parameter.tolist() == [[0.0] * 6] * 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [0, CHUNK + 3, 2 * CHUNK])
def test_a_bad_element_shows_in_the_sums_and_in_its_parameter_only(form, bad, position):
    n = 2 * CHUNK + 1
    u, v = form.randn(n, torch.float32, 0), form.randn(n, torch.float32, 1)
    u[position] = bad
    table = ParameterTable.from_rows([(0, 0, 1), (3, 1, CHUNK + 2), (1, CHUNK + 3, 1), (2, CHUNK + 4, CHUNK - 3)], 5)
    owner = {0: 0, CHUNK + 3: 1, 2 * CHUNK: 2}[position]
    assert not form.sums(u, v)[:2].isfinite().any()
    assert form.sums(u, v)[2].isfinite()
    sums, by_parameter = form.sums_by_parameter(u, v, table=table)
    assert not sums[:2].isfinite().any()
    assert by_parameter[:, 0].isfinite().logical_not().nonzero().flatten().tolist() == [owner]
    assert first_non_finite(by_parameter) == owner


def test_denormals_and_large_numbers(form):
    u = torch.tensor([1e-40, 1.0, -1e-45, 3.0], device=form.device)
    v = torch.tensor([1.0, 1e-40, 2.0, -4.0], device=form.device)
    assert reference.sums_error(form.sums(u, v), u, v) <= reference.SUMS_TOLERANCE
    # squares of chunks in the middle leave fp32, on both sides
    n = 3 * CHUNK + 5
    table = ParameterTable.from_rows([(0, 0, CHUNK + 1), (1, CHUNK + 1, CHUNK + 40), (2, 2 * CHUNK + 41, 100)], 3)
    for scale_u, scale_v in [(1e-21, 1e-3), (1e-3, 1e-40), (1e25, 1.0), (1e-44, 1e30), (1e37, 1e37)]:
        u, v, noise = (form.randn(n, torch.float32, seed) for seed in range(3))
        u, v = u * scale_u, v * scale_v
        w = third(u, noise * scale_u, first_order=True)
        assert reference.sums_error(form.sums(u, v), u, v) <= reference.SUMS_TOLERANCE
        _, rows = form.sums_by_parameter(u, v, table=table)
        for (_, start, length), row in zip(table.segments.tolist(), rows, strict=True):
            piece = slice(start, start + length)
            assert reference.sums_error(row, u[piece], v[piece]) <= reference.SUMS_TOLERANCE
        if scale_u > 1e-30:
            assert reference.sums_error(form.sums(u, v, w), u, v, w) <= reference.SUMS_TOLERANCE


def test_squares_of_one_factor_alone_that_leave_fp32(form):
    ones, u = form.randn(CHUNK, torch.float32, 0), form.randn(CHUNK, torch.float32, 1) * 1e-25
    # all but one element of d tiny, and that one 0
    mostly, w = u.clone(), torch.zeros_like(u)
    mostly[7] = w[7] = 1e-12
    for partitions in ((u, ones, ones), (mostly, ones, w)):
        assert reference.sums_error(form.sums(*partitions), *partitions) <= reference.SUMS_TOLERANCE


def test_d_is_rounded_to_fp32_also_where_its_squares_are_not(form):
    """`combine_` applies the rounded d."""
    u, w = (torch.tensor([value], device=form.device) for value in (1e-20, 3e-28))
    assert form.sums(u, u, w)[0] == float(u - w) ** 2 != (float(u) - float(w)) ** 2


def test_an_inner_product_that_overflows_fp32_where_the_norms_do_not(form):
    """Two products whose sum rounds to Inf, both sums of squares to the largest fp32 number."""
    pairs = [("0x1.6a221cp63", "0x1.6a221ep63"), ("0x1.69f1aep63", "0x1.69f1acp63")]
    # neighbours, which the CPU adds up, and elements that one accumulator of a GPU's thread takes one after the other
    for second in (1, REDUCTION_TILE):
        u, v = torch.zeros(2, REDUCTION_TILE + 1, device=form.device)
        for position, (a, b) in zip((0, second), pairs, strict=True):
            u[position], v[position] = float.fromhex(a), float.fromhex(b)
        for partitions in ((u, v), (-u, v), (u, v, -v), (u, u, u - v)):
            assert reference.sums_error(form.sums(*partitions), *partitions) <= reference.SUMS_TOLERANCE


def test_a_partition_of_more_than_2_31_elements(form):
    """Only the pages that are read exist: a table makes all but the last elements padding."""
    if form.device.type == "cuda":
        whole = torch.zeros(2**31 + 4_096, dtype=torch.bfloat16, device=form.device)
    else:
        whole = torch.frombuffer(mmap.mmap(-1, 2 * (2**31 + 4_096)), dtype=torch.bfloat16)
    start = 2**31 + 5
    end = form.randn(3_000, torch.bfloat16, 0)
    whole[start : start + 3_000] = end
    table = ParameterTable.from_rows([(1, start, 3_000)], 2)
    sums, by_parameter = form.sums_by_parameter(whole, whole, table=table)
    assert reference.sums_error(sums, end, end) <= reference.SUMS_TOLERANCE
    assert torch.equal(by_parameter[1], sums)


def test_first_non_finite():
    rows = torch.ones(5, 3, dtype=torch.float64)
    assert first_non_finite(rows) == -1
    rows[3, 1], rows[4, 0] = math.nan, math.inf
    assert first_non_finite(rows) == 3
    assert first_non_finite(rows[:0]) == -1


@pytest.mark.parametrize(
    ("u", "v", "message"),
    [
        (torch.ones(4), torch.ones(3), "v: 3 elements"),
        (torch.ones(4), torch.ones(4, dtype=torch.float64), "float64"),
        (torch.ones(8)[::2], torch.ones(4), "flat"),
        (torch.ones(3), torch.ones(3), "reaches element 4"),
    ],
)
def test_partitions_that_do_not_fit_are_refused(u, v, message):
    with pytest.raises(ValueError, match=message):
        inner_products_by_parameter(u, v, table=ParameterTable.from_rows([(0, 0, 4)], 1))
