"""What a model was trained on is told from what it has never seen."""

import dataclasses

import numpy as np
import pytest

from optformer.data.splits import (
    RECORD,
    Split,
    Standing,
    TrainingRecord,
    data_set_of,
    family_of,
    learner_of,
    standing_for,
    worst,
)
from optformer.errors import CheckpointError, ConfigError
from optformer.study import Metric, Parameter, ParameterType, Problem, State, Study


def study(name: str, *, seed: int = 0, trials: int = 200, data_set: str = "") -> Study:
    rng = np.random.default_rng(seed)
    problem = Problem(
        name=name,
        parameters=tuple(
            Parameter(name=f"x{index}", type=ParameterType.DOUBLE, bounds=(0.0, 1.0))
            for index in range(3)
        ),
        metrics=(Metric(name="accuracy"),),
    )
    return Study(
        problem=problem,
        values_RP=rng.random((trials, 3)),
        metrics_RM=rng.random((trials, 1)),
        states_R=np.full(trials, State.COMPLETED, dtype=np.int8),
        data_set=data_set,
    )


def test_a_study_says_its_learner_and_its_data_set() -> None:
    assert learner_of(study("rpart/openml-31")) == "rpart"
    assert data_set_of(study("rpart/openml-31")) == "openml-31"
    assert data_set_of(study("rpart/openml-31", data_set="credit-g")) == "credit-g"
    assert (learner_of(study("tuning")), data_set_of(study("tuning"))) == ("", "tuning")
    assert family_of("extra_trees") == family_of("ranger") == "forest"
    assert family_of("our_own_learner") == "our_own_learner"


def test_all_learners_of_a_data_set_are_on_one_side() -> None:
    split = Split(held_out=0.5)
    for number in range(40):
        sides = {
            split.trains_on(study(f"{learner}/openml-{number}")) for learner in ("rpart", "svm")
        }
        assert len(sides) == 1
    share = np.mean([split.trains_on(study(f"svm/openml-{number}")) for number in range(400)])
    assert 0.4 < share < 0.6


def test_a_family_is_left_out_with_its_twins() -> None:
    split = Split(held_out=0.0, families=("random_forest",), data_sets=("Credit-G",))
    for learner in ("ranger", "extra_trees", "random_forest"):
        assert not split.trains_on(study(f"{learner}/openml-31"))
    assert split.trains_on(study("svm/openml-31"))
    assert not split.trains_on(study("svm/credit_g"))
    with pytest.raises(ConfigError, match=r"held_out=1\.0"):
        Split(held_out=1.0)


@pytest.mark.parametrize("how", ["as it is", "half", "renamed", "other order", "rounded"])
def test_a_study_is_recognized_by_its_trials(how: str) -> None:
    seen = study("svm/openml-31")
    record = TrainingRecord.of([seen])
    rng = np.random.default_rng(1)
    again = {
        "as it is": lambda: seen,
        "half": lambda: seen.rows(rng.permutation(200)[:100]),
        "renamed": lambda: dataclasses.replace(
            seen, problem=dataclasses.replace(seen.problem, name="other/data")
        ),
        "other order": lambda: seen.rows(rng.permutation(200)),
        "rounded": lambda: dataclasses.replace(seen, values_RP=seen.values_RP.round(9)),
    }[how]()
    assert record.standing(again) == Standing.TRAINED_ON


def test_what_was_not_trained_on_has_a_standing() -> None:
    record = TrainingRecord.of([study("svm/openml-31"), study("ranger/openml-3", seed=1)])
    assert record.standing(study("svm/openml-7", seed=2)) == Standing.IN_FAMILY
    assert record.standing(study("extra_trees/x", seed=3)) == Standing.IN_FAMILY
    assert record.standing(study("mlp/OpenML_31", seed=4)) == Standing.DATA_SET_SEEN
    assert record.standing(study("mlp/openml-7", seed=5)) == Standing.CROSS_FAMILY
    assert standing_for(None, study("mlp/openml-7")) == Standing.UNKNOWN
    assert worst([Standing.CROSS_FAMILY, Standing.UNKNOWN]) == Standing.UNKNOWN


def test_values_that_many_studies_share_say_nothing() -> None:
    """Two studies of the same configurations, most of which never learn."""
    first, second = (study(f"adam/task-{number}", seed=0) for number in range(2))
    stuck_RM = np.full((200, 1), 0.693)
    stuck_RM[:20] = np.random.default_rng(7).random((20, 1))
    first = dataclasses.replace(first, metrics_RM=stuck_RM)
    other_RM = stuck_RM.copy()
    other_RM[:20] += 0.1
    second = dataclasses.replace(second, metrics_RM=other_RM)
    assert TrainingRecord.of([first]).standing(second) == Standing.IN_FAMILY


def test_a_record_travels_in_a_checkpoints_about() -> None:
    record = TrainingRecord.of([study("svm/a")]) | TrainingRecord.of([study("mlp/b", seed=1)])
    assert TrainingRecord.from_about({RECORD: record.to_json()}) == record
    assert TrainingRecord.from_about({"steps": 3}) is None
    with pytest.raises(CheckpointError, match="does not have format 1"):
        TrainingRecord.from_about({RECORD: {"format": 9}})
