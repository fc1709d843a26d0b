"""LayerNAS: layer by layer, the best trial of each cost bucket is extended by all options.

Fan et al., LayerNAS: Neural Architecture Search in Polynomial Complexity, 2023.

Array dimensions: B studies, P parameters (layers), H cost buckets, N points.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64

from optformer.data.teachers.teacher import TeacherFactory
from optformer.space import Spaces

OPTIONS = 10  # of a continuous parameter

Cost = Callable[[Float64[np.ndarray, "B N P"]], Float64[np.ndarray, "B N"]]


def layernas_teacher(cost: Cost, buckets: int = 10) -> TeacherFactory:
    """A teacher for spaces whose parameters are ordered layers, with a cost for every point.

    Like `optimum_teacher`, it belongs to one block of problems, so it is not in `TEACHERS`.
    """

    def factory(spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> LayerNas:
        return LayerNas(spaces, seeds_B, cost, buckets)

    return factory


@dataclasses.dataclass(kw_only=True, eq=False)
class _OneStudy:
    """The table of one study: the best known point of each cost bucket for each layer."""

    options: list[np.ndarray]  # of each layer
    default_P: Float64[np.ndarray, " P"]
    generator: np.random.Generator
    layer: int = -1
    queue: list[np.ndarray] = dataclasses.field(default_factory=list)
    table: list[dict[int, tuple[float, np.ndarray]]] = dataclasses.field(default_factory=list)
    seen: set[bytes] = dataclasses.field(default_factory=set)
    best: tuple[float, np.ndarray] | None = None
    failed: bool = False  # since the first layer began

    def __post_init__(self) -> None:
        self._new_table()

    def suggest(self) -> Float64[np.ndarray, " P"]:
        # A layer may have no new points. After a round without any, the points are random.
        for _ in range(len(self.options) + 1):
            if self.queue:
                break
            self._next_layer()
        if not self.queue:
            return np.array([self.generator.choice(levels) for levels in self.options])
        return self.queue.pop()

    def observe(self, units_P: np.ndarray, value: float, bucket: int) -> None:
        self.seen.add(_key(units_P))
        if np.isnan(value):
            self.failed = True
            return
        if self.best is None or value > self.best[0]:
            self.best = (value, units_P)
        # The trial is an entry for every layer after which it has only defaults.
        for layer in reversed(range(len(self.options))):
            entry = self.table[layer].get(bucket)
            if entry is None or value > entry[0]:
                self.table[layer][bucket] = (value, units_P)
            if abs(units_P[layer] - self.default_P[layer]) > 1e-9:
                return

    def _new_table(self) -> None:
        self.table = [{} for _ in self.options]

    def _next_layer(self) -> None:
        if self.layer == 0 and self.failed and self.best is None:
            # With the last option everywhere, the budget is exceeded for any first layer.
            self.layer, self.failed = -1, False
            self.default_P = np.array([levels[len(levels) // 2] for levels in self.options])
        self.layer += 1
        if self.layer == len(self.options):
            # The next round uses the best point as the default.
            self.layer = 0
            self._new_table()
            self.default_P = self.default_P if self.best is None else self.best[1]
        before = self.table[self.layer - 1] if self.layer else {}
        parents = [point_P for _, point_P in before.values()] or [self.default_P]
        for parent_P in parents:
            for option in self.options[self.layer]:
                child_P = parent_P.copy()
                child_P[self.layer] = option
                if _key(child_P) not in self.seen:
                    self.seen.add(_key(child_P))
                    self.queue.append(child_P)
        self.generator.shuffle(self.queue)


class LayerNas:
    """Dynamic programming over layers. Undecided layers have a default, the last option.

    If no trial is feasible with that default, the default is the middle option. This rule is ours:
    on random layered spaces with a budget it halves the number of trials, from 100 to 50. Foreign
    trials enter the table, too. The buckets divide the range of costs of 256 random points evenly.
    """

    def __init__(
        self, spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], cost: Cost, buckets: int
    ) -> None:
        self._cost = cost
        self._buckets = buckets
        self._studies = []
        for levels_P, seed in zip(spaces.levels_BP, seeds_B, strict=True):
            options = [
                (np.arange(count) + 0.5) / count for count in np.where(levels_P, levels_P, OPTIONS)
            ]
            self._studies.append(
                _OneStudy(
                    options=options,
                    default_P=np.array([levels[-1] for levels in options]),
                    generator=np.random.default_rng(seed),
                )
            )
        uniform_BNP = np.stack(
            [
                np.random.default_rng(seed).random((256, spaces.levels_BP.shape[1]))
                for seed in seeds_B
            ]
        )
        cost_BN = cost(spaces.snap(uniform_BNP))
        self._low_B, self._high_B = cost_BN.min(axis=1), cost_BN.max(axis=1)

    def suggest(self) -> Float64[np.ndarray, "B P"]:
        return np.stack([study.suggest() for study in self._studies])

    def observe(
        self, units_BP: Float64[np.ndarray, "B P"], values_B: Float64[np.ndarray, " B"]
    ) -> None:
        cost_B = self._cost(units_BP[:, None])[:, 0]
        width_B = np.maximum(self._high_B - self._low_B, 1e-12)
        place_B = np.floor((cost_B - self._low_B) / width_B * self._buckets)
        bucket_B = np.clip(place_B, 0, self._buckets - 1).astype(int)
        for study, units_P, value, bucket in zip(
            self._studies, units_BP, values_B, bucket_B, strict=True
        ):
            study.observe(units_P, float(value), int(bucket))


def _key(units_P: np.ndarray) -> bytes:
    return np.round(units_P, 9).tobytes()
