"""How long a suggestion takes, beside recomputing every sequence, Optuna's and Vizier's.

    python benchmarks/suggest.py
    python benchmarks/suggest.py --checkpoint DIR --presets --others

Expected improvement with the default 100 samples of the model (and the points that its experts
sift), after warm-up, on numbers in [0, 1]. Each suggestion follows a new trial, as in a study;
where that trial is a new best or worst one, the whole history is read again. Shown are medians: on
the clock, and of the processor, which other work on the machine changes little.

The other way, that of the reference, recomputes the whole padded sequence of every candidate. It is
measured with the training-time forward pass on `--recomputed` candidates and scaled up to 100:
`values` is one pass a candidate, for its value alone; `all tokens` adds one for each parameter that
is sampled. Ratios are of the processor's times.

A study of more tokens than a model has learned from is shortened by our policy: then the table
says how many of its trials are read, and both ways have only those.
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
import functools
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from optformer.errors import ConfigError
from optformer.eval.optimizers import optimizer
from optformer.model import checkpoint, transformer
from optformer.model.config import MODELS
from optformer.model.decode import TEXT, size_class
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.policies.model import OptFormer
from optformer.study import Metric, Parameter, ParameterType, Problem, State, Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import loss
from optformer.training.batches import BatchConfig, pack
from optformer.training.sharding import to_numpy

CANDIDATES = 100
OTHERS = ("optuna_tpe", "optuna_gp", "vizier_gp_bandit", "vizier_gp_ucb_pe")

Milliseconds = tuple[float, float]
"""On the clock, of the processor."""


def main() -> None:
    """Prints two tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoint", default="optformer-tiny", help="a folder or a name; '' for none"
    )
    parser.add_argument("--presets", nargs="*", default=["micro", "tiny"], help="random weights")
    parser.add_argument("--tokens", type=int, default=1024, help="that a preset reads")
    parser.add_argument("--parameters", type=int, nargs="+", default=[2, 6, 16])
    parser.add_argument("--trials", type=int, nargs="+", default=[10, 100, 300, 1000])
    parser.add_argument("--suggestions", type=int, default=20, help="timed, of each size")
    parser.add_argument("--recomputed", type=int, default=4)
    parser.add_argument("--others", nargs="*", default=OTHERS)
    parser.add_argument("--other-parameters", type=int, nargs="+", default=[6])
    parser.add_argument("--other-trials", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--other-suggestions", type=int, default=3)
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    print("| model | parameters | trials | read | ms | processor | values | all tokens | ratios |")
    print("|---" * 9 + "|")
    models = {}
    if options.checkpoint:
        folder = checkpoint.find(options.checkpoint)
        models[folder.name] = checkpoint.load(folder)
    models |= {
        f"{name}, random": random_checkpoint(name, options.tokens) for name in options.presets
    }
    for name, saved in models.items():
        model = OptFormer(saved)
        recompute = functools.cache(functools.partial(recomputed, saved, options.recomputed))
        for parameters in options.parameters:
            full = study(parameters, max(options.trials) + options.suggestions)
            start = time.process_time()
            model.warmup([full.problem])
            warmed = time.process_time() - start
            for trials in options.trials:
                wall, cpu = ours(model, full, trials, options.suggestions)
                length = model.tokenizer.layout(full.problem).length
                read = min(trials, max(1, saved.tokens // length - 1))
                _, other = recompute(parameters, read)
                cells = (name, parameters, f"{trials:,}", read, f"{wall:.0f}", f"{cpu:.0f}")
                every = other * (parameters + 1)
                ratios = f"{other / cpu:.0f}, {every / cpu:.0f}"
                show(*cells, f"{other:,.0f}", f"{every:,.0f}", ratios)
            print(f"<!-- warm-up of {parameters} parameters: {warmed:.0f} s of the processor -->")
    print("\n| optimizer | parameters | trials | ms | processor |\n" + "|---" * 5 + "|")
    for name in options.others:
        for parameters in options.other_parameters:
            for trials in options.other_trials:
                cells = (name, parameters, f"{trials:,}")
                try:
                    times = theirs(name, parameters, trials, options.other_suggestions)
                    show(*cells, *(f"{each:,.0f}" for each in times))
                except ConfigError as error:
                    show(*cells, str(error), "")


def show(*cells: object) -> None:
    """A row of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def study(parameters: int, trials: int) -> Study:
    """Random trials of a smooth function of numbers in [0, 1]."""
    rng = np.random.default_rng(parameters)
    problem = Problem(
        name="timed",
        parameters=tuple(
            Parameter(name=f"x{index}", type=ParameterType.DOUBLE, bounds=(0.0, 1.0))
            for index in range(parameters)
        ),
        metrics=(Metric(name="y"),),
    )
    values_RP = rng.random((trials, parameters))
    waves_PW = 3 * rng.normal(size=(parameters, 32)) / np.sqrt(parameters)
    return Study(
        problem=problem,
        values_RP=values_RP,
        metrics_RM=np.cos(values_RP @ waves_PW + rng.uniform(0, 6, 32)).mean(1, keepdims=True),
        states_R=np.full(trials, State.COMPLETED, dtype=np.int8),
        algorithm="random_search",
    )


def random_checkpoint(preset: str, tokens: int) -> Checkpoint:
    """A model of this shape that has learned nothing."""
    tokenizer = StudyTokenizer()
    weights = transformer.init(MODELS[preset], Ids.of(tokenizer.vocabulary), jax.random.key(0))
    return Checkpoint(
        config=MODELS[preset], tokenizer=tokenizer, weights=to_numpy(weights), tokens=tokens
    )


def timed(calls: list[Callable[[], object]]) -> Milliseconds:
    """The medians."""
    walls, cpus = [], []
    for call in calls:
        clocks = time.perf_counter(), time.process_time()
        call()
        walls.append(1e3 * (time.perf_counter() - clocks[0]))
        cpus.append(1e3 * (time.process_time() - clocks[1]))
    return statistics.median(walls), statistics.median(cpus)


def ours(model: OptFormer, full: Study, trials: int, suggestions: int) -> Milliseconds:
    """A suggestion after each of so many more trials."""
    model.propose(full.rows(slice(0, trials - 1)), seed=0)  # what was read before
    return timed(
        [
            functools.partial(model.propose, full.rows(slice(0, count)), seed=count)
            for count in range(trials, trials + suggestions)
        ]
    )


def recomputed(saved: Checkpoint, candidates: int, parameters: int, trials: int) -> Milliseconds:
    """100 candidates' values, each from the whole sequence, by the time of some of them."""
    tokenizer, ids = saved.tokenizer, Ids.of(saved.tokenizer.vocabulary)
    whole = study(parameters, trials + 1)
    problem = tokenizer.encode_problem(whole.problem, "random_search")
    encoded = tokenizer.encode_trials(whole, problem)
    config = BatchConfig(
        rows=candidates,
        tokens=size_class(len(encoded.ids_T), 16),
        text_tokens=size_class(len(problem.ids_S), TEXT),
        sizes=1,
    )
    batch = pack([(problem, encoded)] * candidates, tokenizer, config)
    assert batch.inputs_BT.shape[0] == candidates

    @jax.jit
    def values(weights: dict) -> jax.Array:
        hidden_BTD = loss.hidden_states(weights, saved.config, ids, batch)
        place = (trials + 1) * problem.layout.length - 1
        return transformer.value_logits(weights, ids, hidden_BTD[:, place])

    weights = jax.tree.map(jax.numpy.asarray, saved.weights)
    call = functools.partial(lambda: np.asarray(values(weights)))
    call()  # compiles
    wall, cpu = timed([call] * 5)
    return wall * CANDIDATES / candidates, cpu * CANDIDATES / candidates


def theirs(name: str, parameters: int, trials: int, suggestions: int) -> Milliseconds:
    """A suggestion of another optimizer after each of so many more trials."""
    full = study(parameters, trials + suggestions)
    search = optimizer(name)(full.problem, 0)

    def tell(rows: slice) -> None:
        search.update(full.values_RP[rows], full.metrics_RM[rows], full.states_R[rows])

    def suggest(count: int) -> Callable[[], object]:
        return lambda: (tell(slice(count - 1, count)), search.suggest(1))

    tell(slice(0, trials - 1))
    search.suggest(1)  # compiles
    return timed([suggest(count) for count in range(trials, trials + suggestions)])


if __name__ == "__main__":
    main()
