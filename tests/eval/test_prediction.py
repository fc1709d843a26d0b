import dataclasses
from pathlib import Path

import numpy as np
import pytest

from optformer.data import store
from optformer.data.importers import import_studies
from optformer.data.problems import studies_of
from optformer.data.problems.kernels import KERNELS
from optformer.errors import ConfigError, SourceError, StudyError
from optformer.eval import pages, prediction, prediction_command, prediction_runs
from optformer.eval import prediction_sections as sections
from optformer.eval import prediction_sources as sources
from optformer.eval.benchmark import Running
from optformer.eval.prediction_sources import Source
from optformer.eval.report.page import Figure, Page, Table, Text, render
from optformer.model import predictive
from optformer.study import Metric, Parameter, ParameterType, Problem, Study
from tests.eval.quadratic import Quadratic


def studies(count=3, trials=25, noise=0.02):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        made += prediction.random_studies(Quadratic(noise=noise), trials, rng)
    return made


@dataclasses.dataclass(frozen=True)
class Uniform:
    def predict(self, study, y_range, rows_N):
        return np.full((len(rows_N), 50), 1 / 50)


class Oracle:
    """Knows the function but not its noise; also keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def predict(self, study, y_range, rows_N):
        self.asked.append((y_range, rows_N))
        truth_N = (study.objective()[rows_N] - y_range[0]) / (y_range[1] - y_range[0])
        middle_Q = (np.arange(200) + 0.5) / 200
        weights_NQ = np.exp(-(((middle_Q - truth_N[:, None]) / 0.02) ** 2) / 2)
        return weights_NQ / weights_NQ.sum(1, keepdims=True)


class Share(Uniform):
    """Knows how many trials of the whole study have each value."""

    def predict(self, study, y_range, rows_N):
        y_R = study.objective()
        truth_R = (y_R[np.isfinite(y_R)] - y_range[0]) / (y_range[1] - y_range[0])
        share_Q, _ = np.histogram(truth_R, 50, (0.0, 1.0))
        return np.tile(share_Q / share_Q.sum(), (len(rows_N), 1))


def test_uniform_predictions_score_zero_and_good_ones_more():
    made = prediction.evaluate({"uniform": Uniform(), "oracle": Oracle()}, studies())
    np.testing.assert_allclose(made["uniform"].log_density_N, 0.0, atol=1e-12)
    assert made["oracle"].log_density_N.mean() > 2.0
    assert np.abs(made["oracle"].error_N).max() < 0.05


def test_infeasible_trials_are_not_predicted_and_the_range_is_the_studys():
    oracle = Oracle()
    some = studies()
    assert any(np.isnan(study.objective()).any() for study in some)
    made = prediction.evaluate({"oracle": oracle}, some)
    feasible = [int(np.isfinite(study.objective()).sum()) for study in some]
    assert np.bincount(made["oracle"].study_N).tolist() == feasible
    for study, (y_range, _) in zip(some, oracle.asked, strict=True):
        y_R = study.objective()
        assert y_range == (np.nanmin(y_R), np.nanmax(y_R))


def test_fewer_predictions_can_be_asked_for():
    made = prediction.evaluate({"uniform": Uniform()}, studies(), every=5)
    assert set(made["uniform"].seen_N % 5) == {4}


def test_a_study_without_a_scale_is_refused():
    flat = studies_of(Quadratic(), np.full((1, 3, 4), 0.5), np.full((1, 3), 2.0), "r")
    with pytest.raises(StudyError, match=r"all its values are 2\.0"):
        prediction.evaluate({"uniform": Uniform()}, flat)


def smooth_study(trials=24):
    """A sine of one parameter, without noise."""
    parameter = Parameter(name="x", type=ParameterType.DOUBLE, bounds=(0.0, 1.0))
    x_RP = np.random.default_rng(0).random((trials, 1))
    return Study(
        problem=Problem(name="sine", parameters=(parameter,), metrics=(Metric(name="y"),)),
        values_RP=x_RP,
        metrics_RM=np.sin(7 * x_RP),
        states_R=np.zeros(trials, dtype=np.int8),
    )


def test_a_gaussian_process_learns_a_smooth_function():
    process = prediction.GaussianProcess(bins=200)
    made = prediction.evaluate({"gp": process}, [smooth_study()], every=2)["gp"]
    late = made.seen_N >= 12
    assert made.log_density_N[late].mean() > 3.0  # ln 200 = 5.3 is the most that bins can say
    assert np.abs(made.error_N[late]).mean() < 0.02
    np.testing.assert_array_equal(made.log_density_N[made.seen_N < 2], 0.0)


def test_a_gaussian_process_does_not_see_later_trials():
    (study,) = studies(count=1)
    process = prediction.GaussianProcess(refit_every=1, bins=50)
    whole = process.predict(study, (-1.0, 0.0), np.array([8]))
    part = process.predict(study.rows(slice(9)), (-1.0, 0.0), np.array([8]))
    np.testing.assert_array_equal(whole, part)
    np.testing.assert_allclose(whole.sum(1), 1.0)


def test_a_gaussian_process_is_fitted_anew_before_each_early_prediction(monkeypatch):
    fitted, fit = [], prediction.GaussianProcess._fit

    def counting(self, x_NF, y_N, kernel):
        if kernel is None:
            fitted.append(len(y_N))
        return fit(self, x_NF, y_N, kernel)

    monkeypatch.setattr(prediction.GaussianProcess, "_fit", counting)
    process = prediction.GaussianProcess(bins=20, always_below=8, refit_every=5)
    process.predict(smooth_study(20), (-1.0, 1.0), np.arange(20))
    assert fitted == [2, 3, 4, 5, 6, 7, 12, 17]
    # The settings are what a folder knows a predictor by.
    assert "always_below=30" in repr(prediction.GaussianProcess())


def test_repeated_values_are_calibrated_and_predictors_share_their_random_numbers():
    some = [
        dataclasses.replace(study, metrics_RM=np.round(study.metrics_RM)) for study in studies(40)
    ]
    some = [study for study in some if np.nanmin(study.metrics_RM) < np.nanmax(study.metrics_RM)]
    made = prediction.evaluate({"one": Share(), "other": Share()}, some)
    pit_N = made["one"].pit_N
    np.testing.assert_array_equal(pit_N, made["other"].pit_N)
    np.testing.assert_array_equal(pit_N, prediction.evaluate({"one": Share()}, some)["one"].pit_N)
    assert len(np.unique(pit_N)) == len(pit_N)  # studies of one name have numbers of their own
    levels_C, observed_C = predictive.calibration_curve(pit_N)
    np.testing.assert_allclose(observed_C, levels_C, atol=0.06)  # sigma: 0.023


def test_parts_joined_are_the_whole():
    some = studies()
    whole = prediction.evaluate({"oracle": Oracle()}, some)["oracle"]
    parts = [prediction.evaluate({"oracle": Oracle()}, [study])["oracle"] for study in some]
    joined = prediction.join(parts)
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(joined, field.name), getattr(whole, field.name))


# --- a folder of predictions ------------------------------------------------------------------


def source(name="bbob", **fields):
    return Source(name=name, about=f"those of {name}", studies=studies(**fields))


@dataclasses.dataclass(frozen=True)
class Counting(Uniform):
    """Leaves a file for every study that it predicts."""

    folder: Path

    def predict(self, study, y_range, rows_N):
        (self.folder / f"{len(list(self.folder.iterdir()))}").touch()
        return super().predict(study, y_range, rows_N)


def test_a_folder_goes_on_where_it_stopped(tmp_path):
    (calls := tmp_path / "calls").mkdir()
    predictors, out = {"uniform": Counting(calls)}, tmp_path / "out"
    first = prediction_runs.run(predictors, [source(count=1)], out)
    assert first.predictions["bbob"]["uniform"].study_N.max() == 0
    both = prediction_runs.run(predictors, [source(count=3), source("gp", count=1)], out)
    assert len(list(calls.iterdir())) == 4  # of studies with one name, each is a study
    assert [len(np.unique(made["uniform"].study_N)) for made in both.predictions.values()] == [3, 1]
    assert both.missing == 0 and both.about == {"bbob": "those of bbob", "gp": "those of gp"}
    next((out / "predictions" / "parts").iterdir()).unlink()
    assert prediction_runs.read(out).missing == 1
    assert prediction_runs.read(out).settings == {"uniform": repr(predictors["uniform"])}
    prediction_runs.run(predictors, [source(count=3), source("gp", count=1)], out)
    assert len(list(calls.iterdir())) == 5


def test_processes_predict_the_same(tmp_path):
    predictors = {"gp": prediction.GaussianProcess(bins=20, refit_every=5)}
    made = [
        prediction_runs.run(
            predictors, [source(count=2, trials=8)], tmp_path / str(workers), workers=workers
        )
        for workers in (1, 2)
    ]
    first, second = (found.predictions["bbob"]["gp"] for found in made)
    np.testing.assert_allclose(first.log_density_N, second.log_density_N, atol=1e-6)


def test_a_folder_holds_predictions_of_the_same_kind_only(tmp_path):
    (calls := tmp_path / "calls").mkdir()
    out = tmp_path / "out"
    prediction_runs.run({"uniform": Counting(calls)}, [source(count=1)], out)
    with pytest.raises(ConfigError, match="other settings"):
        prediction_runs.run({"uniform": Counting(tmp_path)}, [source(count=1)], out)
    with pytest.raises(ConfigError, match="another study named 'bbob/quadratic'"):
        prediction_runs.run({"uniform": Counting(calls)}, [source(count=1, trials=9)], out)
    with pytest.raises(ConfigError, match="two sources are named 'gp'"):
        prediction_runs.run({"uniform": Counting(calls)}, [source("gp"), source("gp")], out)
    with pytest.raises(SourceError, match="holds no predictions"):
        prediction_runs.read(tmp_path)


# --- where studies come from ------------------------------------------------------------------


def test_draws_are_of_every_kernel_and_more_of_them_change_none():
    few, more = (
        sources.gaussian_process_draws(parameters=(1, 3), instances=count, trials=5)
        for count in (1, 2)
    )
    assert {study.name.split("/")[1] for study in few.studies} == set(KERNELS)
    assert {len(study.problem.parameters) for study in few.studies} == {1, 3}
    found = {study.name: study.objective() for study in more.studies}
    assert len(found) == 2 * len(few.studies)
    for study in few.studies:
        np.testing.assert_array_equal(study.objective(), found[study.name])


def take(study):
    """Refuses studies of more than 20 trials."""
    if len(study) > 20:
        raise StudyError("it is too long.")


def test_logs_are_as_they_are_but_for_what_cannot_be_predicted(tmp_path):
    flat = studies_of(Quadratic(), np.full((1, 3, 4), 0.5), np.full((1, 3), 2.0), "r")
    some = studies(count=3, trials=12)
    store.write([*some, *flat], tmp_path, source="test")
    made = sources.logs(tmp_path, trials=7, accept=take)
    assert sources.title(made.name) == f"logs {tmp_path.name}"
    for study, kept in zip(some, made.studies, strict=True):
        np.testing.assert_array_equal(kept.metrics_RM, study.metrics_RM[:7])
    assert "All of its 4 studies, the first 7 trials" in made.about
    assert "Left out: 1 study" in made.about and "all its values are" in made.about
    fewer = sources.logs(tmp_path, most_studies=2, accept=take)
    assert "2 at random of its 4 studies" in fewer.about
    store.write(studies(count=1, trials=30), tmp_path / "long", source="test")
    with pytest.raises(SourceError, match="none of its 1 study can be predicted: it is too long"):
        sources.logs(tmp_path / "long", accept=take)
    with pytest.raises(SourceError, match=r"optformer import LOG .*nowhere"):
        sources.logs(tmp_path / "nowhere", accept=take)


def test_real_hpob_and_real_logs_are_predicted(shared_data, tmp_path):
    pytest.importorskip("xgboost")
    hpob = sources.hpob_surrogates(shared_data / "hpob", spaces=["5527"], trials=6)
    assert {study.name.split("/")[1] for study in hpob.studies} == {"5527"}
    for study in hpob.studies:
        y_R = study.objective()
        assert len(study) == 6 and y_R.min() >= 0 and y_R.max() <= 1
    import_studies(str(shared_data / "study_logs" / "xgb48.jsonl.gz"), tmp_path / "xgb48")
    logs = sources.logs(tmp_path / "xgb48", trials=6, most_studies=3, accept=lambda study: None)
    found = prediction_runs.run({"uniform": Uniform()}, [hpob, logs], tmp_path / "out")
    assert list(found.predictions) == ["hpob", "studies/xgb48"]


# --- the command ------------------------------------------------------------------------------


def test_the_page_says_which_source(tmp_path, model_folder):
    store.write(studies(count=1, trials=6), tmp_path / "mine", source="test")
    done = prediction_command.evaluate(
        tmp_path / "out",
        Running(trials=6, workers=1, command="optformer evaluate it"),
        checkpoint=model_folder,
        sources=("bbob",),
        families=("Lunacek",),
        parameters=(4,),
        instances=1,
        studies=[tmp_path / "mine"],
    )
    assert [row[0] for row in done.rows] == ["BBOB", "logs mine"]
    for folders in ((tmp_path / "out", tmp_path), (tmp_path, tmp_path / "out")):
        with pytest.raises(ConfigError, match=r"out holds predictions only.*Evaluate both"):
            pages.compare(*folders, tmp_path / "both")
    page = done.page.read_text("utf-8")
    for word in ("Predictions on BBOB, logs mine", "the first 6 trials", "# weights"):
        assert word in page


def test_what_cannot_be_predicted_is_refused(tmp_path, model_folder):
    def predict(**fields):
        prediction_command.evaluate(
            tmp_path, Running(trials=5, workers=1), checkpoint=model_folder, **fields
        )

    with pytest.raises(ConfigError, match=r"no source 'bob'.*--studies\. Did you mean bbob"):
        predict(sources=("bob",))
    with pytest.raises(ConfigError, match="--function is for BBOB"):
        predict(sources=("gp",), families=("Lunacek",))
    with pytest.raises(ConfigError, match="--space is for HPO-B"):
        predict(spaces=("5527",))
    with pytest.raises(SourceError, match=r"github\.com/machinelearningnuremberg/HPO-B"):
        predict(hpob_data=tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


# --- numbers and pictures ---------------------------------------------------------------------


class Rough(Oracle):
    """Knows the function less well."""

    def predict(self, study, y_range, rows_N):
        return 0.5 * super().predict(study, y_range, rows_N) + 0.5 / 200


def compared(count=3):
    made = {"optformer": Oracle(), sections.REFERENCE: Rough()}
    return prediction.evaluate(made, studies(count=count))


def test_differences_are_paired_and_intervals_are_over_studies():
    table = sections.table({"bbob": compared(), "gp": compared(count=1)})
    assert table.header[4:] == (
        "optformer",
        "gaussian process",
        "optformer − gaussian process",
    )
    (density, *_), (alone, *_) = table.rows[:3], table.rows[3:]
    assert density[:3] == ("BBOB", "log density", 3)
    # Half the density at the truth, whichever studies are drawn: the difference is sure.
    assert str(density[6]).startswith("+0.6") and str(density[6]).count("+0.6") == 3
    assert "[" not in str(alone[4])  # one study cannot tell
    assert table.columns[4:] == (
        "optformer",
        "gaussian_process",
        "optformer − gaussian_process",
    )


def test_groups_hold_each_prediction_once():
    made = {"bbob": compared()}
    total = len(made["bbob"]["optformer"].seen_N)
    tables = {s.name: s for s in sections.sections(made) if isinstance(s, Table)}
    seen = tables["prediction_by_seen"].rows
    assert [row[1] for row in seen] == ["0–1", "2–4", "5–9", "10–19", "20–24"]
    assert sum(row[3] for row in seen) == total
    assert [row[1:4] for row in tables["prediction_by_parameters"].rows] == [("4", 3, total)]


def test_every_picture_of_unfinished_predictions_says_so():
    one, both = {"bbob": compared()}, {"bbob": compared(), "gp": compared(count=2)}
    for by_source, missing in ((one, 1), (both, 2), (both, 0)):
        found = prediction_runs.Found(
            predictions=by_source, about={"bbob": "", "gp": ""}, settings={}, missing=missing
        )
        pictures = {
            part.name: part.picture
            for part in sections.page_sections(found)
            if isinstance(part, Figure)
        }
        assert set(pictures) == {"density", "difference_optformer", "calibration", "pit"}
        for picture in pictures.values():
            drawn = [axes for axes in picture.axes if axes.axison]
            words = [[text.get_text() for text in axes.texts] for axes in drawn]
            assert all(("UNFINISHED RUN" in some) == (missing > 0) for some in words)


def test_the_page_says_how_the_reference_was_fitted():
    made = {"bbob": compared()}
    total = len(made["bbob"]["optformer"].seen_N)

    def said(**settings):
        return " ".join(
            words
            for part in sections.sections(made, **settings)
            if isinstance(part, Text)
            for words in part.paragraphs
        )

    want = f"fewer than 30 trials, which are {total} of {total} predictions in 3 studies"
    assert want in said() and "every 5th trial" in said()
    old = "GaussianProcess(bins=1000, refit_every=5, restarts=0)"
    assert f"the settings {old}" in said(reference=old) and "30" not in said(reference=old)
    del made["bbob"][sections.REFERENCE]
    assert "Gaussian" not in said()


def test_sections_say_counts_and_intervals():
    made = prediction.evaluate({"uniform": Uniform(), "oracle": Oracle()}, studies())
    drawn = sections.sections({"a source of its own": made})
    table = next(section for section in drawn if isinstance(section, Table))
    count = len(made["uniform"].pit_N)
    assert f"{count:,} predictions in 3 studies" in table.caption
    first = ("a source of its own", "log density", 3, count)
    assert table.rows[0][:4] == first and str(table.rows[0][4]) == "0.00 [0.00, 0.00]"
    data = {part.name: part.data for part in drawn if isinstance(part, Figure)}
    assert len(data["pit"].rows) == 2 * count and len(data["calibration"].rows) == 2 * 21
    assert "oracle" in render(Page(title="t", lead="l", sections=drawn))
