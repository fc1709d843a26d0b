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
from jaxtyping import Float, Float32, Float64, Int64

from optformer.errors import ConfigError, StudyError
from optformer.model import checkpoint, experts, predictive
from optformer.model.config import ModelConfig, most_parameters
from optformer.model.decode import Engine, History, Rules
from optformer.model.experts import Posterior, read_trials
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.policies import acquisition
from optformer.policies.acquisition import Acquisition
from optformer.policies.candidates import (
    best_new,
    centre,
    ids_of_units,
    sift,
    units_near_best,
    units_of_ids,
)
from optformer.policies.objectives import scalarize
from optformer.policies.trust import TrustRegion, everywhere, in_cube
from optformer.study import Problem, State, Study
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

STALLED = 0.02
"""Of how much the best trial is above the lower quartile: less is no improvement worth the name."""

DOUBT = 2.0
"""A search that has stalled multiplies the value temperature by this."""

SESSIONS = 64
"""How many studies' histories an OptFormer keeps; the one used longest ago goes first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """How suggestions are made.

    Attributes:
      algorithm: the teacher that the prompt names; None for the best that the model has seen
        (`PREFERENCE`).
      acquisition: what ranks the candidates, from a study's second trial on (`candidates.centre` is
        the first); `prior` takes a sample of the model as it is.
      candidates: samples of the model that are ranked.
      uniform: random points that are ranked beside them.
      local: points near the best trials so far that are ranked beside them.
      sifted: of the random and local points, only so many are ranked if the model has experts
        (`model/experts.py`): those of which the experts expect most.
      trust_region: whether a young study's suggestions stay near its measured trials
        (`policies/trust.py`).
      temperature: of the samples; below 1 they stay closer to the likeliest.
      value_temperature: of the predicted metric; above 1 it is less sure. None for the one at
        which the checkpoint was found to be calibrated, but not below 1.
      patience: if so many measured trials in a row, whoever chose them, have not improved the
        best one (`STALLED`), predictions are believed less (`DOUBT`), so that the search looks
        elsewhere; 0 for never.
    """

    algorithm: str | None = None
    acquisition: Acquisition = "ei"
    candidates: int = 100
    uniform: int = 400
    local: int = 200
    sifted: int = 28
    trust_region: bool = True
    temperature: float = 1.0
    value_temperature: float | None = None
    patience: int = 5

    def __post_init__(self) -> None:
        for field in ("temperature", "value_temperature"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ConfigError(f"{field}={value} must be above 0.")
        if self.patience < 0:
            raise ConfigError(f"patience={self.patience} must not be below 0; 0 switches it off.")
        numbers = (self.candidates, self.uniform, self.local)
        if min(numbers) < 0 or sum(numbers) < 1 or self.sifted < 1:
            raise ConfigError(
                f"candidates={self.candidates}, uniform={self.uniform}, local={self.local} and "
                f"sifted={self.sifted} leave nothing to rank."
            )

    def doubt(self, values_R: Float64[np.ndarray, " R"]) -> float:
        """What the value temperature is multiplied by after these metrics, larger better."""
        if not 0 < self.patience < len(values_R):
            return 1.0
        best = values_R.max()
        # Not of the whole range: a few very bad ones make no search a stalled one.
        least = STALLED * (best - np.quantile(values_R, 0.25))
        return DOUBT if best - values_R[: -self.patience].max() <= least else 1.0

    def region(self, study: Study) -> TrustRegion:
        """Where the study's next suggestions may lie."""
        return TrustRegion.of(study) if self.trust_region else everywhere(study.problem)


