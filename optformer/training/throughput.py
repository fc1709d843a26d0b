"""How fast a step is on this machine, beside its own rate of matrix products."""

import dataclasses
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from optformer.model.config import SMALL, TINY
from optformer.model.transformer import Ids
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import sharding
from optformer.training.batches import Batch
from optformer.training.config import RunConfig
from optformer.training.step import start, step_of

MODELS = {
    "tiny": TINY,
    "between": dataclasses.replace(SMALL, width=160, heads=5, feed_forward=448),
    "small": SMALL,
}

MATRIX = {"cpu": 1024, "gpu": 8192, "tpu": 8192}
"""The size of the matrices whose products give the machine's rate, by JAX's name of it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """The step of one model.

    Attributes:
      first: seconds until the first step was made.
      step: seconds of the fastest of several.
      tokens: decoder tokens a second, padding not counted.
      share: of the machine's rate of matrix products in the same precision.
    """

    model: str
    compute: str
    weights: int
    first: float
    step: float
    tokens: float
    share: float

    def __str__(self) -> str:
        return (
            f"{self.model:>8} {self.compute:>8} {self.weights / 1e6:6.2f} M weights: first step "
            f"{self.first:5.1f} s, then {1e3 * self.step:7.1f} ms, {self.tokens:11,.0f} tokens/s, "
            f"{self.share:.1%} of the matrix rate"
        )


def table(config: RunConfig, batch: Batch, until: float) -> Iterator[Row]:
    """The step of several models in both precisions, until this time of `time.time`."""
    ids = Ids.of(StudyTokenizer(config.tokenizer).vocabulary)
    mesh = sharding.make_mesh(config.train, config.model)
    rates: dict[str, float] = {}
    for name, model in MODELS.items():
        for compute in ("float32", "bfloat16"):
            if time.time() >= until:
                return
            if compute not in rates:
                rates[compute] = matrix_rate(compute)
            run = dataclasses.replace(
                config,
                model=dataclasses.replace(model, experts=config.model.experts),
                train=dataclasses.replace(config.train, compute=compute),
            )
            step = step_of(run, ids, mesh)
            state = sharding.place(start(run, ids), mesh)
            weights = sum(leaf.size for leaf in jax.tree.leaves(state["weights"]))
            program = jax.make_jaxpr(lambda state, step=step: step(state, [batch], 1e-3, 4.0))
            operations = sum(products(program(state).jaxpr))

            def once(step: object = step) -> None:
                nonlocal state
                state, measured = step(state, [batch], 1e-3, 4.0)  # type: ignore[operator]
                jax.device_get(measured)

            began = time.perf_counter()
            once()
            first = time.perf_counter() - began
            seconds = fastest(once, 5)
            yield Row(
                model=name,
                compute=compute,
                weights=weights,
                first=first,
                step=seconds,
                tokens=float((batch.weights_BT > 0).sum()) / seconds,
                share=operations / seconds / rates[compute],
            )


def matrix_rate(compute: str = "float32") -> float:
    """Operations a second in products of two large matrices, the fastest of several."""
    size = MATRIX.get(jax.default_backend(), 4096)
    numbers = np.random.default_rng(0).normal(size=(size, size))
    matrix = jnp.asarray(numbers, jnp.dtype(compute))
    product = jax.jit(jnp.matmul)

    def once() -> None:
        product(matrix, matrix).block_until_ready()

    return 2 * size**3 / fastest(once, 20)


def fastest(once: Callable[[], object], times: int) -> float:
    """Seconds of the fastest call; the first two do not count."""
    once()
    once()
    took = []
    for _ in range(times):
        before = time.perf_counter()
        once()
        took.append(time.perf_counter() - before)
    return min(took)


def products(jaxpr: object) -> Iterator[float]:
    """The operations of each matrix product in a program: two for each multiplication."""
    for equation in jaxpr.eqns:  # type: ignore[attr-defined]
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = np.prod([shape[axis] for axis in contracted])
            yield 2.0 * float(np.prod(equation.outvars[0].aval.shape)) * float(inner)
        for value in equation.params.values():
            for inside in value if isinstance(value, tuple | list) else (value,):
                if hasattr(inside, "eqns"):
                    yield from products(inside)
                elif hasattr(inside, "jaxpr"):
                    yield from products(inside.jaxpr)
