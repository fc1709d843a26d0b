"""A training run of seconds, here or as a process:

    python -m tests.training.tiny FOLDER SETTING=VALUE ...

A process has studies of one layout only, as each shape of a batch is compiled.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from optformer.training import train as training
from optformer.training.config import load_config
from tests.studies import MIXED, plane, random_study

SMALL = [
    "model.width=32",
    "model.heads=2",
    "model.head_size=16",
    "model.feed_forward=64",
    "model.encoder_layers=1",
    "model.decoder_layers=1",
    "batch.rows=4",
    "batch.tokens=64",
    "batch.text_tokens=128",
    "batch.sizes=1",
    "batch.augment.names=0",
    "batch.augment.values=0",
    "optimizer.warmup=5",
    "train.evaluate_every=10",
    "train.checkpoint_every=5",
    "train.validation=0.2",
    "train.workers=0",
]
"""A run whose model is tiny and whose text is never dropped."""
STUDIES = [
    dataclasses.replace(
        random_study(problem, 12, np.random.default_rng(seed)),
        problem=dataclasses.replace(problem, name=f"{problem.name}-{seed}", title=""),
    )
    for seed in range(12)
    for problem in (MIXED, plane(2))
]


def run(folder: Path, *overrides: str, **options: object) -> training.TrainResult:
    return training.train(load_config(None, [*SMALL, *overrides]), folder, STUDIES, **options)


PLANES = [study for study in STUDIES if len(study.problem.parameters) == 2]


if __name__ == "__main__":
    training.train(
        load_config(None, [*SMALL, *sys.argv[2:]]),
        Path(sys.argv[1]),
        PLANES,
        report_seconds=0.0,
        say=print,
    )
