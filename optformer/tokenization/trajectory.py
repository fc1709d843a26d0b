"""The order of tokens in a trial, and the legal tokens at each step. No other module defines them.

Our own layout has D + M tokens a trial. It needs no separators, because the model receives each
token's slot:

    x=0.5, opt=adam, y=0.9  ->  <500> <250> <900>

The released layout, D + 3 tokens a trial [OptFormer, section 4.1]:

    x=0.5, opt=adam, y=0.9  ->  <500> <0> * <900> |

preceded, before the first trial, by the prefix that T5's text model adds to every text.

Array dimensions: P parameters, M metrics, L tokens of one trial, C conditions, O output tokens.
"""

import dataclasses
import enum

import numpy as np
from jaxtyping import Bool, Int, Int8, Int32, Int64, Shaped

from optformer.study import Parameter, ParameterType, Problem
from optformer.tokenization import quantize
from optformer.tokenization.vocabulary import NO_ID, Vocabulary


class Role(enum.IntEnum):
    """The kind of a token in a trajectory."""

    NOTHING = 0  # padding
    PARAMETER = 1
    VALUE = 2
    SEPARATOR = 3


METRIC_SLOTS = 4
"""Slots 1 to 4 belong to metrics, those above to parameters in their order; 0 to neither."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialLayout:
    """The positions of a trial's tokens.

    Attributes:
      parameters, metrics: numbers of tokens of each kind in a trial.
      separators: whether `*` precedes the metrics and `|` follows them.
      prefix: ids before the first trial.
    """

    parameters: int
    metrics: int
    separators: bool = False
    prefix: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """The number of tokens in a trial."""
        return self.parameters + self.metrics + 2 * self.separators

    @property
    def first_value(self) -> int:
        """The position of the first metric's token."""
        return self.parameters + self.separators

    def trials_in(self, tokens: int) -> int:
        """The number of trials that fit into `tokens` tokens, prefix included."""
        return max(0, (tokens // self.length * self.length - len(self.prefix)) // self.length)

    def tokens_of(self, trials: int) -> int:
        """The number of tokens of `trials` trials, prefix included."""
        return len(self.prefix) + trials * self.length

    def whole(self, tokens: int) -> int:
        """So many tokens, rounded up to those of whole trials."""
        return -(-tokens // self.length) * self.length

    def trial_of(self, place_N: Int64[np.ndarray, "*N"]) -> Int64[np.ndarray, "*N"]:
        """The trial, counted from 0, of each place of a trajectory; below 0 before the first."""
        return (place_N - len(self.prefix)) // self.length

    def trials_along(self, tokens: int) -> Int64[np.ndarray, " T"]:
        """The trial, counted from 0, of each of so many tokens of trials."""
        return self.trial_of(len(self.prefix) + np.arange(tokens))

    def rows_of(self, ids_T: Int[np.ndarray, " T"]) -> Int[np.ndarray, "R L"]:
        """The tokens of whole trials as a row for each."""
        return ids_T.reshape(-1, self.length)

    def parameters_of(self, ids_T: Int[np.ndarray, " T"]) -> Int[np.ndarray, "R P"]:
        """Of the tokens of whole trials, those of parameters."""
        return self.rows_of(ids_T)[:, : self.parameters]

    def values_of(self, array_T: Shaped[np.ndarray, "T ..."]) -> Shaped[np.ndarray, "R ..."]:
        """The elements at the first metrics, from elements for all tokens of trials; a view."""
        return array_T[self.first_value :: self.length]

    def roles(self) -> Int8[np.ndarray, " L"]:
        """The role of each token of a trial."""
        separator = [Role.SEPARATOR] * self.separators
        roles = [
            *([Role.PARAMETER] * self.parameters),
            *separator,
            *([Role.VALUE] * self.metrics),
            *separator,
        ]
        return np.array(roles, dtype=np.int8)

    def slots(self) -> Int32[np.ndarray, " L"]:
        """The slot of each token of a trial: the parameter or metric that it belongs to."""
        separator = [0] * self.separators
        slots = [
            *range(METRIC_SLOTS + 1, METRIC_SLOTS + 1 + self.parameters),
            *separator,
            *range(1, 1 + self.metrics),
            *separator,
        ]
        return np.array(slots, dtype=np.int32)

    def arrange(
        self,
        parameter_ids_RP: Int64[np.ndarray, "R P"],
        metric_ids_RM: Int64[np.ndarray, "R M"],
        vocabulary: Vocabulary,
    ) -> Int32[np.ndarray, "R L"]:
        """Trials as rows of token ids."""
        trials = len(parameter_ids_RP)
        columns = [parameter_ids_RP, metric_ids_RM]
        if self.separators:
            star, bar = (np.full((trials, 1), token) for token in vocabulary.separators)
            columns = [parameter_ids_RP, star, metric_ids_RM, bar]
        return np.concatenate(columns, axis=1).astype(np.int32)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LegalTokens:
    """The legal output tokens at each step of a trial before its first metric.

    The steps are the parameters in the study's order and, if the layout has separators, one more
    step with the separator as its only legal token.

    Attributes:
      tokens_PO: the legal tokens while the parameter is active.
      parent_PC: the step of each condition's parent; -1 for no condition.
      parent_tokens_PCO: the parent's tokens that meet the condition.
      inactive: the output token of an inactive parameter; -1 if there is none.
    """

    tokens_PO: Bool[np.ndarray, "P O"]
    parent_PC: Int32[np.ndarray, "P C"]
    parent_tokens_PCO: Bool[np.ndarray, "P C O"]
    inactive: int


def legal_tokens(
    problem: Problem,
    order_P: Int64[np.ndarray, " P"],
    layout: TrialLayout,
    vocabulary: Vocabulary,
    *,
    centred: bool = True,
) -> LegalTokens:
    """The legal tokens of a problem with its parameters in this order, parents first."""
    parameters = [problem.parameters[index] for index in order_P]
    step_of = {parameter.name: index for index, parameter in enumerate(parameters)}
    most_conditions = max(1, *(len(parameter.conditions) for parameter in parameters))
    count, outputs = layout.first_value, vocabulary.outputs
    tokens_PO = np.zeros((count, outputs), dtype=bool)
    parent_PC = np.full((count, most_conditions), -1, dtype=np.int32)
    parent_tokens_PCO = np.zeros((count, most_conditions, outputs), dtype=bool)
    first = vocabulary.first_bin - vocabulary.first_output
    for index, parameter in enumerate(parameters):
        legal_Q = quantize.value_bins(parameter, vocabulary.bins, centred=centred)
        tokens_PO[index, first : first + vocabulary.bins] = legal_Q
        for column, condition in enumerate(parameter.conditions):
            parent = problem.parameters[
                [p.name for p in problem.parameters].index(condition.parent)
            ]
            numbers = np.array([parent.to_number(value) for value in condition.values], np.float64)
            bins = quantize.to_parameter_bins(parent, numbers, vocabulary.bins, centred=centred)
            parent_PC[index, column] = step_of[condition.parent]
            parent_tokens_PCO[index, column, first + bins] = True
    if layout.separators:
        tokens_PO[-1, vocabulary.separators[0] - vocabulary.first_output] = True
    has_inactive = vocabulary.inactive != NO_ID
    return LegalTokens(
        tokens_PO=tokens_PO,
        parent_PC=parent_PC,
        parent_tokens_PCO=parent_tokens_PCO,
        inactive=vocabulary.inactive - vocabulary.first_output if has_inactive else NO_ID,
    )


def random_order(problem: Problem, rng: np.random.Generator) -> Int64[np.ndarray, " P"]:
    """A random order of the parameters in which parents come before their children."""
    rank_P = rng.random(len(problem.parameters))
    if not problem.is_conditional:
        return np.argsort(rank_P)
    # A child gets at least the rank of its parents, which come first in Problem.
    column = {parameter.name: index for index, parameter in enumerate(problem.parameters)}
    for index, parameter in enumerate(problem.parameters):
        for condition in parameter.conditions:
            rank_P[index] = max(rank_P[index], rank_P[column[condition.parent]])
    return np.argsort(rank_P, kind="stable")


def check_problem(problem: Problem, bins: int, *, plain: bool = False) -> str:
    """The reason that a problem cannot be expressed in tokens, or an empty string.

    Args:
      plain: the vocabulary has no statuses: no token for an inactive or missing value, and no
        place for a second metric.
    """
    if plain and problem.is_conditional:
        return "conditional parameters have no tokens without options.statuses"
    if plain and len(problem.metrics) > 1:
        return f"{len(problem.metrics)} metrics have no tokens without options.statuses; keep one"
    if len(problem.metrics) > METRIC_SLOTS:
        return f"{len(problem.metrics)} metrics are more than the {METRIC_SLOTS} that fit a trial"
    reasons = (value_error(parameter, bins, plain=plain) for parameter in problem.parameters)
    return next(filter(None, reasons), "")


def value_error(parameter: Parameter, bins: int, *, plain: bool = False) -> str:
    """Why a parameter's values cannot be said in tokens, or an empty string.

    Args:
      plain: the index of a value is its bin, of numbers as of categories.
    """
    few = plain or parameter.type == ParameterType.CATEGORICAL
    if few and len(parameter.values) > bins:
        return (
            f"parameter {parameter.name!r} has {len(parameter.values)} values, but there are "
            f"{bins} bins; use more bins, or make it DOUBLE or INTEGER"
        )
    return ""