class OptFormer:
    """A model that optimizes. Safe to use from several threads."""

    def __init__(self, saved: Checkpoint) -> None:
        self.tokenizer: StudyTokenizer = saved.tokenizer
        self.config = saved.config
        self.about = saved.about
        self.algorithms = saved.algorithms
        self.most_tokens = saved.tokens
        self.value_temperature = saved.value_temperature
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
        from optformer.convert import vizier as convert

        ours = convert.problem_from_vizier(problem)
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
        from optformer.convert import vizier as convert

        study = convert.study_from_vizier(problem, trials)
        values_NP = self.propose(study, count, policy=policy, seed=seed)
        return [convert.suggestion_to_vizier(problem, values_P) for values_P in values_NP]

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
        # A session in use is nobody else's: threads share the model, not what it has read.
        with self._lock:
            session = self._sessions.pop(key, None)
        session = session or Session(self, [key])
        [values_NP] = session.propose([study], count, policy, [np.random.default_rng(seed)])
        with self._lock:
            self._sessions[key] = session
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return values_NP

    def warmup(
        self,
        problems: Sequence[Problem | int],
        trials: int | None = None,
        *,
        policy: PolicyConfig | None = None,
        keep: Path | None = None,
    ) -> None:
        """Compiles ahead all that suggestions for such studies take, so that none waits for it.

        Args:
          problems: problems, or numbers of parameters that are described in a few words. What was
            compiled serves all whose text and trials are of the same size classes.
          trials: how many a study will have; None for all that the model has learned to read.
          keep: a folder for what was compiled, from which the same machine's next process takes it.
        """
        from optformer.policies.warmup import warm_up

        with self._lock:
            warm_up(self, problems, trials, policy or PolicyConfig(), keep)

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
        value_temperature: float | None = None,
    ) -> tuple[Float64[np.ndarray, "N Q"], ValueScaling]:
        """The distribution of the first metric at each point, given the study's trials.

        Args:
          algorithm: who is said to choose the trials.
          value_temperature: above 1 it is less sure; None for the checkpoint's.

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
        """`count` suggestions for each study, which depend on no other study.

        Raises:
          ConfigError: the policy's acquisition is none for this model.
        """
        check_acquisition(policy.acquisition, self._model.config)
        regions = [policy.region(study) for study in studies]
        studies = [self._fit(row, study, count) for row, study in enumerate(studies)]
        chosen: list[list[np.ndarray]] = [[] for _ in studies]
        scalings = [self._model.tokenizer.fit_scalings(study) for study in studies]
        for _ in range(count):
            encoded = self._encode(studies, scalings)
            self._update(encoded)
            for row, values_P in enumerate(self._next(studies, scalings, regions, policy, rngs)):
                chosen[row].append(values_P)
                studies[row] = with_pending(studies[row], values_P)
        return [np.array(rows).reshape(count, -1) for rows in chosen]

    def predict(
        self,
        study: Study,
        values_NP: Float64[np.ndarray, "N P"],
        value_temperature: float | None = None,
        scaling: ValueScaling | None = None,
    ) -> tuple[Float64[np.ndarray, "N Q"], ValueScaling]:
        """As `OptFormer.predict`, for a session of one study.

        Args:
          scaling: of the first metric, in place of the one that the study's values give.
        """
        candidates, used = self._candidates(study, values_NP, scaling)
        return candidates.probabilities(value_temperature), used

    def score(
        self,
        study: Study,
        values_NP: Float64[np.ndarray, "N P"],
        policy: PolicyConfig,
        rng: np.random.Generator,
    ) -> Float64[np.ndarray, " N"]:
        """How the policy ranks these points, for a session of one study.

        By the acquisition's values; outside the trust region by numbers below all of them.

        Raises:
          ConfigError: the policy's acquisition is none for this model, or ranks nothing.
        """
        check_acquisition(policy.acquisition, self._model.config)
        candidates, _ = self._candidates(study, values_NP)
        scores_N = candidates.score(policy, rng)
        units_NP = in_cube(study.problem.parameters, values_NP)
        return policy.region(study).inside_first(scores_N, units_NP)

    def _candidates(
        self,
        study: Study,
        values_NP: Float64[np.ndarray, "N P"],
        scaling: ValueScaling | None = None,
    ) -> tuple["_Candidates", ValueScaling]:
        """What the model says of these points, in a session of one study, and the scaling."""
        tokenizer = self._model.tokenizer
        study = self._fit(0, study, 1)
        scalings = tokenizer.fit_scalings(study)
        if scaling is not None:
            scalings = (scaling, *scalings[1:])
        self._update(self._encode([study], [scalings]))
        order_P = self._problems[0].order_P
        ids_NP = tokenizer.parameter_ids(study.problem, values_NP)[:, order_P]
        given_BNP = ids_NP[None] - tokenizer.vocabulary.first_output
        assert self._history is not None
        _, logits_BNO, hidden_BND = self._model.engine.rollout(
            self._history, self._rules, given_BNP, 1.0, np.zeros(1, np.int64)
        )
        [posterior] = self._posteriors([study], [scalings])
        values_R = measured(study, scalings[0])
        said = logits_BNO[0], hidden_BND[0]
        return _Candidates(self._model, values_R, given_BNP[0], *said, posterior), scalings[0]

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
            if engine.is_short(self._problems, added):
                self._history = engine.extend(self._history, self._problems, added)
            else:
                self._history = engine.read(self._problems, encoded)
        self._read = ids

    def _next(
        self,
        studies: Sequence[Study],
        scalings: Sequence[tuple[ValueScaling, ...]],
        regions: Sequence[TrustRegion],
        policy: PolicyConfig,
        rngs: Sequence[np.random.Generator],
    ) -> list[Float64[np.ndarray, " P"]]:
        """One suggestion for each study."""
        ranked = policy.acquisition != "prior"
        sampled = policy.candidates if ranked else 1
        engine, tokenizer = self._model.engine, self._model.tokenizer
        values = [
            measured(study, scaling[0]) for study, scaling in zip(studies, scalings, strict=True)
        ]
        posteriors = self._posteriors(studies, scalings) if ranked else [None] * len(studies)
        extra = [
            self._extra_points(
                row, study, posteriors[row], incumbent(values[row]), regions[row], policy, rngs[row]
            )
            for row, study in enumerate(studies if ranked else [])
        ]
        most = max(len(problem.order_P) for problem in self._problems)
        # Always as many, so that a study's suggestions do not depend on those beside it: where
        # there are fewer points, the model samples more.
        points = policy.uniform + policy.local
        more = min(points, policy.sifted) if self._model.config.experts else points
        given_BNP = np.full((len(studies), sampled + (more if ranked else 0), most), -1)
        for row, ids_NP in enumerate(extra):
            given_BNP[row, sampled : sampled + len(ids_NP), : ids_NP.shape[1]] = ids_NP
        assert self._history is not None
        seeds_B = np.array([rng.integers(2**31) for rng in rngs])
        tokens_BNP, logits_BNO, hidden_BND = engine.rollout(
            self._history, self._rules, given_BNP, policy.temperature, seeds_B
        )
        suggestions = []
        for row, (study, problem) in enumerate(zip(studies, self._problems, strict=True)):
            own_NP = tokens_BNP[row, :, : len(problem.order_P)]
            ids_NP = own_NP + tokenizer.vocabulary.first_output
            index = 0
            if ranked:
                said = logits_BNO[row], hidden_BND[row]
                candidates = _Candidates(self._model, values[row], own_NP, *said, posteriors[row])
                scores_N = candidates.score(policy, rngs[row])
                values_NQ = tokenizer.decode_parameters(problem, ids_NP)
                units_NQ = in_cube(study.problem.parameters, values_NQ)
                scores_N = regions[row].inside_first(scores_N, units_NQ)
                known = tokenizer.parameter_ids(study.problem, study.values_RP)
                index = best_new(scores_N, ids_NP, known[:, problem.order_P])
            [values_P] = tokenizer.decode_parameters(problem, ids_NP[[index]], rngs[row])
            # An empty study has nothing to rank by.
            begins = ranked and not len(study)
            suggestions.append(centre(study.problem, values_P, rngs[row]) if begins else values_P)
        return suggestions

    def _posteriors(
        self, studies: Sequence[Study], scalings: Sequence[tuple[ValueScaling, ...]]
    ) -> list[Posterior | None]:
        """What the experts know of each study, from the tokens that were read of it; but values
        are not rounded to bins, so that the best ones can be told apart."""
        if not self._model.config.experts:
            return [None] * len(self._read)
        tokenizer, vocabulary = self._model.tokenizer, self._model.tokenizer.vocabulary
        made: list[Posterior | None] = []
        for study, scaling, problem, ids_T in zip(
            studies, scalings, self._problems, self._read, strict=True
        ):
            units_RP, rounded_R, ordered_P = read_trials(problem, ids_T, tokenizer)
            layout = problem.layout
            metric_R = study.metrics_RM[:, 0]
            if not tokenizer.options.statuses:
                metric_R = metric_R[study.states_R != State.ACTIVE]
            made.append(
                experts.condition(
                    units_RP,
                    np.where(np.isfinite(rounded_R), scaling[0].to_units(metric_R), np.nan),
                    ids_T[layout.first_value :: layout.length] == vocabulary.pending,
                    ordered_P,
                    vocabulary.bins,
                )
            )
        return made

    def _extra_points(
        self,
        row: int,
        study: Study,
        posterior: Posterior | None,
        best: float,
        region: TrustRegion,
        policy: PolicyConfig,
        rng: np.random.Generator,
    ) -> Int64[np.ndarray, "N P"]:
        """Output tokens of points to rank beside the model's own samples."""
        problem, tokenizer = self._problems[row], self._model.tokenizer
        units_NP = np.concatenate(
            [
                region.draw(policy.uniform, rng),
                units_near_best(study, policy.local, rng),
            ]
        )
        ids_NP = ids_of_units(problem, tokenizer, units_NP)
        if posterior is None or not len(ids_NP):
            return ids_NP
        weights_G = self._model.engine.weigh_untold(posterior.evidence_E)
        return sift(
            ids_NP,
            min(policy.sifted, len(ids_NP)),
            posterior,
            weights_G,
            best,
            problem,
            tokenizer,
            region,
            rng,
        )


