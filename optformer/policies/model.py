"""OptFormer: a trained model as an optimizer. Trials in, suggestions out; predictions on request.

    model = optformer.load("checkpoint")
    suggestions = model.suggest(problem, trials, count=3)

Array dimensions: B studies, N candidates, P parameters, R trials, Q bins.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64, Int64

from optformer import checkpoint
from optformer.errors import ConfigError, StudyError
from optformer.model.config import most_parameters
from optformer.model.decode import Engine, History, Rules
from optformer.model.transformer import Ids
from optformer.policies import acquisition
from optformer.policies.acquisition import Acquisition
from optformer.policies.objectives import scalarize
from optformer.study import Problem, State, Study
from optformer.tokenization import quantize
from optformer.tokenization.metadata import UNKNOWN
from optformer.tokenization.quantize import ValueScaling
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials, StudyTokenizer

if TYPE_CHECKING:
    from vizier import pyvizier as vz

PREFERENCE = (
    "gp_ucb",
    "cma_es",
    "tpe",
    "eagle_strategy",
    "regularized_evolution",
    "hill_climbing",
    "quasi_random",
    "random_search",
)
"""Whom to imitate if nobody is named, best first."""

SESSIONS = 32
"""How many studies' histories an OptFormer keeps; the one used longest ago goes first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How suggestions are made.

    Attributes:
      algorithm: the teacher that the prompt names; None for the best that the model has seen
        (`PREFERENCE`).
      acquisition: what ranks the candidates; `prior` takes a sample of the model as it is.
      candidates: samples of the model that are ranked.
      uniform: random points that are ranked beside them.
      local: points near the best trials so far that are ranked beside them.
      zoom: the share of the completed trials, the worst ones, whose metrics the scale need not
        hold: the model then tells the better ones apart more finely.
      temperature: of the samples; below 1 they stay closer to the likeliest.
      value_temperature: of the predicted metric; above 1 it is less sure.
    """

    algorithm: str | None = None
    acquisition: Acquisition = "ei"
    candidates: int = 100
    uniform: int = 0
    local: int = 0
    zoom: float = 0.0
    temperature: float = 1.0
    value_temperature: float = 1.0

    def __post_init__(self) -> None:
        for field in ("temperature", "value_temperature"):
            if not getattr(self, field) > 0:
                raise ConfigError(f"{field}={getattr(self, field)} must be above 0.")
        if not 0.0 <= self.zoom < 1.0:
            raise ConfigError(f"zoom={self.zoom} must lie in [0, 1).")
        numbers = (self.candidates, self.uniform, self.local)
        if min(numbers) < 0 or sum(numbers) < 1:
            raise ConfigError(
                f"candidates={self.candidates}, uniform={self.uniform} and local={self.local} "
                "leave nothing to rank."
            )


class OptFormer:
    """A model that optimizes. Safe to use from several threads: one suggestion at a time."""

    def __init__(self, saved: checkpoint.Checkpoint) -> None:
        self.tokenizer: StudyTokenizer = saved.tokenizer
        self.config = saved.config
        self.about = saved.about
        self.algorithms = saved.algorithms
        self.most_tokens = saved.tokens
        self.engine = Engine(saved.weights, saved.config, Ids.of(saved.tokenizer.vocabulary))
        self._sessions: OrderedDict[tuple, Session] = OrderedDict()
        self._lock = threading.Lock()

    def suggest(
        self,
        problem: "vz.ProblemStatement",
        trials: Sequence["vz.Trial"] = (),
        count: int = 1,
        *,
        policy: PolicyConfig | None = None,
        seed: int | None = None,
    ) -> "list[vz.TrialSuggestion]":
        """Suggestions for the next trials of a study, each seeing those before it as pending.

        Args:
          trials: the study so far, in order; active ones count as pending.
          seed: the same seed, model and trials give the same suggestions.

        Raises:
          StudyError: a problem or trial that breaks a rule, or that the model cannot express.
        """
        from optformer import pyvizier

        ours = pyvizier.problem_from_vizier(problem)
        return self.suggest_next(ours, trials, count, policy=policy, seed=seed)

    def suggest_next(
        self,
        problem: Problem,
        trials: Sequence["vz.Trial"],
        count: int,
        *,
        policy: PolicyConfig | None = None,
        seed: int | None = None,
    ) -> "list[vz.TrialSuggestion]":
        """As `suggest`, for a problem that is converted already; its name keeps studies apart."""
        from optformer import pyvizier

        study = pyvizier.study_from_vizier(problem, trials)
        values_NP = self.propose(study, count, policy=policy, seed=seed)
        return [pyvizier.suggestion_to_vizier(problem, values_P) for values_P in values_NP]

    def propose(
        self,
        study: Study,
        count: int = 1,
        *,
        policy: PolicyConfig | None = None,
        seed: int | None = None,
    ) -> Float64[np.ndarray, "N P"]:
        """The same as columns, as in `Study.values_RP`. Histories of recent studies are kept.

        Of several objectives, each suggestion improves one random combination (`scalarize`).
        """
        policy = policy or PolicyConfig()
        if len(study.problem.objectives) > 1:
            rng = np.random.default_rng(seed)
            chosen = np.empty((count, len(study.problem.parameters)))
            for number in range(count):
                single = scalarize(study, rng)
                one = int(rng.integers(2**31))
                [chosen[number]] = self.propose(single, policy=policy, seed=one)
                study = with_pending(study, chosen[number])
            return chosen
        key = (study.problem, self.teacher(policy.algorithm))
        with self._lock:
            session = self._sessions.pop(key, None) or Session(self, [key])
            self._sessions[key] = session
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
            return session.propose([study], count, policy, [np.random.default_rng(seed)])[0]

    def teacher(self, algorithm: str | None) -> str:
        """The name to prompt with: the given one, or the best that the model has seen.

        Raises:
          ConfigError: a name that the model has not seen in training.
        """
        if algorithm is None:
            preferred = [name for name in PREFERENCE if name in self.algorithms]
            return (preferred or [*self.algorithms, UNKNOWN])[0]
        if algorithm != UNKNOWN:
            checkpoint.check_prompt(algorithm, self.algorithms)
        return algorithm

    def predict(
        self,
        study: Study,
        values_NP: Float64[np.ndarray, "N P"],
        *,
        algorithm: str = UNKNOWN,
        value_temperature: float = 1.0,
    ) -> tuple[Float64[np.ndarray, "N Q"], ValueScaling]:
        """The distribution of the first metric at each point, given the study's trials.

        Returns:
          Probabilities over Q bins, and the scaling that places [0, 1], cut into those bins, on
          the metric's axis (in units of the metric, larger better).
        """
        with self._lock:
            session = Session(self, [(study.problem, algorithm)])
            return session.predict(study, values_NP, value_temperature)


class Session:
    """B studies in progress: what the model has read of them is kept between suggestions.

    Args:
      keys: problem and algorithm of each study.
    """

    def __init__(self, model: OptFormer, keys: Sequence[tuple[Problem, str]]) -> None:
        self._model = model
        tokenizer = model.tokenizer
        for problem, _ in keys:
            check_problem(problem, most_parameters(model.config))
        self._problems: list[EncodedProblem] = [
            tokenizer.encode_problem(problem, algorithm) for problem, algorithm in keys
        ]
        self._rules: Rules = model.engine.rules(
            [tokenizer.legal_tokens(encoded) for encoded in self._problems], self._problems
        )
        self._history: History | None = None
        self._read: list[Int64[np.ndarray, " T"]] = []

    def propose(
        self,
        studies: Sequence[Study],
        count: int,
        policy: PolicyConfig,
        rngs: Sequence[np.random.Generator],
    ) -> list[Float64[np.ndarray, "N P"]]:
        """`count` suggestions for each study, which depend on no other study."""
        studies = [self._fit(row, study, count) for row, study in enumerate(studies)]
        chosen: list[list[np.ndarray]] = [[] for _ in studies]
        scalings = [
            self._model.tokenizer.fit_scalings(without_worst(study, policy.zoom))
            for study in studies
        ]
        for _ in range(count):
            encoded = self._encode(studies, scalings)
            self._update(encoded)
            for row, values_P in enumerate(self._next(studies, scalings, policy, rngs)):
                chosen[row].append(values_P)
                studies[row] = with_pending(studies[row], values_P)
        return [np.array(rows).reshape(count, -1) for rows in chosen]

    def predict(
        self, study: Study, values_NP: Float64[np.ndarray, "N P"], value_temperature: float
    ) -> tuple[Float64[np.ndarray, "N Q"], ValueScaling]:
        """As `OptFormer.predict`, for a session of one study."""
        tokenizer = self._model.tokenizer
        study = self._fit(0, study, 1)
        scalings = tokenizer.fit_scalings(study)
        self._update(self._encode([study], [scalings]))
        order_P = self._problems[0].order_P
        ids_NP = tokenizer.parameter_ids(study.problem, values_NP)[:, order_P]
        given_BNP = ids_NP[None] - tokenizer.vocabulary.first_output
        assert self._history is not None
        _, logits_BNO = self._model.engine.rollout(
            self._history, self._rules, given_BNP, 1.0, np.zeros(1, np.int64)
        )
        return bin_probabilities(logits_BNO[0], tokenizer, value_temperature), scalings[0]

    def _fit(self, row: int, study: Study, count: int) -> Study:
        """As much of the study as the model has learned to read, with room for `count` more."""
        length = self._problems[row].layout.length
        return shorten(study, max(1, self._model.most_tokens // length - count))

    def _encode(
        self, studies: Sequence[Study], scalings: Sequence[tuple[ValueScaling, ...]]
    ) -> list[EncodedTrials]:
        return [
            self._model.tokenizer.encode_trials(study, problem, scaling)
            for study, problem, scaling in zip(studies, self._problems, scalings, strict=True)
        ]

    def _update(self, encoded: Sequence[EncodedTrials]) -> None:
        """Reads what is new, and those studies again of which something read has changed since."""
        engine = self._model.engine
        ids = [trials.ids_T for trials in encoded]
        changed = [
            row
            for row, (old_T, new_T) in enumerate(zip(self._read, ids, strict=False))
            if not np.array_equal(old_T, new_T[: len(old_T)])
        ]
        if self._history is None or 2 * len(changed) > len(ids):
            self._history = engine.read(self._problems, encoded)
            self._read = ids
            return
        if changed:
            problems = [self._problems[row] for row in changed]
            again = [encoded[row] for row in changed]
            self._history = engine.reread(self._history, problems, again, changed)
            for row in changed:
                self._read[row] = ids[row]
        if any(len(old) < len(new) for old, new in zip(self._read, ids, strict=True)):
            added = [
                _after(trials, len(old)) for trials, old in zip(encoded, self._read, strict=True)
            ]
            self._history = engine.extend(self._history, self._problems, added)
        self._read = ids

    def _next(
        self,
        studies: Sequence[Study],
        scalings: Sequence[tuple[ValueScaling, ...]],
        policy: PolicyConfig,
        rngs: Sequence[np.random.Generator],
    ) -> list[Float64[np.ndarray, " P"]]:
        """One suggestion for each study."""
        ranked = policy.acquisition != "prior"
        sampled = policy.candidates if ranked else 1
        total = sampled + (policy.uniform + policy.local if ranked else 0)
        most = max(len(problem.order_P) for problem in self._problems)
        given_BNP = np.full((len(studies), total, most), -1)
        tokenizer = self._model.tokenizer
        for row, problem in enumerate(self._problems):
            if total > sampled:
                units_NP = np.concatenate(
                    [
                        rngs[row].random((policy.uniform, len(problem.order_P))),
                        units_near_best(studies[row], policy.local, rngs[row]),
                    ]
                )
                ids_NP = ids_of_units(problem, tokenizer, units_NP)
                given_BNP[row, sampled:, : ids_NP.shape[1]] = ids_NP
        assert self._history is not None
        seeds_B = np.array([rng.integers(2**31) for rng in rngs])
        tokens_BNP, logits_BNO = self._model.engine.rollout(
            self._history, self._rules, given_BNP, policy.temperature, seeds_B
        )
        suggestions = []
        for row, (study, problem) in enumerate(zip(studies, self._problems, strict=True)):
            ids_NP = tokens_BNP[row, :, : len(problem.order_P)] + tokenizer.vocabulary.first_output
            index = 0
            if ranked:
                scaling = scalings[row][0]
                probabilities_NQ = bin_probabilities(
                    logits_BNO[row], tokenizer, policy.value_temperature
                )
                best = incumbent(study, scaling)
                scores_N = acquisition.score(policy.acquisition, probabilities_NQ, best, rngs[row])
                known = tokenizer.parameter_ids(study.problem, study.values_RP)
                index = best_new(scores_N, ids_NP, known[:, problem.order_P])
            suggestions.append(tokenizer.decode_parameters(problem, ids_NP[[index]], rngs[row])[0])
        return suggestions


def load(path: str | Path) -> OptFormer:
    """The model of a checkpoint folder, or of the name of one that comes with the package.

    Raises:
      CheckpointError: it is missing, damaged, or does not fit its vocabulary or this version.
    """
    return OptFormer(checkpoint.load(Path(path)))


def check_problem(problem: Problem, most: int) -> None:
    """Refuses what the model cannot optimize.

    Raises:
      StudyError: more than one objective, an objective that is not the first metric, or more
        parameters than the model has slots for.
    """
    if len(problem.objectives) != 1 or problem.metrics[0] != problem.objectives[0]:
        names = [metric.name for metric in problem.objectives]
        raise StudyError(
            f"problem {problem.name!r} has the objectives {names}. It takes one, listed "
            "before metrics with a safety threshold: add them up, or choose one."
        )
    if len(problem.parameters) > most:
        raise StudyError(
            f"problem {problem.name!r} has {len(problem.parameters)} parameters; this model takes "
            f"{most}. Train one with more model.slots, or fix some of them."
        )


def incumbent(study: Study, scaling: ValueScaling) -> float:
    """The best completed trial's objective on the bins' axis; 0 where there is none."""
    completed_R = study.states_R == State.COMPLETED
    units_R = scaling.to_units(study.metrics_RM[completed_R, 0])
    return float(np.nanmax(units_R, initial=0.0))


def shorten(study: Study, most: int) -> Study:
    """The study, or if it has more than `most` trials, those that say most, in their order.

    Half of the room is for the newest (which are where the search is, and pending ones are among
    them), a quarter for the best, and the rest for trials spread evenly over the others.
    """
    trials = len(study)
    if trials <= most:
        return study
    newest = np.arange(trials - most // 2, trials)
    ranked = np.argsort(np.nan_to_num(-study.objective(), nan=np.inf), kind="stable")
    best = [row for row in ranked if row < trials - most // 2][: most // 4]
    others = np.setdiff1d(np.arange(trials), np.concatenate([newest, best]))
    room = most - len(newest) - len(best)
    spread = others[np.linspace(0, len(others) - 1, room).round().astype(np.int64)]
    return study.rows(np.sort(np.concatenate([newest, best, spread]).astype(np.int64)))


def without_worst(study: Study, share: float) -> Study:
    """The study without this share of its completed trials; five stay."""
    goal_R = study.objective()
    completed_R = np.flatnonzero(np.isfinite(goal_R))
    leave = min(int(share * len(completed_R)), len(completed_R) - 5)
    if leave <= 0:
        return study
    worst = completed_R[np.argsort(goal_R[completed_R], kind="stable")[:leave]]
    return study.rows(np.setdiff1d(np.arange(len(study)), worst))


def with_pending(study: Study, values_P: Float64[np.ndarray, " P"]) -> Study:
    """The study with one more trial, active at these values."""
    unknown_1M = np.full((1, len(study.problem.metrics)), np.nan)
    return Study(
        problem=study.problem,
        values_RP=np.concatenate([study.values_RP, values_P[None]]),
        metrics_RM=np.concatenate([study.metrics_RM, unknown_1M]),
        states_R=np.append(study.states_R, np.int8(State.ACTIVE)).astype(np.int8),
        algorithm=study.algorithm,
    )


def bin_probabilities(
    logits_NO: Float[np.ndarray, "N O"], tokenizer: StudyTokenizer, temperature: float
) -> Float64[np.ndarray, "N Q"]:
    """Probabilities of the bins; they sum to 1 less the chance of an infeasible trial, if any."""
    vocabulary = tokenizer.vocabulary
    first = vocabulary.first_bin - vocabulary.first_output
    stop = first + vocabulary.bins + bool(vocabulary.statuses)
    outcomes_NO = logits_NO[:, first:stop].astype(np.float64)
    scaled_NO = (outcomes_NO - outcomes_NO.max(axis=1, keepdims=True)) / temperature
    shares_NO = np.exp(scaled_NO)
    return shares_NO[:, : vocabulary.bins] / shares_NO.sum(axis=1, keepdims=True)


def ids_of_units(
    problem: EncodedProblem, tokenizer: StudyTokenizer, units_NP: Float64[np.ndarray, "N P"]
) -> Int64[np.ndarray, "N P"]:
    """Output tokens of points of the unit cube; inactive parameters are left to the rules."""
    values_NP = np.stack(
        [
            quantize.from_units(parameter, units_N)
            for parameter, units_N in zip(problem.problem.parameters, units_NP.T, strict=True)
        ],
        axis=1,
    )
    ids_NP = tokenizer.parameter_ids(problem.problem, values_NP) - tokenizer.vocabulary.first_output
    active_NP = problem.problem.active(values_NP)
    inactive = tokenizer.vocabulary.inactive - tokenizer.vocabulary.first_output
    return np.where(active_NP, ids_NP, inactive)[:, problem.order_P]


def units_near_best(
    study: Study, count: int, rng: np.random.Generator
) -> Float64[np.ndarray, "N P"]:
    """Points of the unit cube around the best three completed trials; at random without any.

    Each is moved by a normal step of its own size, from 0.003 to 0.3 of a parameter's range, in
    about half of the parameters and at least one.
    """
    problem = study.problem
    shape = count, len(problem.parameters)
    goal = study.objective()
    done_R = np.flatnonzero(np.isfinite(goal))
    if not len(done_R):
        return rng.random(shape)
    best_K = done_R[np.argsort(-goal[done_R], kind="stable")[:3]]
    from_KP = np.stack(
        [
            quantize.to_units(parameter, study.values_RP[best_K, column])
            for column, parameter in enumerate(problem.parameters)
        ],
        axis=1,
    )
    # An inactive parameter has no place of its own.
    from_KP = np.where(np.isfinite(study.values_RP[best_K]), from_KP, rng.random(from_KP.shape))
    start_NP = from_KP[rng.integers(len(best_K), size=count)]
    moved_NP = rng.random(shape) < 0.5
    moved_NP[np.arange(count), rng.integers(shape[1], size=count)] = True
    size_N1 = np.exp(rng.uniform(np.log(0.003), np.log(0.3), (count, 1)))
    step_NP = np.where(moved_NP, size_N1 * rng.standard_normal(shape), 0.0)
    # Reflected, so that borders get no more than their share.
    return 1.0 - np.abs(1.0 - np.abs(start_NP + step_NP) % 2.0)


def best_new(
    scores_N: Float64[np.ndarray, " N"],
    ids_NP: Int64[np.ndarray, "N P"],
    known_RP: Int64[np.ndarray, "R P"],
) -> int:
    """The best candidate that is no repeat of a known trial, or of all if every one is."""
    known = {row.tobytes() for row in known_RP}
    new_N = np.array([row.tobytes() not in known for row in ids_NP])
    return int(np.argmax(np.where(new_N, scores_N, -np.inf) if new_N.any() else scores_N))


def _after(trials: EncodedTrials, length: int) -> EncodedTrials:
    """The tokens from `length` on."""
    return dataclasses.replace(
        trials,
        ids_T=trials.ids_T[length:],
        roles_T=trials.roles_T[length:],
        slots_T=trials.slots_T[length:],
        trials_T=trials.trials_T[length:],
        weights_T=trials.weights_T[length:],
        predictive_T2=trials.predictive_T2[length:],
    )
