import os

import numpy as np
import pyarrow.parquet as pq
import pytest

from optformer.errors import ConfigError, SourceError
from optformer.eval.results import merge, read
from optformer.eval.runner import run
from optformer.eval.task import Start, optimizer_seed, random_start
from optformer.study import Goal, State
from tests.eval.quadratic import (
    Breaks,
    Chorus,
    Corner,
    Counting,
    Kills,
    Processes,
    Quadratic,
    Recorder,
    task,
)

UNTIMED = ["optimizer", "task", "seed", "trial", "values", "metric", "exact", "best", "error"]


def rows(folder):
    return pq.read_table(folder / "rows.parquet")


def untimed(folder):
    """Rows without times, as text so that NaN equals itself."""
    return [repr(row) for row in rows(folder).select(UNTIMED).to_pylist()]


def test_same_seeds_give_same_rows(tmp_path):
    for name in ("a", "b"):
        run({"r": Recorder}, [task()], [0, 1], tmp_path / name, protocol="test")
    assert untimed(tmp_path / "a") == untimed(tmp_path / "b")


def test_every_trial_is_a_row_with_the_optimizers_update(tmp_path):
    run({"r": Recorder}, [task(trials=20)], [3], tmp_path, protocol="test")
    table = rows(tmp_path).to_pylist()
    assert [row["trial"] for row in table] == list(range(1, 21))
    told = Recorder.last.told
    for row, (values, metric, state) in zip(table, told, strict=True):
        assert tuple(row["values"]) == values
        np.testing.assert_equal(row["metric"], metric)
        assert (state == State.INFEASIBLE) == np.isnan(metric)
    assert any(state == State.INFEASIBLE for _, _, state in told)  # the objective has such points
    # MINIMIZE: the metric is the negated value, the best so far is larger-better.
    best = np.fmax.accumulate([-row["metric"] for row in table])
    np.testing.assert_array_equal([row["best"] for row in table], best)
    assert all(row["exact"] <= 0 or np.isnan(row["exact"]) for row in table)


def test_optimizers_have_the_same_noise_at_the_same_trial(tmp_path):
    run({"a": Corner, "b": Corner}, [task()], [0, 1], tmp_path, protocol="test")
    table = rows(tmp_path).to_pylist()
    metric = {(row["optimizer"], row["seed"], row["trial"]): row["metric"] for row in table}
    for seed in (0, 1):
        for trial in range(1, 7):
            assert metric["a", seed, trial] == metric["b", seed, trial]
    assert len({metric["a", 0, trial] for trial in range(1, 7)}) == 6
    assert metric["a", 0, 1] != metric["a", 1, 1]


def test_starting_points_come_first_and_end_at_trial_zero(tmp_path):
    plain = task(block=Quadratic(goal=Goal.MAXIMIZE))
    start = random_start(plain, 3, seed=5)
    started = task(block=plain.block, starts={5: start})
    results = run({"a": Recorder, "b": Corner}, [started], [5], tmp_path, protocol="test")
    table = rows(tmp_path).to_pylist()
    assert [row["trial"] for row in table[:9]] == [-2, -1, 0, 1, 2, 3, 4, 5, 6]
    assert [tuple(row["values"]) for row in table[:3]] == [tuple(v) for v in start.values_NP]
    assert results.best_OKST[0, 0, 0, 0] == results.best_OKST[1, 0, 0, 0] == max(start.metric_N)
    assert np.isnan(results.seconds_OKST[..., 0]).all()


def test_a_killed_run_resumes_with_the_missing_runs(tmp_path):
    starts = tmp_path / "starts"
    starts.mkdir()
    factory = Counting(starts)
    out = tmp_path / "out"
    whole = run({"c": factory}, [task()], [0, 1, 2], out, protocol="test")
    parts = sorted(out.glob("parts/*/*.parquet"))
    before = untimed(out)
    parts[1].unlink()
    # The temporary file of a killed process, which is not a result.
    parts[1].with_suffix(".123.tmp").write_bytes(b"PAR1")
    assert read(out).missing == 1
    resumed = run({"c": factory}, [task()], [0, 1, 2], out, protocol="test")
    assert len(list(starts.iterdir())) == 4
    assert untimed(out) == before
    np.testing.assert_array_equal(resumed.best_OKST, whole.best_OKST)


def test_failing_optimizers_are_reported_and_keep_their_last_value(tmp_path):
    results = run({"breaks": Breaks, "fine": Recorder}, [task()], [0], tmp_path, protocol="test")
    (failure,) = results.failures
    assert (failure.optimizer, failure.trial) == ("breaks", 3)
    assert failure.error == "RuntimeError: no third idea"
    assert results.missing == 0
    np.testing.assert_array_equal(
        results.best_OKST[0, 0, 0, 3:], np.full(4, results.best_OKST[0, 0, 0, 2])
    )