class _Candidates:
    """What a model says of points of one study.

    Args:
      values_R: the study's measured metrics on the bins' axis.
      ids_NP: their output tokens.
      logits_NO, hidden_ND: what the engine's `rollout` says of them.
      posterior: the study's, where the model has experts.
    """

    def __init__(
        self,
        model: OptFormer,
        values_R: Float64[np.ndarray, " R"],
        ids_NP: Int64[np.ndarray, "N P"],
        logits_NO: Float32[np.ndarray, "N O"],
        hidden_ND: Float32[np.ndarray, "N D"],
        posterior: Posterior | None,
    ) -> None:
        self._model, self._values_R, self._posterior = model, values_R, posterior
        self._own_NO = self._mixed_NO = logits_NO
        if posterior is not None:
            self._units_NP = units_of_ids(ids_NP, model.tokenizer)
            self._experts_M, self._log_weights_NG = model.engine.weigh(hidden_ND, posterior)
            self._mixed_NO = self._mix(posterior, self._log_weights_NG)

    def probabilities(self, temperature: float | None) -> Float64[np.ndarray, "N Q"]:
        """Of the bins, as `OptFormer.predict` gives them."""
        if temperature is None:
            temperature = self._calibrated
        return bin_probabilities(self._mixed_NO, self._model.tokenizer, temperature)

    @property
    def _calibrated(self) -> float:
        return float(self._model.value_temperature.after(len(self._values_R)))

    def score(self, policy: PolicyConfig, rng: np.random.Generator) -> Float64[np.ndarray, " N"]:
        """As the policy ranks them."""
        # A search that is made surer stays where it is.
        temperature = policy.value_temperature or max(self._calibrated, 1.0)
        probabilities_NQ = self.probabilities(temperature * policy.doubt(self._values_R))
        levels_N = self.draw_levels(rng) if policy.acquisition == "ts_joint" else None
        best = incumbent(self._values_R)
        return acquisition.score(policy.acquisition, probabilities_NQ, best, rng, levels_N)

    def draw_levels(self, rng: np.random.Generator) -> Float64[np.ndarray, " N"]:
        """One draw of the metric at all candidates, as quantiles of what is predicted of each.

        The prediction is a mixture: one of its parts is drawn by its weight and believed of all
        candidates, and a Gaussian process among them is drawn whole (`experts.draw_levels`).
        Weights may differ between candidates; the same random number then draws each one's part,
        so that near ones have the same. The transformer does not say how values hang together:
        where it is drawn, its quantiles are those of a process drawn by its weight among them.
        """
        assert self._posterior is not None
        weights_NG = np.exp(self._log_weights_NG.astype(np.float64))
        weights_NG /= weights_NG.sum(axis=1, keepdims=True)
        part_N = (weights_NG.cumsum(axis=1)[:, :-1] < rng.random()).sum(axis=1)
        mean_M = weights_NG[:, 1:].mean(axis=0)
        instead = 1 + rng.choice(len(mean_M), p=mean_M / mean_M.sum())
        process_N = np.where(part_N > 0, part_N, instead)
        levels_N = np.empty(len(part_N))
        for process in np.unique(process_N):
            kernel = int(self._experts_M[process - 1] % len(experts.KERNELS))
            drawn_N = experts.draw_levels(self._posterior, self._units_NP, kernel, rng)
            levels_N[process_N == process] = drawn_N[process_N == process]
        # All of each candidate's weight on its part.
        only_NG = np.full_like(self._log_weights_NG, -np.inf)
        only_NG[np.arange(len(part_N)), part_N] = 0.0
        part_NQ, whole_NQ = (
            bin_probabilities(logits_NO, self._model.tokenizer, 1.0, feasible=True)
            for logits_NO in (self._mix(self._posterior, only_NG), self._mixed_NO)
        )
        return predictive.pit(whole_NQ, acquisition.quantile(part_NQ, levels_N))

    def _mix(
        self, posterior: Posterior, log_weights_NG: Float32[np.ndarray, "N G"]
    ) -> Float32[np.ndarray, "N O"]:
        return self._model.engine.mix(
            self._own_NO, self._experts_M, log_weights_NG, posterior, self._units_NP
        )


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


