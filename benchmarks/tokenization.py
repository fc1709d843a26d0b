"""Trials per second on one core from studies to tokens, compared with a loop over Vizier objects.

    python benchmarks/tokenization.py
    python benchmarks/tokenization.py --parameters 6 --trials 100 --seconds 5

Times are processor times. Both start from studies in memory, ours from columns and the loop from
`vz.Trial` objects, and both give the same tokens, which is checked first. The time of a study
includes the text of its search space. The goal is 100,000 trials per second at 6 parameters.
"""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table
from vizier import pyvizier as vz

from optformer.convert import vizier as convert
from optformer.space import column_from_units
from optformer.study import Metric, Parameter, ParameterType, Problem, Scale, State, Study
from optformer.study import to_trials as trials_of
from optformer.tokenization.tokenizer import DEFAULT, RELEASED, StudyTokenizer

KINDS: list[dict] = [
    {"type": ParameterType.DOUBLE, "scale": Scale.LOG, "bounds": (1e-4, 1.0)},
    {"type": ParameterType.DOUBLE, "scale": Scale.LINEAR, "bounds": (0.0, 0.9)},
    {"type": ParameterType.INTEGER, "scale": Scale.LINEAR, "bounds": (1, 12)},
    {"type": ParameterType.DISCRETE, "values": (16.0, 32.0, 64.0, 128.0)},
    {"type": ParameterType.CATEGORICAL, "values": ("adam", "rmsprop", "sgd")},
    {"type": ParameterType.DOUBLE, "scale": Scale.REVERSE_LOG, "bounds": (0.1, 0.999)},
]


def random_study(parameters: int, trials: int, seed: int) -> Study:
    """A study with parameters of all kinds in turn; one trial in 20 is infeasible."""
    rng = np.random.default_rng(seed)
    chosen = [
        Parameter(name=f"{chr(97 + index)}{index}", **KINDS[index % len(KINDS)])
        for index in range(parameters)
    ]
    states_R = np.where(rng.random(trials) < 0.05, State.INFEASIBLE, State.COMPLETED)
    metrics_R = np.where(states_R == State.COMPLETED, rng.normal(size=trials), np.nan)
    return Study(
        problem=Problem(
            name=f"study-{seed}", parameters=tuple(chosen), metrics=(Metric(name="accuracy"),)
        ),
        values_RP=np.stack([column_from_units(p, rng.random(trials)) for p in chosen], axis=1),
        metrics_RM=metrics_R[:, None],
        states_R=states_R.astype(np.int8),
        algorithm="random_search",
    )


def encode(tokenizer: StudyTokenizer, study: Study) -> np.ndarray:
    """Our tokenizer: the problem's text, then all trials column by column."""
    problem = tokenizer.encode_problem(study.problem, study.algorithm)
    return tokenizer.encode_trials(study, problem).ids_T


def encode_in_a_loop(
    tokenizer: StudyTokenizer, study: Study, configs: list, trials: Sequence[vz.Trial]
) -> list[int]:
    """The straightforward way: trial by trial, parameter by parameter."""
    tokenizer.encode_problem(study.problem, study.algorithm)
    options, vocabulary = tokenizer.options, tokenizer.vocabulary
    scaling = tokenizer.fit_scalings(study)[0]
    star, bar = vocabulary.separators if options.separators else (None, None)
    ids = []
    for trial in trials:
        for config in configs:
            unit = _unit(config, trial.parameters.get_value(config.name), options.centred)
            number = unit if isinstance(unit, int) else min(int(unit * 1000), 999)
            ids.append(vocabulary.first_bin + number)
        if star is not None:
            ids.append(star)
        if trial.infeasible and options.statuses:
            ids.append(vocabulary.infeasible)
        else:
            value = scaling.low
            if not trial.infeasible:
                value = trial.final_measurement.metrics["accuracy"].value
            if options.single:
                offset = scaling.unit_low - scaling.slope * scaling.low
                unit = float(np.float32(value)) * scaling.slope + offset
            else:
                unit = scaling.unit_low + (value - scaling.low) * scaling.slope
            ids.append(vocabulary.first_bin + min(int(min(max(unit, 0.0), 1.0) * 1000), 999))
        if bar is not None:
            ids.append(bar)
    return ids


def _unit(config: vz.ParameterConfig, value: float | str, centred: bool) -> float | int:
    if config.type in (vz.ParameterType.DISCRETE, vz.ParameterType.CATEGORICAL):
        index = config.feasible_values.index(value)
        return (index + 0.5) / len(config.feasible_values) if centred else index
    low, high = config.bounds
    if centred and config.type == vz.ParameterType.INTEGER:
        low, high = low - 0.5, high + 0.5
    if config.scale_type == vz.ScaleType.LOG:
        return (np.log(value) - np.log(low)) / (np.log(high) - np.log(low))
    if config.scale_type == vz.ScaleType.REVERSE_LOG:
        return 1.0 - (np.log(low + (high - value)) - np.log(low)) / (np.log(high) - np.log(low))
    return (value - low) / (high - low)


def rate(run: Callable[[int], None], trials: int, studies: int, seconds: float) -> float:
    """Trials per second of processor time."""
    run(0)
    started, done = time.process_time(), 0
    while time.process_time() - started < seconds:
        run(done % studies)
        done += 1
    return done * trials / (time.process_time() - started)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", nargs="+", type=int, default=[2, 6, 20])
    parser.add_argument("--trials", nargs="+", type=int, default=[30, 100, 1000])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    options = parser.parse_args()
    table = Table(title="Trials per second on one core")
    for column in ("preset", "parameters", "trials per study", "ours", "loop", "ratio"):
        table.add_column(column, justify="left" if column == "preset" else "right")
    for name, preset in (("default", DEFAULT), ("released", RELEASED)):
        tokenizer = StudyTokenizer(preset)
        for parameters in options.parameters:
            for trials in options.trials:
                studies = [random_study(parameters, trials, seed) for seed in range(8)]
                spaces = [
                    list(convert.problem_to_vizier(study.problem).search_space.parameters)
                    for study in studies
                ]
                vizier = [
                    [convert.trial_to_vizier(study.problem, t) for t in trials_of(study)]
                    for study in studies
                ]

                def ours(at: int, tokenizer=tokenizer, studies=studies) -> list[int]:
                    return encode(tokenizer, studies[at])

                def loop(
                    at: int, tokenizer=tokenizer, studies=studies, spaces=spaces, vizier=vizier
                ) -> list[int]:
                    return encode_in_a_loop(tokenizer, studies[at], spaces[at], vizier[at])

                np.testing.assert_array_equal(ours(0), loop(0))
                fast, slow = (
                    rate(run, trials, len(studies), options.seconds) for run in (ours, loop)
                )
                table.add_row(
                    name,
                    str(parameters),
                    f"{trials:,}",
                    f"{fast:,.0f}",
                    f"{slow:,.0f}",
                    f"{fast / slow:,.0f}",
                )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