def test_optimizers_share_random_numbers_on_a_task_and_tasks_do_not(tmp_path):
    seeds = {}

    def noting(name):
        def factory(problem, seed):
            seeds.setdefault(name, []).append(seed)
            return Recorder(problem, seed)

        return factory

    tasks = [task(name=name) for name in ("one", "other")]
    run({name: noting(name) for name in "ab"}, tasks, [0, 1], tmp_path, protocol="test")
    assert seeds["a"] == seeds["b"]
    assert len(set(seeds["a"])) == 4


def never(problem, seed):
    raise ValueError("not for this space")


def test_an_optimizer_that_fails_at_once_keeps_the_starting_points(tmp_path):
    plain = task(block=Quadratic(goal=Goal.MAXIMIZE))
    start = random_start(plain, 3, seed=0)
    started = task(block=plain.block, starts={0: start})
    results = run({"never": never}, [started], [0], tmp_path, protocol="test")
    np.testing.assert_array_equal(results.exact_best_OKST[0, 0, 0], np.full(7, max(start.exact_N)))


def test_an_optimizer_that_fails_at_once_scores_zero(tmp_path):
    results = run({"never": never, "fine": Corner}, [task()], [0], tmp_path, protocol="test")
    np.testing.assert_array_equal(results.scores()[0, 0, 0, 1:], np.zeros(6))
    assert results.failures[0].error == "ValueError: not for this space"


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[2.0, 1.0, 16.0, 0.0]], "lr=2.0 lies outside"),
        ([[0.1, 1.5, 16.0, 0.0]], "not a whole number"),
        ([[0.1, 1.0, 17.0, 0.0]], "is not one of"),
        ([[0.1, 1.0, 16.0, 2.0]], "activation=2.0 is not an index"),
        ([[np.nan, 1.0, 16.0, 0.0]], "lr=nan lies outside"),
        (np.zeros((0, 4)), "shape (0, 4)"),  # Vizier's designers sometimes suggest nothing
    ],
)
def test_illegal_suggestions_are_the_optimizers_failure(tmp_path, values, says):
    class Illegal(Recorder):
        def suggest(self, count):
            return np.array(values)

    results = run({"i": Illegal}, [task()], [0], tmp_path, protocol="test")
    assert says in results.failures[0].error


def test_workers_give_the_rows_of_one_process_and_survive_a_killed_one(tmp_path):
    optimizers = {"kills": Kills, "r": Recorder}
    tasks = [task(), task("second")]
    results = run(optimizers, tasks, [0], tmp_path / "many", protocol="test", workers=2)
    assert {failure.optimizer for failure in results.failures} == {"kills"}
    assert "ProcessDied" in results.failures[0].error
    assert results.missing == 0
    alone = run({"r": Recorder}, tasks, [0], tmp_path / "one", protocol="test")
    np.testing.assert_array_equal(results.of(["r"]).best_OKST, alone.best_OKST)


def test_a_folder_rejects_other_protocols_tasks_and_optimizers(tmp_path):
    out = tmp_path / "out"
    starts = tmp_path / "starts"
    starts.mkdir()
    run({"c": Counting(starts)}, [task()], [0], out, protocol="test")
    with pytest.raises(ConfigError, match="protocol 'test', not 'hpob'"):
        run({"c": Counting(starts)}, [task()], [0], out, protocol="hpob")
    with pytest.raises(ConfigError, match="another task named 'quadratic'"):
        other = task(block=Quadratic(goal=Goal.MAXIMIZE))
        run({"c": Counting(starts)}, [other], [0], out, protocol="test")
    for longer in (task(trials=7), task("new", trials=7)):
        with pytest.raises(ConfigError, match=r"out holds runs of 6 trials, not 7\. Give it"):
            run({"c": Counting(starts)}, [longer], [0], out, protocol="test")
    with pytest.raises(ConfigError, match="other settings"):
        run({"c": Counting(starts, setting=1)}, [task()], [0], out, protocol="test")
    with pytest.raises(ConfigError, match="two tasks are named"):
        run({"r": Recorder}, [task(), task()], [0], out, protocol="test")
    with pytest.raises(SourceError, match=r"no plan\.json"):
        read(tmp_path)


def test_progress_counts_runs_and_those_already_done(tmp_path):
    seen = []
    run({"r": Recorder}, [task()], [0], tmp_path, protocol="test")
    run(
        {"r": Recorder},
        [task()],
        [0, 1],
        tmp_path,
        protocol="test",
        progress=lambda done, total, note="": seen.append((done, total, note)),
    )
    assert seen == [(2, 2, "r on quadratic, seed 1")]


