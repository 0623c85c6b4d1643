"""Tables of parameters: what they refuse, and where they end."""

import pytest
import torch
from erasediff.kernels.table import ParameterTable


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 0, 5), (1, 4, 5)], "overlap"),
        ([(0, 0, 2), (1, 2, 2), (0, 4, 5), (1, 8, 5)], r"\[0, 4, 5\] and \[1, 8, 5\] overlap"),
        ([(2, 0, 5)], "num_parameters"),
        ([(0, -1, 5)], ">= 0"),
    ],
)
def test_wrong_tables_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        ParameterTable.from_rows(rows, num_parameters=2)


@pytest.mark.parametrize(
    "segments",
    [
        torch.zeros(2, 2, dtype=torch.int64),
        torch.zeros(3, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.int32),
    ],
)
def test_tables_of_another_shape_are_refused(segments):
    with pytest.raises(ValueError, match=r"expected an int64 \[S, 3\] tensor"):
        ParameterTable(segments, num_parameters=2)


def test_which_parameters_have_elements():
    table = ParameterTable.from_rows([(2, 0, 4), (0, 4, 0), (1, 4, 0), (1, 4, 1)], num_parameters=4)
    assert table.has_elements.tolist() == [False, True, True, False]


def test_where_a_table_ends():
    assert ParameterTable.from_rows([], num_parameters=2).end == 0
    assert ParameterTable.from_rows([(1, 7, 2), (0, 0, 4)], num_parameters=2).end == 9
    # a row of nothing lies in no other's way, wherever it is
    assert ParameterTable.from_rows([(0, 0, 4), (1, 2, 0), (1, 4, 1)], num_parameters=2).end == 5


def test_a_row_of_nothing_takes_no_room():
    with_nothing = ParameterTable.from_rows([(0, 0, 8), (1, 1000, 0)], num_parameters=2)
    without = ParameterTable.from_rows([(0, 0, 8)], num_parameters=2)
    assert torch.equal(with_nothing.cpu_rows(4).parameters, without.cpu_rows(4).parameters)
    # whole rows of 4 in 0..8, and no more: a model has millions
    assert without.cpu_rows(4).parameters.tolist() == [0, 0]


def test_a_row_of_nothing_makes_no_chunk():
    with_nothing = ParameterTable.from_rows([(0, 0, 8), (1, 1000, 0), (1, 8, 1)], num_parameters=2)
    assert with_nothing.chunks(torch.device("cpu"))[0].tolist() == [[0, 8, 0], [8, 9, 1]]


def test_what_a_table_keeps_is_its_own():
    table = ParameterTable.from_rows([(0, 0, 8)], num_parameters=1)
    table.chunks(torch.device("cpu"))
    table.cpu_rows(4)
    assert "_chunks" not in repr(table) and "_cpu_rows" not in repr(table)
    for kept in ("_chunks", "_cpu_rows"):
        with pytest.raises(TypeError, match=kept):
            ParameterTable(table.segments, 1, **{kept: {}})
