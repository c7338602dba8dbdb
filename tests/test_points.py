import numpy as np
import pytest

from saerepgeo_lib.errors import UserError
from saerepgeo_lib.points import NotEstimable, check_points, distinct, twins


def test_distinct_rows_are_first_occurrences_in_order_and_each_point_knows_its_twin():
    x = np.array([[3.0, 1], [0, 2], [3, 1], [-0.0, 2], [1, 1], [0, 2]])
    kept, position = twins(x)
    assert kept.tolist() == distinct(x).tolist() == [0, 1, 4]  # -0 is 0
    np.testing.assert_array_equal(x[kept][position], x)
    assert distinct(x[:, ::-1]).tolist() == [0, 1, 4]  # any memory order


def test_distinct_agrees_with_numpy_on_many_rows():
    x = np.random.default_rng(0).integers(0, 3, (500, 4)).astype(float)
    assert len(distinct(x)) == len(np.unique(x, axis=0))


@pytest.mark.parametrize(
    ("bad", "message"),
    [(np.zeros(3), "shape"), (np.zeros((2, 0)), "shape"),
     (np.array([[1.0, np.inf]]), "1 of 1 points"), (np.zeros((1, 2)), "at least 2")],
)  # fmt: skip
def test_bad_points_are_refused(unchecked, bad, message):
    with pytest.raises(UserError, match=message):
        check_points(bad, least=2)


def test_a_refusal_says_why():
    assert str(NotEstimable("3 points")) == "not estimable: 3 points"
