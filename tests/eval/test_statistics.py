import numpy as np
import pytest

from optformer.eval import statistics

RNG = np.random.default_rng


def test_means_are_over_seeds_then_tasks_without_nan():
    scores_OKST = np.array([[[[0.0], [1.0]], [[0.2], [np.nan]]]])
    band = statistics.mean_band(scores_OKST, RNG(0))
    assert band.mean_OT[0, 0] == pytest.approx((0.5 + 0.2) / 2)
    assert 0.2 <= band.low_OT[0, 0] <= band.mean_OT[0, 0] <= band.high_OT[0, 0] <= 0.5


def test_trials_without_any_score_have_no_band():
    scores_OKST = np.full((2, 3, 2, 2), np.nan)
    scores_OKST[:, :, :, 1] = 0.5
    band = statistics.mean_band(scores_OKST, RNG(0))
    assert np.isnan(band.mean_OT[:, 0]).all() and np.isnan(band.low_OT[:, 0]).all()
    np.testing.assert_allclose([band.low_OT[:, 1], band.high_OT[:, 1]], 0.5)


def test_neither_missing_scores_nor_a_single_task_have_an_interval():
    nothing = statistics.mean_band(np.full((2, 3, 1, 2), np.nan), RNG(0))
    for part_OT in (nothing.mean_OT, nothing.low_OT, nothing.high_OT):
        np.testing.assert_array_equal(part_OT, np.full((2, 2), np.nan))
    scores_OKST = np.full((1, 2, 1, 2), 0.5)
    scores_OKST[0, 1, 0, 1] = np.nan  # at the second trial only one task has a value
    band = statistics.mean_band(scores_OKST, RNG(0))
    np.testing.assert_array_equal(band.mean_OT, [[0.5, 0.5]])
    np.testing.assert_array_equal(band.low_OT, [[0.5, np.nan]])
    np.testing.assert_array_equal(band.high_OT, [[0.5, np.nan]])
    mean, low, high = statistics.bootstrap_mean(np.array([0.5]), RNG(0))
    assert mean == 0.5 and np.isnan(low) and np.isnan(high)
    gap = statistics.paired_difference(np.array([0.5]), np.array([0.2]), RNG(0))
    assert gap.mean == pytest.approx(0.3) and np.isnan(gap.low) and gap.wins == 1


def test_intervals_have_their_nominal_coverage():
    rng = RNG(0)
    inside = 0
    for _ in range(300):
        _, low, high = statistics.bootstrap_mean(rng.normal(size=40), rng, resamples=300)
        inside += low <= 0.0 <= high
    assert 0.89 <= inside / 300 <= 0.98


def test_ranks_share_ties_and_always_sum_to_the_same():
    scores_OKST = np.array([0.9, 0.5, 0.9, 0.1]).reshape(4, 1, 1, 1)
    np.testing.assert_array_equal(statistics.ranks(scores_OKST).ravel(), [1.5, 3.0, 1.5, 4.0])
    random_OKST = RNG(0).integers(0, 3, (5, 4, 3, 2)).astype(float)
    np.testing.assert_allclose(statistics.ranks(random_OKST).sum(0), 15.0)


def test_ranks_need_every_optimizer():
    scores_OKST = np.array([[0.9, np.nan], [0.5, 0.5]]).reshape(2, 1, 1, 2)
    ranks_OT = statistics.ranks(scores_OKST)[:, 0, 0]
    np.testing.assert_array_equal(ranks_OT, [[1.0, np.nan], [2.0, np.nan]])


def test_a_paired_difference_detects_small_effects():
    rng = RNG(0)
    hard_N = rng.normal(size=30) * 10
    gap = statistics.paired_difference(hard_N + 0.1 + 0.01 * rng.normal(size=30), hard_N, rng)
    assert gap.low > 0.09 and gap.high < 0.11 and gap.p_value < 1e-4
    assert (gap.wins, gap.ties, gap.losses) == (30, 0, 0)


def test_equal_samples_do_not_differ():
    same_N = np.arange(5.0)
    gap = statistics.paired_difference(same_N, same_N, RNG(0))
    assert (gap.mean, gap.low, gap.high, gap.ties, gap.p_value) == (0.0, 0.0, 0.0, 5, 1.0)
    nothing = statistics.paired_difference(same_N * np.nan, same_N, RNG(0))
    assert np.isnan(nothing.mean) and nothing.ties == 0


def test_signed_ranks_count_tied_tasks_everywhere():
    gaps_N = np.array([0.0] * 6 + [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.7])
    # Pratt: ranks 7 to 13, of which the loss has the largest; without zeros, they were 1 to 7.
    p_value = statistics.signed_rank(gaps_N)
    signs = 1 - 2 * ((np.arange(2**7)[:, None] >> np.arange(7)) & 1)
    sums = signs @ np.arange(7, 14)
    assert p_value == pytest.approx((np.abs(sums) >= sum(range(7, 13)) - 13).mean())
    gap = statistics.paired_difference(gaps_N, np.zeros(13), RNG(0))
    p_OO = statistics.pairwise_p_values(np.stack([gaps_N, np.zeros(13)]))
    assert gap.p_value == p_OO[0, 1] == p_value


