"""Shards through SeqIO's own `get_dataset`, as T5X would read them."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from optformer.data import store
from optformer.errors import SourceError
from optformer.study import Problem, Study
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training import augment
from optformer.training.augment import AugmentConfig
from tests.studies import MIXED, plane, random_study
from tests.tokenization.released import released_tokenizer

seqio = pytest.importorskip("seqio", reason="needs the extra seqio, which brings TensorFlow")

from optformer.training import seqio_tasks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # TensorFlow's own

LENGTHS = seqio_tasks.feature_lengths(inputs=192, targets=96)
NAMES = (f"tests_{number}" for number in itertools.count())


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    for name, problem, trials in (("mixed", MIXED, 8), ("plane", plane(2), 24)):
        studies = [
            random_study(
                Problem(**{**vars(problem), "name": f"{name}-{n}", "title": ""}), trials, rng
            )
            for n in range(12)
        ]
        store.write(studies, tmp_path / name, source="test")
    return [tmp_path / "mixed", tmp_path / "plane"]


def dataset(name: str, split: str, **options: object) -> list[dict]:
    found = seqio.get_dataset(
        mixture_or_task_name=name,
        task_feature_lengths=LENGTHS,
        dataset_split=split,
        shuffle=False,
        num_epochs=1,
        feature_converter=seqio_tasks.StudyFeatureConverter(pack=bool(options.pop("pack", False))),
        seed=1,
        **options,
    )
    return list(found.as_numpy_iterator())


@pytest.mark.parametrize("tokenizer", [StudyTokenizer(), released_tokenizer()])
def test_validation_studies_come_as_our_tokenizer_has_them(
    folders: list[Path], tokenizer: StudyTokenizer
) -> None:
    task = seqio_tasks.register(next(NAMES), folders[:1], tokenizer, tokens=96, validation=1.0)[0]
    rows = dataset(task, "validation")
    studies = list(store.scan(folders[0]))
    assert len(rows) == len(studies) == 12
    for row, study in zip(rows, studies, strict=True):
        problem, trials = augment.plain(study, tokenizer, 96)
        start = len(problem.layout.prefix)
        stop = start + len(trials.ids_T)
        np.testing.assert_array_equal(
            row["encoder_input_tokens"][: len(problem.ids_S)], problem.ids_S
        )
        np.testing.assert_array_equal(row["decoder_target_tokens"][start:stop], trials.ids_T)
        np.testing.assert_array_equal(row["decoder_target_tokens"][:start], problem.layout.prefix)
        np.testing.assert_array_equal(
            row["decoder_input_tokens"][1:], row["decoder_target_tokens"][:-1]
        )
        # Separators, padding and what comes before the first trial are not learned.
        np.testing.assert_array_equal(row["decoder_loss_weights"][start:stop], trials.weights_T)
        assert not row["decoder_loss_weights"][:start].any()
        assert not row["decoder_loss_weights"][stop:].any()


def test_a_study_is_in_one_split_and_the_seed_decides_the_rest(folders: list[Path]) -> None:
    tokenizer, found = StudyTokenizer(), {}
    for split, seed in (("train", 0), ("train", 0), ("train", 1), ("validation", 0)):
        options = {"tokens": 96, "validation": 0.4, "config": AugmentConfig()}
        rows = list(
            seqio_tasks.examples(
                folders[0], tokenizer, split=split, seed=seed, shuffle=True, **options
            )
        )
        again = found.setdefault((split, seed), rows)
        for one, two in zip(rows, again, strict=True):
            np.testing.assert_array_equal(one["targets"], two["targets"])
    assert len(found["train", 0]) + len(found["validation", 0]) == 12
    assert 0 < len(found["validation", 0]) < 12
    shapes = [[row["targets"].tobytes() for row in found["train", seed]] for seed in (0, 1)]
    assert shapes[0] != shapes[1]


def test_a_mixture_has_all_tasks_and_packs_studies_together(folders: list[Path]) -> None:
    name = next(NAMES)
    tasks = seqio_tasks.register(name, folders, tokens=72, validation=0.0)
    assert tasks == [f"{name}_0", f"{name}_1"]
    rates = [seqio.MixtureRegistry.get(name).get_rate(seqio.TaskRegistry.get(t)) for t in tasks]
    assert rates[1] == 3 * rates[0]  # as they have trials
    rows = dataset(name, "train", pack=True)
    segments = np.concatenate([row["decoder_segment_ids"] for row in rows])
    assert segments.max() > 1
    for row in rows:
        counted = row["decoder_loss_weights"] > 0
        assert set(np.unique(row["decoder_loss_weights"])) <= {0, 1}
        assert (row["decoder_segment_ids"][counted] > 0).all()
        starts = np.diff(row["decoder_segment_ids"], prepend=0) != 0
        assert not row["decoder_input_tokens"][starts].any()


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no folders"):
        seqio_tasks.register(next(NAMES), [])
    empty: list[Study] = [random_study(plane(1), 0, np.random.default_rng(0))]
    store.write(empty, tmp_path / "empty", source="test")
    with pytest.raises(SourceError, match="has no trials"):
        seqio_tasks.register(next(NAMES), [tmp_path / "empty"])
