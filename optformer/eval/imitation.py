"""Does the model imitate? Each teacher beside the model that is prompted with its name.

Both search the same held-out functions from the same seeds; the model takes samples of its prior
as they are. Then the model reads the teachers' own trials under every prompt: where the prompt
matters, a teacher's next trial is likeliest under its own name.

Array dimensions: A teachers, C prompts, N studies, R trials of a study, K tasks, S seeds, T trials
along a curve, P parameters, O output tokens, B studies of a batch.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Array, Bool, Float, Float64, Int

from optformer.data.teachers import TEACHERS
from optformer.errors import ConfigError, did_you_mean
from optformer.eval import statistics
from optformer.eval.contestants import prompts_of
from optformer.eval.optimizers import TeacherFactory
from optformer.eval.ours import ModelFactory
from optformer.eval.prediction import save_arrays
from optformer.eval.task import OptimizerFactory, Task
from optformer.model import transformer
from optformer.model.config import ModelConfig
from optformer.model.transformer import Ids, Weights
from optformer.policies.config import PolicyConfig
from optformer.policies.model import OptFormer
from optformer.progress import Progress, silent
from optformer.study import State, Study
from optformer.tokenization.trajectory import Role
from optformer.training import loss
from optformer.training.batches import Batch, BatchConfig, pack

PROTOCOL = "imitation"
CHECKPOINTS = (10, 30, 100)
"""The trials at which teacher and model are compared."""

_PREFIX = "optformer_as_"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Likelihoods:
    """How likely the teachers' own trials are to the model under each prompt.

    Attributes:
      teachers: names; of the rows and of the prompts.
      nats_ACNR: log-likelihood of each trial's parameters given the trials before it, above that
        of a uniform choice among legal values, in nats a parameter; NaN where a study has more
        trials than the model can read.
      task_N: the task of each study, counted from 0.
    """

    teachers: tuple[str, ...]
    nats_ACNR: Float64[np.ndarray, "A C N R"]
    task_N: Int[np.ndarray, " N"]

    def confusion(self) -> Float64[np.ndarray, "A C"]:
        """The share of a teacher's studies that are likeliest under each prompt."""
        likeliest_AN = np.nansum(self.nats_ACNR, axis=3).argmax(axis=1)
        return (likeliest_AN[:, None, :] == np.arange(len(self.teachers))[:, None]).mean(2)

    def mean(self) -> Float64[np.ndarray, "A C"]:
        """Mean nats a parameter."""
        return np.nanmean(self.nats_ACNR, axis=(2, 3))

    def margin(self, teacher: int, rng: np.random.Generator) -> tuple[float, float, float]:
        """How much likelier the right prompt makes a trial than the wrong ones do on average, in
        nats a parameter, with its 95 % interval over tasks."""
        by_study_CN = np.nanmean(self.nats_ACNR[teacher], axis=2)
        wrong = [row for row in range(len(self.teachers)) if row != teacher]
        gap_N = by_study_CN[teacher] - by_study_CN[wrong].mean(0)
        gap_K = np.array([gap_N[self.task_N == task].mean() for task in np.unique(self.task_N)])
        return statistics.bootstrap_mean(gap_K, rng)


def choose_teachers(checkpoint: Path, asked: Sequence[str] = ()) -> tuple[str, ...]:
    """Those asked for, or all that the model has learned from and that can search.

    Raises:
      ConfigError: one that the model has not learned from or that cannot search an unknown
        function, or fewer than two: a prompt is right only beside a wrong one.
    """
    learned = prompts_of(checkpoint)
    known = tuple(name for name in learned if name in TEACHERS and name != "optimum")
    for name in asked:
        if name not in known:
            raise ConfigError(
                f"{name!r} is no teacher that this model has learned from and that can search: "
                f"those are {', '.join(known) or '(none)'}.{did_you_mean(name, known)}"
            )
    chosen = tuple(dict.fromkeys(asked)) or known
    if len(chosen) < 2:
        raise ConfigError(
            f"teachers to compare: {', '.join(chosen) or '(none)'}. Imitation takes two or more; "
            f"the model has learned from {', '.join(learned) or '(none)'}."
        )
    return chosen


