"""Trials per second on one core, by problems, teacher and number of parameters.

    python benchmarks/generate.py
    python benchmarks/generate.py --teachers random_search gp_ucb --parameters 2 8 --seconds 5

The goal is 50,000 with cheap teachers. Times are processor times of the process, so that other
work on the machine has little influence. They include drawing the functions and building the
studies, but not writing them.
"""

import os

os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
)

import argparse
import time

from rich.console import Console
from rich.table import Table

from optformer.data.mixture import CHEAP_TEACHERS, GenerateConfig, Part, Source, generate_block
from optformer.data.teachers import TEACHERS
from optformer.errors import OptFormerError

PROBLEMS: tuple[Source, ...] = ("bbob", "gaussian_process", "layered", "tables")


def measure(
    problems: Source,
    teacher: str,
    parameters: int,
    trials: int,
    block: int,
    seconds: float,
) -> float:
    """Trials per second of processor time, after one block to warm up."""
    config = GenerateConfig(
        mixture=(
            Part(
                problems=problems,
                teachers=(teacher,),
                fewest_parameters=parameters,
                most_parameters=parameters,
                trials=(trials,),
            ),
        ),
        block=block,
    )
    generate_block(config, 0, 0)
    trials_done, index, started = 0, 0, time.process_time()
    while time.process_time() - started < seconds:
        index += 1
        trials_done += sum(map(len, generate_block(config, 0, index)))
    return trials_done / (time.process_time() - started)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=PROBLEMS[:2], choices=PROBLEMS)
    parser.add_argument("--teachers", nargs="+", default=CHEAP_TEACHERS, choices=list(TEACHERS))
    parser.add_argument("--parameters", nargs="+", type=int, default=[1, 4, 10, 20])
    parser.add_argument("--trials", type=int, default=100, help="trials per study")
    parser.add_argument("--block", type=int, default=64, help="studies generated together")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each cell")
    options = parser.parse_args()
    table = Table(
        title="Thousand trials per second and core, by number of parameters\n"
        f"({options.trials} trials per study, {options.block} studies per block)"
    )
    table.add_column("problems", no_wrap=True)
    table.add_column("teacher", no_wrap=True)
    for parameters in options.parameters:
        table.add_column(str(parameters), justify="right")
    console = Console()
    with console.status("measuring") as status:
        for problems in options.problems:
            for teacher in options.teachers:
                cells = []
                for parameters in options.parameters:
                    status.update(f"{problems}, {teacher}, {parameters} parameters")
                    try:
                        rate = measure(
                            problems,
                            teacher,
                            parameters,
                            options.trials,
                            options.block,
                            options.seconds,
                        )
                    except OptFormerError:
                        cells.append("refused")
                    else:
                        cells.append(f"{rate / 1000:.1f}")
                table.add_row(problems, teacher, *cells)
            table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
