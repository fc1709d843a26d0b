"""What is compared: models with their prompts and acquisitions, and optimizers by name."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from optformer.errors import ConfigError, did_you_mean
from optformer.eval.benchmark import Option
from optformer.settings import read_config

if TYPE_CHECKING:
    from optformer.eval.task import OptimizerFactory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contestants:
    """Optimizers, and models: each acquisition with each prompt makes an optimizer of each.

    Attributes:
      checkpoints: the models' folders.
      named_by_folder: whether the name of its folder stands for a model even where it is the only
        one, as in `optformer-tiny_ei`.
      acquisitions: how the model suggests.
      prompts: the teachers that it is told to imitate; the best that it has seen if none.
      optimizers: names, see `optimizers.names`.
      together: how many studies share one pass through the model.
      settings: of the model's policy, as in `candidates=200`.
    """

    checkpoints: Annotated[Sequence[Path], Option("A model to evaluate.", "--checkpoint")] = ()
    named_by_folder: bool = False
    acquisitions: Annotated[
        Sequence[str], Option("How a model suggests: ei, ts, prior ...", "--acquisition")
    ] = ("ei", "prior")
    prompts: Annotated[
        Sequence[str],
        Option("The algorithm to imitate; by default the best that the model knows.", "--prompt"),
    ] = ()
    settings: Annotated[
        Sequence[str], Option("A setting of the policy, as in candidates=200.", "--set")
    ] = ()
    optimizers: Annotated[
        Sequence[str],
        Option(
            "What to compare with: a teacher, vizier_..., optuna_...; an unknown name lists all.",
            "--optimizer",
        ),
    ] = ("random_search", "vizier_eagle")
    together: Annotated[
        int, Option("How many studies share one pass through the model.", min=1)
    ] = 32

    def factories(self, trials: int) -> "dict[str, OptimizerFactory]":
        """The optimizers by name: `optformer_ei`, or `optformer_ei_as_tpe` with a prompt. With
        several models, each has the name of its folder.

        Args:
          trials: how many trials an optimizer may plan for.

        Raises:
          ConfigError: an unknown optimizer, prompt or acquisition, or nothing to compare.
          CheckpointError: the model cannot be loaded.
        """
        from optformer.eval.optimizers import optimizer

        found = self._model_factories()
        found |= {name: optimizer(name, budget=trials) for name in self.optimizers}
        if not found:
            raise ConfigError("nothing to evaluate: pass --checkpoint or --optimizer.")
        return found

    def models(self) -> dict[str, Path]:
        """The models' folders by name."""
        from optformer.eval.results import labels

        if len(self.checkpoints) == 1 and not self.named_by_folder:
            return {"optformer": self.checkpoints[0]}
        return dict(zip(labels(self.checkpoints), self.checkpoints, strict=True))

    def _model_factories(self) -> "dict[str, OptimizerFactory]":
        if not self.checkpoints:
            if self.prompts:
                raise ConfigError("--prompt needs a model: pass --checkpoint.")
            return {}
        from optformer.eval.ours import ModelFactory
        from optformer.model import checkpoint as checkpoints
        from optformer.policies.acquisition import ACQUISITIONS
        from optformer.policies.config import PolicyConfig

        for name in self.acquisitions:
            if name not in ACQUISITIONS:
                raise ConfigError(
                    f"there is no acquisition {name!r}. Known: {', '.join(ACQUISITIONS)}."
                    f"{did_you_mean(name, ACQUISITIONS)}"
                )
        policy = read_config(PolicyConfig, overrides=self.settings)
        for folder in self.checkpoints:
            known = prompts_of(folder)
            for prompt in self.prompts:
                checkpoints.check_prompt(prompt, known)
        return {
            f"{name}_{acquisition}" + (f"_as_{prompt}" if prompt else ""): ModelFactory(
                checkpoint=folder,
                policy=dataclasses.replace(
                    policy,
                    algorithm=prompt,
                    acquisition=acquisition,  # type: ignore[arg-type]  # checked above
                ),
                together=self.together,
            )
            for name, folder in self.models().items()
            for acquisition in self.acquisitions
            for prompt in (self.prompts or (None,))
        }


def prompts_of(checkpoint: Path) -> tuple[str, ...]:
    """The algorithms that the model of a checkpoint can imitate.

    Raises:
      CheckpointError: the model cannot be loaded; raised before anything runs.
    """
    from optformer.model import checkpoint as checkpoints

    return checkpoints.load(checkpoint).algorithms