def factories(
    checkpoint: Path, teachers: Sequence[str], *, trials: int, together: int
) -> dict[str, OptimizerFactory]:
    """Each teacher, and the model's prior prompted with its name."""
    found: dict[str, OptimizerFactory] = {}
    for name in teachers:
        found[name] = TeacherFactory(teacher=name, budget=trials)
        policy = PolicyConfig(algorithm=name, acquisition="prior")
        found[_PREFIX + name] = ModelFactory(
            checkpoint=checkpoint, policy=policy, together=together
        )
    return found


def pairs(optimizers: Sequence[str]) -> list[tuple[str, str]]:
    """The teachers of a results folder and the names of the model that imitates each."""
    return [(name, _PREFIX + name) for name in optimizers if _PREFIX + name in optimizers]


# --- likelihoods ------------------------------------------------------------------------------


def studies(folder: Path, tasks: Sequence[Task], optimizer: str) -> dict[tuple[str, int], Study]:
    """An optimizer's whole runs in a results folder, by task and seed."""
    columns = ["task", "seed", "trial", "values", "metric"]
    rows = pq.read_table(
        folder / "rows.parquet", columns=columns, filters=[("optimizer", "=", optimizer)]
    ).to_pylist()
    runs: dict[tuple[str, int], list[dict]] = {}
    for row in rows:
        if row["values"]:
            runs.setdefault((row["task"], row["seed"]), []).append(row)
    found = {}
    for task in tasks:
        for (name, seed), run in sorted(runs.items()):
            if name != task.name or len(run) != task.trials:
                continue
            run.sort(key=lambda row: row["trial"])
            metric_R = np.array([row["metric"] for row in run])
            states_R = np.where(np.isnan(metric_R), State.INFEASIBLE, State.COMPLETED)
            found[name, seed] = Study(
                problem=task.problem,
                values_RP=np.array([row["values"] for row in run]),
                metrics_RM=metric_R[:, None],
                states_R=states_R.astype(np.int8),
                algorithm=optimizer,
            )
    return found


def likelihoods(
    model: OptFormer,
    by_teacher: Mapping[str, Mapping[tuple[str, int], Study]],
    *,
    together: int = 16,
    progress: Progress = silent,
) -> Likelihoods:
    """Reads each teacher's studies under the name of each.

    Values are scaled by the range of the whole study, as in training; that is the same for all
    prompts. A study counts if every teacher has finished it.

    Raises:
      ConfigError: there is no such study.
    """
    teachers = tuple(by_teacher)
    keys = [
        key
        for key in next(iter(by_teacher.values()))
        if all(key in theirs for theirs in by_teacher.values())
    ]
    if not keys:
        raise ConfigError("no study was finished by every teacher: nothing can be compared.")
    sizes = [len(by_teacher[teachers[0]][key].problem.parameters) for key in keys]
    trials = max(len(by_teacher[teachers[0]][key]) for key in keys)
    nats_ACNR = np.full((len(teachers), len(teachers), len(keys), trials), np.nan)
    # Neighbours have trials of one length: that is what a batch asks for.
    order = sorted(range(len(keys)), key=lambda place: sizes[place])
    jobs = [
        (row, column, [n for n in order if sizes[n] == size])
        for size in sorted(set(sizes))
        for row in range(len(teachers))
        for column in range(len(teachers))
    ]
    for done, (row, column, members) in enumerate(jobs, start=1):
        for first in range(0, len(members), together):
            some = members[first : first + together]
            batch = [by_teacher[teachers[row]][keys[n]] for n in some]
            nats_BR = trial_nats(model, batch, teachers[column], rows=min(together, len(members)))
            nats_ACNR[row, column, some, : nats_BR.shape[1]] = nats_BR
        progress(done, len(jobs), f"{teachers[row]} as {teachers[column]}")
    names = list(dict.fromkeys(task for task, _ in keys))
    return Likelihoods(
        teachers=teachers,
        nats_ACNR=nats_ACNR,
        task_N=np.array([names.index(task) for task, _ in keys]),
    )