def test_merged_results_are_those_of_common_tasks_and_seeds(tmp_path):
    a = run({"r": Recorder}, [task(), task("x")], [0, 1], tmp_path / "a", protocol="test")
    b = run({"r": Recorder, "c": Corner}, [task()], [1, 2], tmp_path / "b", protocol="test")
    both = merge([a, b])
    assert both.optimizers == ("a/r", "b/r", "c")
    assert (both.seeds, [t.name for t in both.tasks]) == ((1,), ["quadratic"])
    np.testing.assert_array_equal(both.best_OKST[0, 0, 0], a.best_OKST[0, 0, 1])
    np.testing.assert_array_equal(both.best_OKST[0], both.best_OKST[1])


def test_results_of_different_protocols_or_tasks_are_not_merged(tmp_path):
    a = run({"r": Recorder}, [task()], [0], tmp_path / "a", protocol="test")
    b = run({"r": Recorder}, [task()], [0], tmp_path / "b", protocol="other")
    c = run({"r": Recorder}, [task(trials=3)], [0], tmp_path / "c", protocol="test")
    d = run({"r": Recorder}, [task()], [9], tmp_path / "d", protocol="test")
    block = Quadratic(goal=Goal.MAXIMIZE)
    e = run({"r": Recorder}, [task(block=block)], [0], tmp_path / "e", protocol="test")
    f = run({"r": Recorder}, [task(), task("f", trials=9)], [0], tmp_path / "f", protocol="test")
    for other, says in (
        (b, "'other'"),
        (c, r"a holds runs of 6 trials, .*c of 3: they cannot be compared"),
        (d, "no seeds in common"),
        (e, "is not that of"),
        (f, r"of 6 trials, .*f of 9"),  # though what both have is as long
    ):
        with pytest.raises(ConfigError, match=says):
            merge([a, other])


def test_an_unknown_optimizer_in_a_folder_suggests_the_nearest(tmp_path):
    results = run({"recorder": Recorder}, [task()], [0], tmp_path, protocol="test")
    with pytest.raises(ConfigError, match="Did you mean recorder"):
        results.of(["recoder"])


def test_a_start_of_infeasible_points_leaves_no_best(tmp_path):
    start = Start(
        values_NP=np.array([[0.99, 1.0, 16.0, 0.0]]),
        metric_N=np.array([np.nan]),
        exact_N=np.array([np.nan]),
    )
    results = run({"c": Corner}, [task(starts={0: start})], [0], tmp_path, protocol="test")
    assert np.isnan(results.best_OKST[0, 0, 0, 0])
    assert np.isfinite(results.best_OKST[0, 0, 0, 1:]).all()
    assert Recorder.last.told[0][2] == State.INFEASIBLE


def test_groups_have_equal_lengths_and_the_rows_of_single_runs(tmp_path):
    tasks = [task("a"), task("b"), task("c"), task("longer", trials=7)]
    chorus = Chorus(together=4)
    run({"r": chorus}, tasks, [0, 1], tmp_path / "many", protocol="test")
    # Of the short ones all with seed 0 and one more; the longer ones; the rest.
    assert chorus.groups == [4, 2, 2]
    shared = rows(tmp_path / "many").to_pylist()
    together = {(row["task"], row["seed"]): row["together"] for row in shared}
    assert [together["a", 0], together["a", 1], together["c", 1]] == [4, 4, 2]
    run({"r": Recorder}, tasks, [0, 1], tmp_path / "one", protocol="test")
    assert untimed(tmp_path / "many") == untimed(tmp_path / "one")
    # Finished runs are not repeated.
    next((tmp_path / "many").glob("parts/*/b*.seed1.parquet")).unlink()
    run({"r": chorus}, tasks, [0, 1], tmp_path / "many", protocol="test")
    assert chorus.groups[3:] == [1]
    assert untimed(tmp_path / "many") == untimed(tmp_path / "one")


def test_an_error_in_a_group_belongs_to_its_run(tmp_path):
    tasks = [task("a"), task("b")]
    chorus = Chorus(together=4, broken=[optimizer_seed(each, 1) for each in tasks])
    results = run({"r": chorus}, tasks, [0, 1], tmp_path, protocol="test")
    assert {(failure.task, failure.seed) for failure in results.failures} == {("a", 1), ("b", 1)}
    assert chorus.groups == [4, 1, 1, 1, 1]
    assert results.missing == 0


def test_optimizers_that_leak_get_a_process_for_each_run(tmp_path):
    folder = tmp_path / "marks"
    folder.mkdir()
    optimizers = {"fresh": Processes(folder, fresh_process=True), "kept": Processes(folder)}
    run(optimizers, [task("a"), task("b")], [0], tmp_path / "out", protocol="test")
    by_kind = {
        kind: {path.name.split("-")[1] for path in folder.glob(f"{kind}-*")}
        for kind in ("True", "False")
    }
    assert by_kind["False"] == {str(os.getpid())}
    assert len(by_kind["True"]) == 2 and str(os.getpid()) not in by_kind["True"]
