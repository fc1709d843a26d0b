"""Every problem can be evaluated, and the held-out problem is not in the logs."""

import importlib.util

import numpy as np
import pytest

from optformer.demo import problems
from optformer.errors import ConfigError
from optformer.space import to_natural


@pytest.mark.parametrize("name", problems.names())
def test_every_problem_evaluates_legal_values(name: str) -> None:
    problem = problems.find(name)
    parameters = problem.problem.parameters
    values_NP = to_natural(parameters, np.full((1, len(parameters)), 0.4))
    values = {p.name: p.from_number(v) for p, v in zip(parameters, values_NP[0], strict=True)}
    metric = problem.evaluate(values)
    assert metric is not None and np.isfinite(metric)
    assert problem.evaluate(values) == metric


def test_the_held_out_model_and_data_are_not_logged() -> None:
    held = problems.held_out()
    assert held.name in problems.names()
    for problem in problems.logged():
        assert problem.model != held.model
        assert problem.data != held.data


def test_an_unknown_problem_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'svc/wines'. Did you mean svc/wine\? There are: svc/"):
        problems.find("svc/wines")


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'optformer\[demo\]'"):
        problems.need_sklearn()
