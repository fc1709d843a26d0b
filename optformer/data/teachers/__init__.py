"""Teachers: search algorithms that run on many studies at once, by name.

`TEACHERS[name](spaces, seeds_B, budget)` creates one; `teacher.Teacher` is their interface.
`optimum_teacher`, `layernas_teacher`, `training_aware_teacher` and `vizier.vizier_teacher` create
factories that need more than a search space.
"""

import numpy as np
from jaxtyping import Int64

from optformer.data.teachers.cma_es import CmaEs
from optformer.data.teachers.eagle import EagleStrategy
from optformer.data.teachers.evolution import HillClimbing, ModelSearch, RegularizedEvolution
from optformer.data.teachers.grid import GridSearch, ShuffledGridSearch
from optformer.data.teachers.layernas import layernas_teacher
from optformer.data.teachers.policy_gradient import PolicyGradient
from optformer.data.teachers.random_search import QuasiRandom, RandomSearch, optimum_teacher
from optformer.data.teachers.teacher import Teacher, TeacherFactory
from optformer.data.teachers.tpe import Tpe
from optformer.data.teachers.training_aware import training_aware_teacher
from optformer.space import Spaces

__all__ = [
    "TEACHERS",
    "Teacher",
    "TeacherFactory",
    "layernas_teacher",
    "optimum_teacher",
    "training_aware_teacher",
]


def _gp_ucb(spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> Teacher:
    from optformer.data.teachers.gp_ucb import GpUcb  # imports JAX

    return GpUcb(spaces, seeds_B, budget)


TEACHERS: dict[str, TeacherFactory] = {
    "grid_search": GridSearch,
    "shuffled_grid_search": ShuffledGridSearch,
    "random_search": RandomSearch,
    "quasi_random": QuasiRandom,
    "regularized_evolution": RegularizedEvolution,
    "hill_climbing": HillClimbing,
    "eagle_strategy": EagleStrategy,
    "gp_ucb": _gp_ucb,
    "cma_es": CmaEs,
    "tpe": Tpe,
    "model_search": ModelSearch,
    "policy_gradient": PolicyGradient,
}
