"""Real study logs: clients of a Vizier service tune scikit-learn models with its algorithms.

This is how a team's own logs come about, in small: the service keeps a database, and clients ask
it for trials and tell it what they measured.
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

# Vizier's algorithms that are quick and work in its service. Left out: SHUFFLED_GRID_SEARCH and
# CMA_ES fail there (google-vizier 0.1.24), NSGA2 is random for its first 50 trials, and the
# Gaussian processes need seconds for each suggestion.
ALGORITHMS = ("RANDOM_SEARCH", "QUASI_RANDOM_SEARCH", "GRID_SEARCH", "EAGLE_STRATEGY")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logs:
    """What the service's database holds now."""

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
    """A new SQLite file as a team's own service would leave it; see `make_logs`.

    Args:
      problems: all that the demo's logs hold, if none.

    Raises:
      ConfigError: the file is there, or scikit-learn is not.
    """
    need_sklearn()
    if database.exists():
        raise ConfigError(f"{database} is there already. Name a new file.")
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

    Evaluations run in `workers` processes, one thread each; a script that calls this needs the
    usual `if __name__ == "__main__":` around its own code.

    Raises:
      SourceError: nothing answers at the endpoint.
    """
    jobs = [(problem, algorithm) for problem in problems for algorithm in algorithms]
    done: list[bool] = []  # whether each trial so far was feasible

    with (
        ProcessPoolExecutor(
            max_workers=workers,
            mp_context=get_context("spawn"),  # a running gRPC server does not survive a fork
        ) as evaluators,
        # One more study than evaluators, so that none of them waits for a suggestion.
        ThreadPoolExecutor(max_workers=workers + 1) as clients,
    ):

        def run(problem: SklearnProblem, algorithm: str) -> None:
            def function(values: Values) -> float | None:
                metric = evaluators.submit(_evaluate, problem.name, dict(values)).result()
                done.append(metric is not None)
                progress(len(done), len(jobs) * trials, f"{problem.name}, {algorithm.lower()}")
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
    return Logs(studies=len(jobs), trials=len(done), infeasible=done.count(False))


def _evaluate(name: str, values: Values) -> float | None:
    return find(name).evaluate(values)
