"""Small searches run by other tools, which write their own logs; what they tried is kept beside.

Each function runs a tool on one search space and leaves the tool's files in a folder. The trials
are recorded by the objective itself, so a test can compare what is imported with what was run.
`python -m tests.data.importers.tools TOOL FOLDER` makes the samples in `golden/`, whose names hold
the tool's version.
"""

import importlib.metadata
import json
import random
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

TRIALS = 12


class Search:
    """The objective: a loss that fails for some trials, and a record of what was tried."""

    def __init__(self) -> None:
        self.tried: list[dict[str, object]] = []

    def __call__(self, values: Mapping[str, object]) -> float:
        """The loss at these values.

        Raises:
          RuntimeError: every fifth trial fails.
        """
        plain = {
            name: value if isinstance(value, str) else float(value)  # NumPy's scalars
            for name, value in values.items()
        }
        failed = len(self.tried) % 5 == 4
        loss = _loss(plain)
        self.tried.append({"parameters": plain, "loss": None if failed else loss})
        if failed:
            raise RuntimeError("out of memory")
        return loss


def optuna_csv(folder: Path) -> list[dict[str, object]]:
    """`study.trials_dataframe().to_csv()`."""
    import optuna

    search = Search()

    def objective(trial: optuna.Trial) -> float:
        trial.set_user_attr("host", f"h{trial.number}")
        return search(
            {
                "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
                "layers": trial.suggest_int("layers", 1, 8),
                "optimizer": trial.suggest_categorical("optimizer", ["adam", "sgd"]),
            }
        )

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=TRIALS, catch=RuntimeError)
    study.trials_dataframe().to_csv(folder / "trials.csv")
    return search.tried


def mlflow_csv(folder: Path) -> list[dict[str, object]]:
    """`mlflow.search_runs().to_csv()`, newest run first as MLflow gives them."""
    import mlflow

    search, draw = Search(), random.Random(1)
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("boosting")
    for _ in range(TRIALS):
        values = _draw(draw)
        try:
            with mlflow.start_run():
                mlflow.log_params({**values, "dataset": "wine"})
                mlflow.log_metric("loss", search(values))
        except RuntimeError:
            pass  # MLflow has marked the run as failed
    mlflow.search_runs().to_csv(folder / "runs.csv", index=False)
    (folder / "mlflow.db").unlink()
    return search.tried