def test_fewer_than_six_tasks_are_never_significant():
    for tasks in (4, 5, 6, 9):
        least = statistics.signed_rank(np.arange(1.0, tasks + 1))
        assert statistics.least_p_value(tasks, 1) == pytest.approx(least)
        assert (least < 0.05) == (tasks >= 6)
    assert statistics.least_p_value(6, 3) == pytest.approx(3 * 2 / 2**6)


def test_holm_by_hand():
    # Sorted: .01*3, .02*2, .04*1, and never below the previous one.
    assert statistics.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])


def test_friedman_detects_an_order_and_nothing_in_equal_scores():
    ordered_OK = np.arange(3.0)[:, None] + 0.1 * RNG(0).random((3, 12))
    assert statistics.friedman(ordered_OK) < 1e-4
    assert statistics.friedman(np.ones((3, 12))) == 1.0
    assert statistics.friedman(RNG(1).random((3, 12))) > 0.05


def test_pairwise_p_values_are_symmetric_and_corrected():
    scores_OK = RNG(0).random((3, 12))
    scores_OK[0] += 2.0
    p_OO = statistics.pairwise_p_values(scores_OK)
    np.testing.assert_array_equal(p_OO, p_OO.T)
    assert p_OO[0, 1] == pytest.approx(3 * 2 / 2**12)  # all 12 pairs one way, three comparisons
    assert p_OO[1, 2] > 0.05
    np.testing.assert_array_equal(statistics.pairwise_p_values(np.ones((2, 6))), 1.0)


def test_alike_are_adjacent_ranks_without_significant_differences():
    ranks_O = np.array([3.0, 1.0, 2.0, 4.0])  # the order is 1, 2, 0, 3
    p_OO = np.ones((4, 4))
    assert statistics.alike(ranks_O, p_OO) == [(1, 2, 0, 3)]
    p_OO[1, 0] = p_OO[0, 1] = 0.01
    p_OO[1, 3] = p_OO[3, 1] = 0.01
    assert statistics.alike(ranks_O, p_OO) == [(1, 2), (2, 0, 3)]
    assert statistics.alike(ranks_O, np.eye(4)) == []


def test_the_distance_of_seeds_is_wasserstein():
    first_KST = np.array([[[0.0], [1.0]]])
    assert statistics.seed_distance(first_KST, first_KST[:, ::-1]) == pytest.approx(0.0)
    assert statistics.seed_distance(first_KST, first_KST + 0.3) == pytest.approx(0.3)
    assert statistics.seed_distance(first_KST, np.array([[[0.5], [0.5]]])) == pytest.approx(0.5)


def test_the_two_sample_test_has_its_level_and_detects_a_shift():
    rng = RNG(0)
    hard_K11 = 5 * rng.normal(size=(8, 1, 1))  # tasks differ much more than algorithms
    p_values = []
    for _ in range(60):
        first_KST, second_KST = hard_K11 + rng.normal(size=(2, 8, 4, 1))
        p_T, chance_T = statistics.same_distribution(first_KST, second_KST, rng, permutations=99)
        p_values.append(p_T[0])
        assert chance_T[0] > 0
    assert np.mean(np.array(p_values) <= 0.1) < 0.25
    p_T, chance_T = statistics.same_distribution(first_KST, second_KST + 2.0, rng, permutations=499)
    assert p_T[0] == pytest.approx(1 / 500)
    assert statistics.seed_distance(first_KST, second_KST + 2.0).mean() > chance_T[0]


def test_tasks_of_one_group_count_as_one():
    """Copies of a task add nothing: with groups, intervals and tests stay the same."""
    rng = np.random.default_rng(3)
    gaps_N = rng.normal(0.1, 0.3, 12)
    groups_N = np.repeat(np.arange(12), 5)
    once = statistics.paired_difference(gaps_N, np.zeros(12), np.random.default_rng(0))
    copies_N = np.repeat(gaps_N, 5)
    grouped = statistics.paired_difference(
        copies_N, np.zeros(60), np.random.default_rng(0), groups_N=groups_N
    )
    alone = statistics.paired_difference(copies_N, np.zeros(60), np.random.default_rng(0))
    assert grouped.p_value == pytest.approx(once.p_value)
    assert grouped.high - grouped.low == pytest.approx(once.high - once.low, rel=0.1)
    assert alone.high - alone.low < 0.6 * (grouped.high - grouped.low)
    scores_OKST = copies_N[None, :, None, None]
    band, bare = (
        statistics.mean_band(scores_OKST, np.random.default_rng(0), groups_K=groups_K)
        for groups_K in (groups_N, None)
    )
    assert band.mean_OT == bare.mean_OT
    assert (bare.high_OT - bare.low_OT < 0.6 * (band.high_OT - band.low_OT)).all()