def trial_nats(
    model: OptFormer, studies: Sequence[Study], prompt: str, *, rows: int = 0
) -> Float64[np.ndarray, "B R"]:
    """Log-likelihood of each trial's parameters above uniform, in nats a parameter.

    Args:
      studies: all with as many parameters and trials. Trials beyond those that the model has
        learned to read are left out.
      rows: studies are filled up to this number, so that one size is compiled.
    """
    tokenizer, engine = model.tokenizer, model.engine
    encoded = [tokenizer.encode_problem(study.problem, prompt) for study in studies]
    layout = encoded[0].layout
    trials = min(len(studies[0]), layout.trials_in(model.most_tokens))
    parts = [study.rows(slice(trials)) for study in studies]
    examples = [
        (problem, tokenizer.encode_trials(study, problem))
        for study, problem in zip(parts, encoded, strict=True)
    ]
    text = max(len(problem.ids_S) for problem in encoded)
    batch = pack(
        examples,
        tokenizer,
        BatchConfig(
            rows=max(rows, len(studies)),
            tokens=layout.whole(layout.tokens_of(trials)),
            text_tokens=max(64, 1 << (text - 1).bit_length()),
            sizes=1,
        ),
    )
    legal = [tokenizer.legal_tokens(problem).tokens_PO for problem in encoded]
    legal_BPO = np.ones((len(batch.roles_BT), *legal[0].shape), dtype=bool)
    legal_BPO[: len(legal)] = legal
    # The number of each parameter among its trial's; other places are not counted.
    is_parameter_BT = batch.roles_BT == Role.PARAMETER
    step_BT = np.maximum((np.cumsum(is_parameter_BT, axis=1) - 1) % layout.parameters, 0)
    with jax.enable_x64(False):
        nats_BT = _parameter_nats(
            engine.weights, batch, legal_BPO, step_BT, config=model.config, ids=engine.ids
        )
    nats_BT = np.asarray(nats_BT)[: len(studies)].astype(np.float64)
    counted_BT = is_parameter_BT[: len(studies)]
    return nats_BT[counted_BT].reshape(len(studies), trials, -1).mean(axis=2)


@functools.partial(jax.jit, static_argnames=("config", "ids"))
def _parameter_nats(
    weights: Weights,
    batch: Batch,
    legal_BPO: Bool[Array, "B P O"],
    step_BT: Int[Array, "B T"],
    *,
    config: ModelConfig,
    ids: Ids,
) -> Float[Array, "B T"]:
    """The target's log-likelihood among legal tokens, above that of a uniform choice."""
    hidden_BTD = loss.hidden_states(weights, config, ids, batch)
    logits_BTO = transformer.token_logits(weights, ids, hidden_BTD)
    legal_BTO = jnp.take_along_axis(legal_BPO, step_BT[:, :, None], axis=1)
    target_BT1 = jnp.clip(batch.targets_BT - ids.first_output, 0, ids.outputs - 1)[..., None]
    normalizer_BT = jax.nn.logsumexp(logits_BTO, axis=-1, where=legal_BTO)
    chosen_BT = jnp.take_along_axis(logits_BTO, target_BT1, axis=-1)[..., 0]
    return chosen_BT - normalizer_BT + jnp.log(legal_BTO.sum(-1).astype(jnp.float32))


def save(made: Likelihoods, path: Path) -> None:
    """Writes likelihoods as one NumPy file, in one step."""
    save_arrays(
        path,
        {
            "teachers": np.array(made.teachers),
            "nats_ACNR": made.nats_ACNR.astype(np.float32),
            "task_N": made.task_N,
        },
    )


def load(path: Path) -> Likelihoods:
    """What `save` wrote."""
    with np.load(path) as arrays:
        return Likelihoods(
            teachers=tuple(arrays["teachers"].tolist()),
            nats_ACNR=arrays["nats_ACNR"].astype(np.float64),
            task_N=arrays["task_N"],
        )
