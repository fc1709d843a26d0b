"""Ablation: models trained on the same few studies, each with one option changed.

    python benchmarks/ablation.py RUNS

All variants are trained on the same batches of the same synthetic studies (random and evolutionary
search on Gaussian-process draws and BBOB training functions, 1 to 3 parameters), each about twice,
and validated on the same held-out studies. The table shows the mean log predictive density of
metrics (higher is better; uniform predictions score 0), the error of their quantiles, and the mean
loss of a parameter's token in nats (lower is better imitation); with several seeds, one number for
each.

Validation scales values by the range of the whole study, training does so half of the time. This
range contains information on later trials, which sampled targets can learn and exact ones cannot.
"""

import argparse
from pathlib import Path

from optformer.data import store
from optformer.data.generate import generate
from optformer.data.mixture import GenerateConfig, Part
from optformer.training.config import RunConfig, load_config
from optformer.training.reports import Report
from optformer.training.train import train

VALUES = ("model.number_embedding=value", "model.number_output=value")
COMPUTED = ("model.experts=false", *VALUES)

VARIANTS: dict[str, tuple[str, ...]] = {
    "default, with Gaussian-process experts": (),
    "the same, vectors of bins computed only": VALUES,
    "without experts": ("model.experts=false",),
    "and vectors of bins computed only": COMPUTED,
    "and vectors of bins learned only (T5's)": (
        "model.experts=false",
        "model.number_embedding=row",
        "model.number_output=row",
    ),
    "computed only, hard targets": (*COMPUTED, "train.soft_bins=0", "train.soft_bins_end=0"),
    "computed only, sampled targets, not exact ones": (*COMPUTED, "loss.exact=false"),
    "computed only, no sums over a trial's tokens": (*COMPUTED, "model.trial_sum=false"),
    "computed only, positions in tokens, not trials": (*COMPUTED, "model.position=token"),
}


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="a folder; finished runs in it are not repeated")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--studies", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=2000, help="of 512 tokens")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    mixture = GenerateConfig(
        mixture=tuple(
            Part(
                problems=problems,
                teachers=("random_search", "regularized_evolution", "eagle_strategy"),
                fewest_parameters=1,
                most_parameters=3,
                trials=(30,),
            )
            for problems in ("gaussian_process", "bbob")
        )
    )
    generate(mixture, options.runs / "studies", studies=options.studies, seed=123)
    studies = list(store.scan(options.runs / "studies"))
    print("| variant | log density | quantile error, % | nats a parameter |\n" + "|---" * 4 + "|")
    for number, (name, overrides) in enumerate(VARIANTS.items()):
        validations = []
        for seed in range(options.seeds):
            config = variant(options.model, options.steps, seed, overrides)
            result = train(config, options.runs / f"{number}-{seed}", studies)
            validations.append(last_validation(result.reports))
        cells = (
            " ".join(f"{scale * each[key]:.{digits}f}" for each in validations)
            for key, scale, digits in (
                ("log_density", 1, 3),
                ("quantile_error", 100, 1),
                ("parameter", 1, 3),
            )
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def variant(model: str, steps: int, seed: int, overrides: tuple[str, ...]) -> RunConfig:
    """The configuration of one variant."""
    common = (
        f"model={model}",
        "batch.rows=2",
        "batch.tokens=256",
        "batch.text_tokens=128",
        "optimizer.learning_rate=2e-3",
        "optimizer.ema=0.998",
        "train.soft_bins=4",
        "train.soft_bins_end=4",
        f"train.steps={steps}",
        f"train.evaluate_every={steps}",
        f"train.checkpoint_every={steps}",
        f"train.seed={seed}",
    )
    return load_config(overrides=(*common, *overrides))


def last_validation(reports: tuple[Report, ...]) -> dict[str, float]:
    """The validation at the end of a run."""
    [*_, last] = [report.validation for report in reports if report.validation]
    return last


if __name__ == "__main__":
    main()