def check_acquisition(name: Acquisition, config: ModelConfig) -> None:
    """Refuses an acquisition that the model does not know enough for.

    Raises:
      ConfigError: `ts_joint` of a model without Gaussian processes.
    """
    if name == "ts_joint" and not config.experts:
        raise ConfigError(
            "acquisition='ts_joint' draws from the Gaussian processes of a model, and this one was "
            "trained without them (model.experts=false). Use ts, which draws each candidate's "
            "metric by itself."
        )


def measured(study: Study, scaling: ValueScaling) -> Float64[np.ndarray, " R"]:
    """The metrics of completed trials on the bins' axis, in order; without those that have none."""
    completed_R = study.states_R == State.COMPLETED
    units_R = scaling.to_units(study.metrics_RM[completed_R, 0])
    return units_R[np.isfinite(units_R)].astype(np.float64)


def incumbent(values_R: Float64[np.ndarray, " R"]) -> float:
    """The best of them; 0 where there is none."""
    return float(values_R.max(initial=0.0))


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
    logits_NO: Float[np.ndarray, "N O"],
    tokenizer: StudyTokenizer,
    temperature: float,
    *,
    feasible: bool = False,
) -> Float64[np.ndarray, "N Q"]:
    """Probabilities of the bins; they sum to 1 less the chance of an infeasible trial, if any.

    Args:
      temperature: of the bins; the chance of an infeasible trial is another question's answer.
      feasible: given that the trial is feasible.
    """
    vocabulary = tokenizer.vocabulary
    first = vocabulary.first_bin - vocabulary.first_output
    stop = first + vocabulary.bins
    bins_NQ = predictive.tempered(logits_NO[:, first:stop], temperature)
    if feasible or not vocabulary.statuses:
        return bins_NQ
    outcomes_NO = predictive.tempered(logits_NO[:, first : stop + 1], 1.0)
    return bins_NQ * outcomes_NO[:, : vocabulary.bins].sum(axis=1, keepdims=True)


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
