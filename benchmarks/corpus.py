"""What a folder of tuning studies holds, and how well a forest predicts each learner's scores.

    python benchmarks/corpus.py examples/corpus

For each learner (what stands before the slash of a study's name): studies, trials, infeasible
trials, data sets, search spaces, studies with learning curves, and the median over its studies of
the cross-validated R2 and rank correlation of a random forest of 50 trees (five parts). Metrics are
clipped at their 5 % worst, so that a diverged trial does not decide R2. Needs scikit-learn.
"""

import argparse
import collections
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold, cross_val_predict

from optformer import space
from optformer.data import store
from optformer.study import State, Study

INACTIVE = -1.0


def quality(study: Study) -> tuple[float, float]:
    """Cross-validated R2 and rank correlation of a forest on the completed trials."""
    completed_R = study.states_R == State.COMPLETED
    values_RP = study.values_RP[completed_R]
    units_RP = np.full(values_RP.shape, INACTIVE)
    for column, parameter in enumerate(study.problem.parameters):
        there_R = ~np.isnan(values_RP[:, column])
        units_RP[there_R, column] = space.column_to_units(parameter, values_RP[there_R, column])
    objective_R = study.objective()[completed_R]
    objective_R = np.maximum(objective_R, np.quantile(objective_R, 0.05))
    forest = RandomForestRegressor(50, random_state=0)
    parts = KFold(5, shuffle=True, random_state=0)
    predicted_R = cross_val_predict(forest, units_RP, objective_R, cv=parts)
    error = np.sum((predicted_R - objective_R) ** 2)
    spread = np.sum((objective_R - objective_R.mean()) ** 2)
    rank = float(spearmanr(predicted_R, objective_R).statistic) if np.ptp(predicted_R) else 0.0
    return 1 - float(error / spread) if spread else float("nan"), rank


def main() -> None:
    """Prints one line a learner, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("shards", type=Path, help="a folder of study shards")
    parser.add_argument("--most", type=int, default=30, help="studies of a learner to fit")
    options = parser.parse_args()
    by_learner: dict[str, list[Study]] = collections.defaultdict(list)
    for study in store.scan(options.shards):
        by_learner[study.name.partition("/")[0]].append(study)
    print(
        "learner                  studies  trials  infeasible  data sets  real  curves    R2  rank"
    )
    everything = [study for studies in by_learner.values() for study in studies]
    for learner, studies in [*sorted(by_learner.items()), ("all", everything)]:
        trials = sum(map(len, studies))
        failed = sum(int(np.sum(study.states_R == State.INFEASIBLE)) for study in studies)
        data_sets = {study.data_set for study in studies}
        real = sum(not study.data_set.startswith("synthetic/") for study in studies)
        curves = sum(study.curves is not None for study in studies)
        line = f"{learner:24s} {len(studies):7d} {trials:7d} {failed:11d} {len(data_sets):10d} "
        line += f"{real:5d} {curves:7d}"
        if learner != "all":
            found = np.array([quality(study) for study in studies[: options.most]])
            line += " {:5.2f} {:5.2f}".format(*np.nanmedian(found, axis=0))
        print(line, flush=True)


if __name__ == "__main__":
    main()
