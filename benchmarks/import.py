"""Speed and memory of the import of a study log with a million trials.

Writes a JSON Lines log of studies with six parameters, imports it in a separate process, and
prints trials per second and that process's peak memory. An import of a tenth of the log shows
whether memory grows with the log. Then it reads the shards back.

    python benchmarks/import.py --trials 1000000
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

_PARAMETERS = [
    {"name": "learning_rate", "type": "DOUBLE", "scale": "LOG", "bounds": [1e-5, 1.0]},
    {"name": "momentum", "type": "DOUBLE", "scale": "LINEAR", "bounds": [0.0, 1.0]},
    {"name": "layers", "type": "INTEGER", "scale": "LINEAR", "bounds": [1, 12]},
    {"name": "batch", "type": "DISCRETE", "values": [16.0, 32.0, 64.0, 128.0]},
    {"name": "optimizer", "type": "CATEGORICAL", "values": ["sgd", "adam", "lion"]},
    {
        "name": "nesterov",
        "type": "CATEGORICAL",
        "values": ["False", "True"],
        "external_type": "BOOLEAN",
        "conditions": [{"parent": "optimizer", "values": ["sgd"]}],
    },
]


def write_log(path: Path, *, trials: int, length: int, rng: np.random.Generator) -> None:
    """A log of `trials` trials in studies of `length`, every tenth trial infeasible."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(trials // length):
            rows = []
            units_RP = rng.random((length, 7))
            for row, (lr, momentum, layers, batch, opt, nesterov, y) in enumerate(
                units_RP.tolist()
            ):
                optimizer = ("sgd", "adam", "lion")[int(3 * opt)]
                parameters = {
                    "learning_rate": 10.0 ** (5 * lr - 5),
                    "momentum": momentum,
                    "layers": 1 + int(12 * layers),
                    "batch": (16, 32, 64, 128)[int(4 * batch)],
                    "optimizer": optimizer,
                }
                if optimizer == "sgd":
                    parameters["nesterov"] = nesterov < 0.5
                rows.append(
                    {"parameters": parameters, "state": "INFEASIBLE"}
                    if row % 10 == 9
                    else {"parameters": parameters, "metrics": {"accuracy": y}}
                )
            study = {
                "name": f"synthetic/{number}",
                "title": f"Image classifier on data set {number}",
                "algorithm": "random_search",
                "metrics": [{"name": "accuracy", "goal": "MAXIMIZE"}],
                "parameters": _PARAMETERS,
                "trials": rows,
            }
            file.write(json.dumps(study) + "\n")


def measure_import(source: str, out: str) -> tuple[int, float, float]:
    """Trials imported, seconds, and this process's peak memory in MiB."""
    from optformer.data.importers import import_studies

    report = import_studies(source, Path(out))
    return report.trials, report.seconds, _peak()


def measure_read(folder: str) -> tuple[int, float, float]:
    """Trials read, seconds, and this process's peak memory in MiB."""
    from optformer.data import store

    began = time.monotonic()
    trials = sum(len(study) for study in store.scan(Path(folder)))
    return trials, time.monotonic() - began, _peak()


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1_000_000)
    parser.add_argument("--length", type=int, default=100, help="trials per study")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    table = Table("step", "trials", "input", "seconds", "trials per second", "peak memory")
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for trials in (arguments.trials // 10, arguments.trials):
            log, out = folder / f"{trials}.jsonl", folder / f"{trials}"
            rng = np.random.default_rng(arguments.seed)
            write_log(log, trials=trials, length=arguments.length, rng=rng)
            for step, function, inputs, size in (
                ("import", measure_import, (str(log), str(out)), lambda log=log: _size([log])),
                ("read", measure_read, (str(out),), lambda out=out: _size(out.iterdir())),
            ):
                # A separate process for each, because a process's peak never falls.
                with context.Pool(1) as pool:
                    count, seconds, peak = pool.apply(function, inputs)
                table.add_row(
                    step,
                    f"{count:,}",
                    f"{size():,.0f} MiB",
                    f"{seconds:.2f}",
                    f"{count / seconds:,.0f}",
                    f"{peak:,.0f} MiB",
                )
    Console().print(table)


def _size(paths) -> float:
    return sum(path.stat().st_size for path in paths) / 2**20


if __name__ == "__main__":
    main()
