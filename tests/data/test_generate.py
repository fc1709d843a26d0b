"""Synthetic studies are a function of config, seed and index; the manifest counts all of them."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Int64

from optformer.data import mixture, store
from optformer.data.generate import MANIFEST, generate
from optformer.data.mixture import (
    CHEAP_TEACHERS,
    GenerateConfig,
    GeneratedSource,
    Part,
    generate_block,
)
from optformer.data.problems.bbob import TEST_FAMILIES, BbobConfig, random_block
from optformer.data.problems.gaussian_process import GaussianProcessConfig
from optformer.data.problems.random_spaces import CONTINUOUS
from optformer.data.problems.surrogate import SurrogateConfig
from optformer.data.teachers import TEACHERS
from optformer.errors import ConfigError, SourceError, TeacherError
from optformer.space import Spaces
from optformer.study import State, Study, validate

# Small blocks of short studies, 8 in each shard.
SMALL = GenerateConfig(
    mixture=tuple(
        Part(problems=problems, most_parameters=4, trials=(5, 9))
        for problems in ("bbob", "gaussian_process")
    ),
    block=4,
    blocks_per_shard=2,
)


def _same(first: Study, second: Study) -> bool:
    predictions = [study.predictive_R2 for study in (first, second)]
    same_predictions = (
        predictions[0] is predictions[1] is None
        if predictions[0] is None or predictions[1] is None
        else np.array_equal(predictions[0], predictions[1])
    )
    return (
        first.problem == second.problem
        and first.algorithm == second.algorithm
        and np.array_equal(first.values_RP, second.values_RP)
        and np.array_equal(first.metrics_RM, second.metrics_RM, equal_nan=True)
        and same_predictions
    )


def test_a_block_is_a_function_of_config_seed_and_index() -> None:
    blocks = {
        (seed, index): generate_block(SMALL, seed, index) for seed in (0, 1) for index in range(6)
    }
    for (seed, index), studies in blocks.items():
        again = GeneratedSource(SMALL).draw(seed, index)
        assert all(map(_same, studies, again))
    firsts = [studies[0].metrics_RM[0, 0] for studies in blocks.values()]
    assert len(set(firsts)) == len(firsts)


@pytest.mark.parametrize("teacher", CHEAP_TEACHERS)  # slow ones have their own tests
@pytest.mark.parametrize("problems", ["bbob", "gaussian_process"])
def test_every_teacher_gives_valid_studies(problems: str, teacher: str) -> None:
    space = dataclasses.replace(CONTINUOUS, discrete=0.0)
    part = Part(
        problems=problems,  # type: ignore[arg-type]
        teachers=(teacher,),
        fewest_parameters=2,
        most_parameters=2,
        trials=(5,),
        bbob=BbobConfig(space=space),
        gaussian_process=GaussianProcessConfig(space=space),
    )
    studies = generate_block(GenerateConfig(mixture=(part,), block=3), 0, 0)
    assert len(studies) == 3
    for study in studies:
        validate(study)
        assert study.algorithm == teacher
        assert study.values_RP.shape == (5, 2)
        assert (study.predictive_R2 is not None) == (problems == "gaussian_process")


@pytest.mark.parametrize("teacher", ["layernas", "training_aware_evolution"])
def test_teachers_with_costs_search_architectures(teacher: str) -> None:
    part = Part(problems="layered", teachers=(teacher,), trials=(40,))
    studies = generate_block(GenerateConfig(mixture=(part,), block=5), 0, 0)
    assert {study.algorithm for study in studies} == {teacher}
    for study in studies:
        validate(study)
        assert (study.states_R == State.COMPLETED).any()
    with pytest.raises(ConfigError, match='needs a cost, which problems="bbob" do not have'):
        Part(teachers=(teacher,))


def test_past_studies_become_problems_unless_they_are_held_out(tmp_path: Path) -> None:
    for family in ("Sphere", "Lunacek"):
        config = GenerateConfig(
            mixture=(Part(bbob=BbobConfig(families=(family,)), fewest_parameters=2, trials=(20,)),),
            purpose="test",
            block=3,
        )
        generate(config, tmp_path / family, studies=3)
    sphere, lunacek = (
        Part(
            problems="surrogate",
            surrogate=SurrogateConfig(shards=(str(tmp_path / family),), model="nearest"),
            trials=(10,),
        )
        for family in ("Sphere", "Lunacek")
    )
    studies = generate_block(GenerateConfig(mixture=(sphere,), block=4), 0, 0)
    assert len(studies) == 4
    assert all(study.name.startswith("surrogate/bbob/Sphere/") for study in studies)
    with pytest.raises(ConfigError, match=r"Lunacek.*held out"):
        generate_block(GenerateConfig(mixture=(lunacek,)), 0, 0)
    assert generate_block(GenerateConfig(mixture=(lunacek,), purpose="test"), 0, 0)


def test_the_optimum_teacher_ends_at_the_optimum() -> None:
    gp = GaussianProcessConfig(search=64)
    parts = (
        Part(teachers=("optimum",), bbob=BbobConfig(noises=("NO_NOISE",)), most_parameters=3),
        Part(teachers=("optimum",), problems="gaussian_process", gaussian_process=gp, trials=(9,)),
    )
    for part in parts:
        config = GenerateConfig(mixture=(part,), block=40)
        made = mixture.generate_with_refusals(config, 0, 0)
        # Rotated functions on discrete levels have no known optimum.
        missing = 40 - len(made.studies)
        assert made.refused == ({"optimum: the optimum is not known": missing} if missing else {})
        assert len(made.studies) >= 10
        assert len({len(study) for study in made.studies}) > 3
        for study in made.studies:
            assert study.predictive_R2 is None
            if part.problems == "bbob":
                assert np.argmax(study.objective()) == len(study) - 1


def test_shards_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    manifests = [
        generate(SMALL, tmp_path / str(workers), seed=3, studies=30, workers=workers)
        for workers in (1, 2)
    ]
    assert manifests[0] == manifests[1]
    one, two = (list(store.scan(tmp_path / str(workers))) for workers in (1, 2))
    assert len(one) == 30
    assert all(map(_same, one, two))
    stream = [study for index in range(8) for study in generate_block(SMALL, 3, index)]
    assert all(map(_same, one, stream[:30]))


def test_a_ray_cluster_gives_the_same_shards(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is an extra: pip install 'optformer[ray]'")
    here = generate(SMALL, tmp_path / "here", seed=3, studies=30)
    there = generate(SMALL, tmp_path / "there", seed=3, studies=30, cluster="local")
    assert here == there
    files = [
        {path.name: path.read_bytes() for path in folder.glob("*")}
        for folder in (tmp_path / "here", tmp_path / "there")
    ]
    assert len(files[0]) == 5
    assert files[0] == files[1]


def test_the_manifest_counts_the_studies_in_the_shards(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    manifest = generate(
        SMALL,
        tmp_path,
        studies=30,
        progress=lambda done, total, note="": told.append((done, total)),
    )
    assert told == [(0, 30), (8, 30), (16, 30), (24, 30), (30, 30)]
    studies = list(store.scan(tmp_path))
    assert json.loads((tmp_path / MANIFEST).read_text("utf-8")) == json.loads(json.dumps(manifest))
    assert manifest["studies"] == len(studies) == 30
    assert manifest["trials"] == sum(map(len, studies))
    assert manifest["shards"] == len(store.shard_paths(tmp_path)) == 4
    assert manifest["studies_by_teacher"] == Counter(study.algorithm for study in studies)
    assert manifest["studies_by_family"] == Counter(
        study.name.rpartition("/")[0] for study in studies
    )
    assert manifest["studies_by_parameters"] == Counter(
        str(len(study.problem.parameters)) for study in studies
    )
    assert manifest["studies_by_trials"] == Counter(str(len(study)) for study in studies)


def test_a_longer_run_keeps_the_shards_of_a_shorter_one(tmp_path: Path) -> None:
    generate(SMALL, tmp_path / "grown", studies=12)
    kept = store.shard_paths(tmp_path / "grown")[0]
    before = kept.stat().st_mtime_ns
    assert generate(SMALL, tmp_path / "grown", studies=30)["studies"] == 30
    assert kept.stat().st_mtime_ns == before
    generate(SMALL, tmp_path / "whole", studies=30)
    assert all(map(_same, store.scan(tmp_path / "grown"), store.scan(tmp_path / "whole")))
    # A shorter run deletes nothing.
    assert generate(SMALL, tmp_path / "grown", studies=10)["studies"] == 30


def test_a_killed_run_resumes(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from optformer.data.generate import generate
from optformer.data.mixture import GenerateConfig, Part
if __name__ == "__main__":
    part = Part(most_parameters=3, trials=(5,))
    config = GenerateConfig(mixture=(part,), block=16, blocks_per_shard=1)
    generate(config, Path(sys.argv[1]), studies=int(sys.argv[2]), workers=2)
"""
    (tmp_path / "script.py").write_text(script, "utf-8")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, str(tmp_path / "script.py"), str(killed), "1000000"]
    with subprocess.Popen(command, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while len(list(killed.glob("*.parquet"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    _wait_for_no_process_of(process.pid)
    finished = store.shard_paths(killed)
    assert len(finished) >= 4
    before = {path: path.stat().st_mtime_ns for path in finished}
    part = Part(most_parameters=3, trials=(5,))
    config = GenerateConfig(mixture=(part,), block=16, blocks_per_shard=1)
    studies = 16 * (len(finished) + 3)
    generate(config, killed, studies=studies)
    generate(config, whole, studies=studies)
    assert all(path.stat().st_mtime_ns == before[path] for path in finished)
    shards = [store.shard_paths(folder)[: len(finished)] for folder in (killed, whole)]
    assert [path.name for path in shards[0]] == [path.name for path in shards[1]]
    assert all(map(_same, store.scan(shards[0]), store.scan(shards[1])))


def _wait_for_no_process_of(session: int) -> None:
    """Workers of a killed run must end by themselves."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(session, signal.SIGKILL)
    pytest.fail("workers outlived their killed parent by 30 seconds")


def test_a_folder_of_another_stream_is_rejected(tmp_path: Path) -> None:
    generate(SMALL, tmp_path, studies=8)
    with pytest.raises(SourceError, match="another config or seed"):
        generate(SMALL, tmp_path, studies=8, seed=1)
    with pytest.raises(SourceError, match="another config or seed"):
        generate(dataclasses.replace(SMALL, block=2), tmp_path, studies=8)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_ends_the_run_soon(workers: int, tmp_path: Path) -> None:
    nothing_there = SurrogateConfig(shards=(str(tmp_path / "nothing"),))
    parts = (
        Part(trials=(3,), most_parameters=2),
        Part(problems="surrogate", surrogate=nothing_there, weight=0.2),
    )
    config = GenerateConfig(mixture=parts, block=2, blocks_per_shard=1)
    with pytest.raises(SourceError, match="nothing does not exist"):
        generate(config, tmp_path / "made", studies=20_000, workers=workers)
    # Finished shards are kept.
    assert 0 <= len(list((tmp_path / "made").glob("*.parquet"))) < 1000


def _picky(spaces: Spaces, seeds_B: Int64[np.ndarray, " B"], budget: int) -> object:
    raise TeacherError("it does not support categories")


def test_another_teacher_searches_a_refused_space_and_it_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEACHERS, "picky", _picky)  # type: ignore[arg-type]
    part = Part(teachers=("picky", "random_search"), trials=(3,))
    config = GenerateConfig(mixture=(part,), block=4)
    manifest = generate(config, tmp_path, studies=40)
    assert manifest["studies_by_teacher"] == {"random_search": 40}
    refused = manifest["studies_refused"]
    assert isinstance(refused, dict)
    assert list(refused) == ["picky: it does not support categories"]
    assert 4 <= refused["picky: it does not support categories"] <= 36
    only_picky = GenerateConfig(mixture=(Part(teachers=("picky",)),), block=4)
    with pytest.raises(ConfigError, match=r"no study.*it does not support categories \(400\)"):
        generate_block(only_picky, 0, 0)


@pytest.mark.parametrize("family", TEST_FAMILIES)
def test_training_data_of_test_families_is_rejected(family: str) -> None:
    part = Part(bbob=BbobConfig(families=("Sphere", family)))
    with pytest.raises(ConfigError, match=f"{family}.*held out"):
        GenerateConfig(mixture=(part,))
    GenerateConfig(mixture=(part,), purpose="test")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Part(teachers=("ransom_search",)), "teacher 'ransom_search' is unknown"),
        (lambda: Part(teachers=()), "none"),
        (lambda: Part(fewest_parameters=3, most_parameters=2), "from 3 to 2"),
        (lambda: Part(trials=(10, 0)), "trials"),
        (lambda: Part(weight=-1.0), "weight -1.0"),
        (
            lambda: Part(problems="gaussian_process", teachers=("optimum",)),
            "gaussian_process.search",
        ),
        (lambda: GenerateConfig(mixture=()), "at least one part"),
        (lambda: GenerateConfig(mixture=(Part(weight=0.0),)), "positive weight"),
        (lambda: GenerateConfig(block=0), "block 0"),
    ],
)
def test_invalid_settings_are_rejected(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_search_observes_the_values_in_its_study() -> None:
    """The steps of hill climbing start from the best point so far."""
    rng = np.random.default_rng(0)
    config = BbobConfig(families=("Sphere",), noises=("NO_NOISE",), space=CONTINUOUS)
    studies = mixture.run_teacher("hill_climbing", random_block(config, rng, 8, 4), 60, rng)
    for study in studies:
        best_R = np.maximum.accumulate(study.objective())
        for row in range(40, 60):
            best = study.values_RP[np.argmax(study.objective()[:row])]
            assert (study.values_RP[row] == best).any()
        assert best_R[-1] > best_R[5]
