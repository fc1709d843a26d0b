"""Real study logs: clients of a Vizier service tune scikit-learn models with Vizier's algorithms.

A team's own logs arise in the same way: clients request trials from a service and report
measurements, and the service stores them in its database.
"""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path

from optformer.demo.problems import SklearnProblem, find, logged, need_sklearn
from optformer.errors import ConfigError
from optformer.progress import Progress, silent
from optformer.service.client import Values, open_study, tune
from optformer.service.server import endpoint_of
from optformer.service.targets import function_target

OWNER = "sklearn"

# Vizier's algorithms that are fast and work in its service. SHUFFLED_GRID_SEARCH and CMA_ES fail in
# it (google-vizier 0.1.24), NSGA2 is random for its first 50 trials, and Gaussian processes need
# seconds for each suggestion.
ALGORITHMS = ("RANDOM_SEARCH", "QUASI_RANDOM_SEARCH", "GRID_SEARCH", "EAGLE_STRATEGY")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logs:
    """The contents of the service's database."""

    studies: int
    trials: int
    infeasible: int


def write_logs(
    database: Path,
    problems: Sequence[SklearnProblem] = (),
    *,
    algorithms: Sequence[str] = ALGORITHMS,
    trials: int = 25,
    workers: int = 2,
    progress: Progress = silent,
) -> Logs:
    """Writes a new SQLite database of a Vizier service; see `make_logs`.

    Args:
      problems: by default, all except those that the demo holds out.

    Raises:
      ConfigError: the file exists, or scikit-learn is not installed.
    """
    need_sklearn()
    if database.exists():
        raise ConfigError(f"{database} exists already. Choose a new file.")
    database.parent.mkdir(parents=True, exist_ok=True)
    with endpoint_of(database=database) as endpoint:
        return make_logs(
            endpoint,
            problems or logged(),
            algorithms=algorithms,
            trials=trials,
            workers=workers,
            progress=progress,
        )


def make_logs(
    endpoint: str,
    problems: Sequence[SklearnProblem],
    *,
    algorithms: Sequence[str] = ALGORITHMS,
    trials: int = 25,
    workers: int = 2,
    progress: Progress = silent,
) -> Logs:
    """Tunes every problem with every algorithm through the Vizier service at this `host:port`.

    Evaluations run in `workers` processes with one thread each. A script that calls this function
    needs the usual `if __name__ == "__main__":` guard.

    Raises:
      SourceError: no service responds at the endpoint.
    """
    jobs = [(problem, algorithm) for problem in problems for algorithm in algorithms]
    feasible: list[bool] = []  # of each finished trial

    with (
        ProcessPoolExecutor(
            max_workers=workers,
            mp_context=get_context("spawn"),  # a running gRPC server cannot be forked
        ) as evaluators,
        # One more client than evaluators, so that evaluators do not wait for suggestions.
        ThreadPoolExecutor(max_workers=workers + 1) as clients,
    ):

        def run(problem: SklearnProblem, algorithm: str) -> None:
            def function(values: Values) -> float | None:
                metric = evaluators.submit(_evaluate, problem.name, dict(values)).result()
                feasible.append(metric is not None)
                progress(len(feasible), len(jobs) * trials, f"{problem.name}, {algorithm.lower()}")
                return metric

            study = open_study(
                endpoint,
                problem.problem,
                algorithm=algorithm,
                name=f"{problem.model}-{problem.data}-{algorithm.lower()}",
                owner=OWNER,
            )
            target = function_target(problem.problem, function)
            tune(study, target.problem, target.evaluate, trials=trials)

        running = [clients.submit(run, *job) for job in jobs]
        wait(running, return_when=FIRST_EXCEPTION)
        clients.shutdown(wait=False, cancel_futures=True)
        for job in running:
            if not job.cancelled():
                job.result()
    return Logs(studies=len(jobs), trials=len(feasible), infeasible=feasible.count(False))


def _evaluate(name: str, values: Values) -> float | None:
    return find(name).evaluate(values)
