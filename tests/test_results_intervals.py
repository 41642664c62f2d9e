"""Intervals against theory, against Student's of scipy, and against values worked out by hand."""
import numpy as np
import pytest
from scipy import stats

from results.intervals import (SPREADS, WAYS, Estimate, coverage, coverage_table, estimate, holm,
                               over_all, over_bases)


@pytest.mark.parametrize("decoders", [2, 3])
@pytest.mark.parametrize("name", SPREADS)
def test_intervals_cover_whatever_varies_most(name, decoders):
    """Ten base models, 2 or 3 decoders, 240 prompts of three subtasks; 1,000 simulations. At 95 %
    coverage a share below 92 % has odds of 2 in 100,000; seeds are fixed besides."""
    found = coverage(SPREADS[name], np.random.default_rng(1), 1000, decoders=decoders)
    mean, difference = found["two-way (used)"]
    assert min(mean, difference) >= 0.92
    assert max(mean, difference) <= (1 if name == "only noise" else 0.975)


@pytest.mark.parametrize("way, name", [
    ("t over base models", "prompts"), ("all values", "decoders"), ("all values", "base models")])
def test_resampling_at_the_wrong_level_does_not_cover(way, name):
    """The planted mistake: the check above must be able to fail."""
    assert min(coverage(SPREADS[name], np.random.default_rng(1), 200)[way]) < 0.8


def test_the_coverage_table_has_all_ways_and_cases():
    lines = coverage_table(20).splitlines()
    assert len(lines) == 2 + 2 * len(SPREADS)
    assert all(line.count("|") == len(WAYS) + 2 for line in lines)


def test_one_number_per_base_model_gives_students_interval():
    values = np.random.default_rng(2).normal(size=(10, 1))
    low, high = stats.t.interval(0.95, 9, values.mean(), stats.sem(values[:, 0]))
    found = estimate(values)
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values[:, 0], 0).pvalue)


def test_a_two_way_layout_by_hand():
    """Rows 1 and 5, columns 2 and 4, nothing left: A = 8 / 2, B = 2 / 2, C = 0, so V = 5 with
    25 / (16 + 1) degrees of freedom. With an interaction of +-1 C is 4 / 4, and V = 4."""
    values = np.array([[0.0, 2.0], [4.0, 6.0]])
    found = estimate(values)
    assert (found.mean, found.error ** 2) == pytest.approx((3, 5))
    assert found.freedom == pytest.approx(25 / 17)
    found = estimate(values + [[1, -1], [-1, 1]])
    assert found.error ** 2 == pytest.approx(4)


def test_prompts_are_compared_within_their_subtasks():
    """However far subtasks are apart, the error is the same; and a subtask of 4 in 6 prompts has
    the weight 4 / 6. Bug: prompts pooled over subtasks."""
    values = np.random.default_rng(3).normal(size=(5, 6))
    strata = np.array(["a"] * 4 + ["b"] * 2)
    apart = values + 100 * (strata == "b")
    assert estimate(apart, strata).error == pytest.approx(estimate(values, strata).error)
    assert estimate(apart, strata).error < estimate(apart).error / 10
    alike = np.array([[0.0, 0, 0, 8, 0, 4]] * 3)  # no base model differs
    assert estimate(alike, strata).error ** 2 == pytest.approx((4 / 6) ** 2 * 16 / 4
                                                              + (2 / 6) ** 2 * 8 / 2)


def test_a_constant_has_no_width_and_one_base_model_no_interval():
    assert estimate(np.full((3, 4), 2.0)) == Estimate(2, 0, 2)
    assert estimate(np.zeros((3, 4))).p == 1 and estimate(np.ones((3, 4))).p == 0
    with pytest.raises(ValueError, match="two base models"):
        estimate(np.ones((1, 4)))


def test_an_estimate_as_text():
    assert f"{estimate(np.array([[0.0], [1.0]])):.2f}" == "0.50 [-5.85, 6.85]"


def test_holm_by_hand():
    """Three hypotheses: the smallest p times 3, the next times 2, and never below one before."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.02]) == pytest.approx([0.6, 0.04])
    assert holm([0.7, 0.9]) == pytest.approx([1, 1])


def test_simple_ways_are_what_they_are_called():
    values = np.arange(6.0).reshape(2, 3)
    assert over_all(values, None).error == pytest.approx(stats.sem(values.ravel()))
    assert over_bases(values, None).error == pytest.approx(stats.sem(values.mean(1)))