def ray_tune(folder: Path) -> list[dict[str, object]]:
    """The folder of an experiment, and `results.get_dataframe().to_csv()`."""
    from ray import tune

    seen = folder / "tried.jsonl"

    def objective(config: Mapping[str, object]) -> None:
        # Trials are processes of their own: one after another, they share a file.
        lines = seen.read_text().splitlines() if seen.exists() else []
        search = Search()
        search.tried = [json.loads(line) for line in lines]
        try:
            loss = search(config)
        finally:
            seen.write_text("".join(json.dumps(each) + "\n" for each in search.tried))
        for step in (1, 2):
            tune.report({"loss": loss * (3 - step)})

    space = {
        "lr": tune.loguniform(1e-4, 1.0),
        "layers": tune.randint(1, 9),
        "optimizer": tune.choice(["adam", "sgd"]),
    }
    tuner = tune.Tuner(
        tune.with_resources(objective, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=TRIALS, metric="loss", mode="min", max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(name="experiment", storage_path=str(folder), verbose=0),
    )
    results = tuner.fit()
    results.get_dataframe().to_csv(folder / "results.csv", index=False)
    tried = [json.loads(line) for line in seen.read_text().splitlines()]
    seen.unlink()
    return tried


def smac(folder: Path) -> list[dict[str, object]]:
    """The folder that SMAC writes: runhistory.json and configspace.json."""
    import ConfigSpace
    from smac import HyperparameterOptimizationFacade, Scenario

    search = Search()
    space = ConfigSpace.ConfigurationSpace(
        {
            "lr": ConfigSpace.Float("lr", (1e-4, 1.0), log=True),
            "layers": ConfigSpace.Integer("layers", (1, 8)),
            "optimizer": ConfigSpace.Categorical("optimizer", ["adam", "sgd"]),
        },
        seed=1,
    )
    scenario = Scenario(
        space,
        name="boosting",
        output_directory=folder,
        n_trials=TRIALS,
        deterministic=True,
        seed=1,
        crash_cost=10.0,
    )
    HyperparameterOptimizationFacade(
        scenario, lambda config, seed=0: search(dict(config)), logging_level=50
    ).optimize()
    return search.tried


def hyperopt(folder: Path) -> list[dict[str, object]]:
    """`json.dumps(trials.trials, default=str)`."""
    import numpy as np
    from hyperopt import STATUS_FAIL, STATUS_OK, Trials, fmin, hp, rand

    search = Search()

    def objective(values: Mapping[str, object]) -> dict[str, object]:
        try:
            return {"loss": search(values), "status": STATUS_OK}
        except RuntimeError:
            return {"status": STATUS_FAIL}

    space = {
        "lr": hp.loguniform("lr", np.log(1e-4), 0.0),
        "layers": hp.quniform("layers", 1, 8, 1),
        "optimizer": hp.choice("optimizer", ["adam", "sgd"]),
    }
    trials = Trials()
    fmin(
        objective,
        space,
        rand.suggest,
        TRIALS,
        trials=trials,
        verbose=False,
        show_progressbar=False,
        rstate=np.random.default_rng(1),
    )
    (folder / "trials.json").write_text(json.dumps(trials.trials, default=str))
    return search.tried


def syne_tune(folder: Path) -> list[dict[str, object]]:
    """The folder of an experiment: metadata.json and results.csv.zip."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import PythonBackend
    from syne_tune.config_space import choice, loguniform, randint
    from syne_tune.optimizer.baselines import RandomSearch

    space = {
        "lr": loguniform(1e-4, 1.0),
        "layers": randint(1, 8),
        "optimizer": choice(["adam", "sgd"]),
    }
    tuner = Tuner(
        trial_backend=PythonBackend(tune_function=_reporting, config_space=space),
        scheduler=RandomSearch(space, metrics=["loss"], do_minimize=True, random_seed=1),
        stop_criterion=StoppingCriterion(max_num_trials_started=TRIALS),
        n_workers=1,
        sleep_time=0.1,
        tuner_name="boosting",
        suffix_tuner_name=False,
        save_tuner=False,
    )
    tuner.run()
    for name in ("metadata.json", "results.csv.zip"):
        shutil.copy(tuner.tuner_path / name, folder)
    search = Search()
    for trial in range(TRIALS):
        config = json.loads((tuner.tuner_path / str(trial) / "config.json").read_text())
        values = {name: config[name] for name in ("lr", "layers", "optimizer")}
        search.tried.append({"parameters": values, "loss": _loss(values)})
    shutil.rmtree(tuner.tuner_path)
    return search.tried


def _reporting(lr: float, layers: int, optimizer: str) -> None:
    from syne_tune import Reporter

    report = Reporter()
    # The function runs without this module around it.
    loss = abs(lr - 0.01) + layers / 8 + (optimizer == "sgd")
    for step in (1, 2):
        report(loss=loss * (3 - step), epoch=step)


def _loss(values: Mapping[str, object]) -> float:
    return abs(values["lr"] - 0.01) + values["layers"] / 8 + (values["optimizer"] == "sgd")


def _draw(draw: random.Random) -> dict[str, object]:
    return {
        "lr": 10 ** draw.uniform(-4, 0),
        "layers": draw.randint(1, 8),
        "optimizer": draw.choice(["adam", "sgd"]),
    }


TOOLS: dict[str, tuple[Callable[[Path], list[dict[str, object]]], str]] = {
    "optuna-csv": (optuna_csv, "optuna"),
    "mlflow": (mlflow_csv, "mlflow"),
    "ray-tune": (ray_tune, "ray"),
    "smac": (smac, "smac"),
    "hyperopt": (hyperopt, "hyperopt"),
    "syne-tune": (syne_tune, "syne-tune"),
}
"""Format -> how its tool is run, and the package that has to be installed."""


def keep_sample(name: str, parent: Path) -> Path:
    """Runs a tool and keeps what it wrote, without machine paths and files for machines alone."""
    run, package = TOOLS[name]
    sample = parent / f"{name}-{importlib.metadata.version(package)}"
    sample.mkdir(parents=True)
    tried = run(sample.resolve())
    (sample / "tried.json").write_text(json.dumps(tried))
    for path in sorted(sample.rglob("*")):
        if path.is_file() and (
            path.suffix not in (".csv", ".json", ".txt", ".zip")
            or "-state-" in path.name
            or path.name.startswith("experiment_state")
        ):
            path.unlink()
        elif path.suffix in (".csv", ".json", ".txt"):
            text = path.read_text()
            for machine in (str(sample.resolve()), sys.prefix, str(Path.cwd()), sys.base_prefix):
                text = text.replace(machine, "/data")
            path.write_text(text)
    return sample


if __name__ == "__main__":
    print(keep_sample(sys.argv[1], Path(sys.argv[2])))
