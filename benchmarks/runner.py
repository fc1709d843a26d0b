"""The time of the evaluation's runner for a trial, besides the optimizer and the function.

Random search on a BBOB function with 100 trials in a run: through `runner.run`, which writes rows
to Parquet, and with the same suggestions and evaluations in a plain loop.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from optformer.eval import bbob
from optformer.eval.optimizers import optimizer
from optformer.eval.runner import run
from optformer.space import to_units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--parameters", type=int, default=6)
    arguments = parser.parse_args()
    (task,) = bbob.tasks(
        families=("Lunacek",), parameters=(arguments.parameters,), trials=arguments.trials
    )
    factory = optimizer("random_search", budget=arguments.trials)
    total = arguments.runs * arguments.trials

    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        results = run(
            {"random_search": factory},
            [task],
            range(arguments.runs),
            Path(folder),
            protocol="bbob",
        )
        runner = (time.process_time() - began) / total
    assert not results.failures

    began = time.process_time()
    rng = np.random.default_rng(0)
    for seed in range(arguments.runs):
        searcher = factory(task.problem, seed)
        for _ in range(arguments.trials):
            values_1P = searcher.suggest(1)
            units_11P = to_units(task.problem.parameters, values_1P)[None]
            metric = -task.block.evaluate(units_11P, rng)
            searcher.update(values_1P, metric, np.zeros(1, dtype=np.int8))
    plain = (time.process_time() - began) / total

    print(f"{arguments.runs} runs of {arguments.trials} trials, {arguments.parameters} parameters")
    print("processor time for a trial, ms")
    print(f"  runner           {1e3 * runner:.3f}")
    print(f"  plain loop       {1e3 * plain:.3f}")
    print(f"  difference       {1e3 * (runner - plain):.3f}")


if __name__ == "__main__":
    main()
