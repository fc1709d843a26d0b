"""One study seen in many ways: parameter order, y range, text, pending trials, length.

Each is a choice that changes nothing about the study's meaning [OptFormer, section 4.4 and
appendix], except pending trials, which are there so that a model has met them.
"""

import dataclasses

import numpy as np

from optformer.study import State, Study
from optformer.tokenization import trajectory
from optformer.tokenization.metadata import OPTIMUM, UNKNOWN
from optformer.tokenization.quantize import ValueScaling
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials, StudyTokenizer
from optformer.tokenization.trajectory import Role

RANDOM_SEARCH = "random_search"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How often each change is made, as probabilities.

    Attributes:
      shuffle: parameters in a random order.
      names, values: the text keeps names, and bounds and values.
      algorithm: the text keeps the algorithm's name; otherwise it says `unknown`.
      prefix: metrics are scaled by the range of a random number of first trials, mapped to
        [0.2, 0.8], as at inference; otherwise by the whole study's range, mapped to a random
        interval of width 0.3 to 1, as in OptFormer.
      subset: a study of random search of which not all trials fit is shown by a random subset of
        them in a random order; otherwise by its first trials, as all others are, whose order is
        what there is to learn.
      pending: a study has pending trials; then each trial is one with probability up to 0.2.
    """

    shuffle: float = 1.0
    names: float = 0.5
    values: float = 0.5
    algorithm: float = 0.95
    prefix: float = 0.5
    subset: float = 1.0
    pending: float = 0.1


def augment(
    study: Study,
    tokenizer: StudyTokenizer,
    config: AugmentConfig,
    most_tokens: int,
    rng: np.random.Generator,
    most_text: int | None = None,
) -> tuple[EncodedProblem, EncodedTrials]:
    """The study as tokens, changed at random and cut to trials that fit.

    A text of more than `most_text` tokens loses bounds and values, then names too.
    """
    whole = study
    fit = tokenizer.layout(study.problem).trials_in(most_tokens)
    if _is_unordered(study) and len(study) > fit and rng.random() < config.subset:
        study = study.rows(rng.choice(len(study), fit, replace=False))
    study = study.rows(slice(0, fit))
    if rng.random() < config.pending:
        states_R = study.states_R.copy()
        states_R[rng.random(len(study)) < rng.uniform(0.0, 0.2)] = State.ACTIVE
        study = dataclasses.replace(study, states_R=states_R)
    algorithm = study.algorithm if rng.random() < config.algorithm else UNKNOWN
    order_P = np.arange(len(study.problem.parameters))
    if rng.random() < config.shuffle:
        order_P = trajectory.random_order(study.problem, rng)
    names, values = bool(rng.random() < config.names), bool(rng.random() < config.values)
    plainer = dict.fromkeys([(names, values), (names, False), (False, False)])
    for with_names, with_values in plainer:
        shown = dataclasses.replace(
            tokenizer.options.metadata, names=with_names, values=with_values
        )
        encoded = tokenizer.encode_problem(study.problem, algorithm, order_P=order_P, text=shown)
        if most_text is None or len(encoded.ids_S) <= most_text:
            break
    scalings = random_scalings(study, tokenizer, config, rng)
    trials = tokenizer.encode_trials(study, encoded, scalings)
    if study.algorithm == OPTIMUM:
        trials = _only_last_trial(trials, len(whole))
    return encoded, trials


def _is_unordered(study: Study) -> bool:
    """Whether any order of the trials is as likely as the one that they are in."""
    # Exact predictions are of a trial given those before it.
    return study.algorithm == RANDOM_SEARCH and study.predictive_R2 is None


def plain(
    study: Study,
    tokenizer: StudyTokenizer,
    most_tokens: int,
    unit_low: float = 0.2,
    unit_high: float = 0.8,
) -> tuple[EncodedProblem, EncodedTrials]:
    """The first trials that fit, as tokens; the range of a metric in them is at these units."""
    study = study.rows(slice(0, tokenizer.layout(study.problem).trials_in(most_tokens)))
    encoded = tokenizer.encode_problem(study.problem, study.algorithm)
    scalings = tokenizer.fit_scalings(study, unit_low, unit_high)
    return encoded, tokenizer.encode_trials(study, encoded, scalings)


def random_scalings(
    study: Study, tokenizer: StudyTokenizer, config: AugmentConfig, rng: np.random.Generator
) -> tuple[ValueScaling, ...]:
    """A random y map for each metric."""
    scalings = []
    for column in range(len(study.problem.metrics)):
        if rng.random() < config.prefix:
            # Early scales move most: half of all prefixes end in the first quarter or so.
            first = 1 + int((len(study) - 1) * rng.random() ** 2)
            scalings.append(tokenizer.fit_scaling(study.rows(slice(0, first)), column))
        else:
            width = rng.uniform(0.3, 1.0)  # [OptFormer, appendix]
            low = rng.uniform(0.0, 1.0 - width)
            scalings.append(tokenizer.fit_scaling(study, column, low, low + width))
    return tuple(scalings)


def _only_last_trial(trials: EncodedTrials, count: int) -> EncodedTrials:
    """Nothing to imitate but the study's last trial: those before were there to look at."""
    lesson_T = (trials.roles_T != Role.PARAMETER) | (trials.trials_T == count - 1)
    return dataclasses.replace(trials, weights_T=trials.weights_T * lesson_T)
