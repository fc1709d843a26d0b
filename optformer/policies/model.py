"""OptFormer: a trained model as an optimizer. Trials in, suggestions out; predictions on request.

    model = optformer.load("checkpoint")
    suggestions = model.suggest(problem, trials, count=3)

Array dimensions: N candidates, P parameters, Q bins.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from optformer.errors import ConfigError
from optformer.model import checkpoint
from optformer.model.loaded import LoadedModel
from optformer.model.saved import Checkpoint
from optformer.policies.config import PREFERENCE, PolicyConfig
from optformer.policies.objectives import scalarize
from optformer.policies.session import Session
from optformer.policies.view import with_pending
from optformer.study import Problem, Study
from optformer.tokenization.metadata import UNKNOWN
from optformer.tokenization.quantize import ValueScaling

if TYPE_CHECKING:
    from vizier import pyvizier as vz

SESSIONS = 64
"""How many studies' histories an OptFormer keeps; the one used longest ago goes first."""


class OptFormer(LoadedModel):
    """A model that optimizes. Safe to use from several threads."""

    def __init__(self, saved: Checkpoint) -> None:
        super().__init__(saved)
        self._saved = saved
        self._sessions: OrderedDict[tuple, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type, tuple[Checkpoint]]:
        """Pickled, it is its checkpoint: what it has read and compiled stays behind."""
        saved = dataclasses.replace(self._saved, value_temperature=self.value_temperature)
        return type(self), (saved,)

    def __deepcopy__(self, memo: dict[int, object]) -> "OptFormer":
        """Itself: suggestions do not change a model, and copies of samplers may share it."""
        return self

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
        if count < 1:
            raise ConfigError(f"count={count} suggestions: ask for at least one.")
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


def load(path: str | Path) -> OptFormer:
    """The model of a checkpoint folder, or of the name of one that comes with the package.

    Raises:
      CheckpointError: it is missing, damaged, or does not fit its vocabulary or this version.
    """
    return OptFormer(checkpoint.load(Path(path)))
