"""Study shards as SeqIO tasks and a mixture of them, for T5X and other trainers that use SeqIO.

    import seqio
    from optformer.training import seqio_tasks

    seqio_tasks.register("studies", ["shards/hpo", "shards/nas"], tokens=1024)
    dataset = seqio.get_dataset(
        mixture_or_task_name="studies",
        task_feature_lengths=seqio_tasks.feature_lengths(inputs=256, targets=1024),
        feature_converter=seqio_tasks.StudyFeatureConverter(pack=False),
        dataset_split="train",
    )

Studies are augmented and tokenized while they are read, by the functions that our own trainer
uses. An example has `inputs`, the text of the search space; `targets`, the trials; and
`targets_counted`, which tokens the loss counts: 2 those it counts, 1 others, as 0 is padding.

SeqIO brings TensorFlow: pip install 'optformer[seqio]'. Slots and exact targets, which T5 models
have no inputs for, stay out.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf
from jaxtyping import Int32

from optformer.data import store
from optformer.errors import SourceError
from optformer.tokenization.tokenizer import EncodedProblem, EncodedTrials, StudyTokenizer
from optformer.training import augment
from optformer.training.augment import AugmentConfig
from optformer.training.batches import is_held_out

SPLITS = ("train", "validation")

COUNTED, NOT_COUNTED = 2, 1

Example = dict[str, Int32[np.ndarray, " T"]]


class StudyFeatureConverter(seqio.EncDecFeatureConverter):
    """SeqIO's features of an encoder-decoder, with a loss on the tokens that count only."""

    TASK_FEATURES: Mapping[str, seqio.FeatureConverter.FeatureSpec] = {
        **seqio.EncDecFeatureConverter.TASK_FEATURES,
        "targets_counted": seqio.FeatureConverter.FeatureSpec(dtype=tf.int32),
    }

    def _convert_example(self, features: Mapping[str, tf.Tensor]) -> Mapping[str, tf.Tensor]:
        example = dict(super()._convert_example(features))
        counted = tf.equal(features["targets_counted"], COUNTED)
        example["decoder_loss_weights"] *= tf.cast(counted, example["decoder_loss_weights"].dtype)
        return example


def register(
    name: str,
    folders: Sequence[str | Path],
    tokenizer: StudyTokenizer | None = None,
    *,
    tokens: int = 2048,
    validation: float = 0.05,
    config: AugmentConfig | None = None,
) -> list[str]:
    """Adds a task for each folder of shards, and the mixture `name` of them.

    Each task has as large a share of the mixture as it has trials. The split `train` is augmented
    and runs through each shard once in order of names, or shuffled as SeqIO asks; `validation` is
    not augmented. Which studies it has depends on their titles or names alone.

    Args:
      tokenizer: ours, by default; with the released preset, examples are OptFormer's own.
      tokens: of a trajectory, at most; trials that do not fit are left out.
      validation: the share of studies that are only in the split `validation`.

    Returns:
      The names of the tasks: `name` and a number, as in studies_0.

    Raises:
      SourceError: a folder without studies, or none at all.
    """
    if not folders:
        raise SourceError(f"mixture {name!r} has no folders of shards. Name at least one.")
    tokenizer = tokenizer or StudyTokenizer()
    ids = seqio.PassThroughVocabulary(size=tokenizer.vocabulary.size)
    counted = seqio.PassThroughVocabulary(size=COUNTED + 1)
    features = {
        "inputs": seqio.Feature(vocabulary=ids, add_eos=False),
        "targets": seqio.Feature(vocabulary=ids, add_eos=False),
        "targets_counted": seqio.Feature(vocabulary=counted, add_eos=False),
    }
    shares = []
    for number, folder in enumerate(map(Path, folders)):
        trials = store.summarize(folder).trials
        if not trials:
            raise SourceError(f"{folder} has no trials to train on. Import or generate some first.")
        task = f"{name}_{number}"
        source = _source(folder, tokenizer, tokens, validation, config or AugmentConfig())
        seqio.TaskRegistry.add(task, source=source, output_features=features)
        shares.append((task, float(trials)))
    seqio.MixtureRegistry.add(name, shares)
    return [task for task, _ in shares]


def feature_lengths(inputs: int, targets: int) -> dict[str, int]:
    """The lengths that SeqIO wants of each feature."""
    return {"inputs": inputs, "targets": targets, "targets_counted": targets}


def examples(
    folder: Path,
    tokenizer: StudyTokenizer,
    *,
    split: str,
    tokens: int,
    validation: float,
    config: AugmentConfig,
    seed: int | None,
    shuffle: bool,
) -> Iterator[Example]:
    """The studies of a split as token arrays; the same seed gives the same examples."""
    rng = np.random.default_rng(seed)
    paths = store.shard_paths(folder)
    if shuffle:
        paths = [paths[index] for index in rng.permutation(len(paths))]
    for path in paths:
        for study in store.read_shard(path):
            if not len(study) or is_held_out(study, validation) != (split == "validation"):
                continue
            if split == "train":
                yield example(*augment.augment(study, tokenizer, config, tokens, rng))
            else:
                yield example(*augment.plain(study, tokenizer, tokens))


def example(problem: EncodedProblem, trials: EncodedTrials) -> Example:
    """One study as SeqIO's features."""
    prefix = np.array(problem.layout.prefix, dtype=np.int32)
    counted_T = np.where(trials.weights_T > 0, COUNTED, NOT_COUNTED).astype(np.int32)
    return {
        "inputs": problem.ids_S,
        "targets": np.concatenate([prefix, trials.ids_T]),
        "targets_counted": np.concatenate([np.full_like(prefix, NOT_COUNTED), counted_T]),
    }


def _source(
    folder: Path,
    tokenizer: StudyTokenizer,
    tokens: int,
    validation: float,
    config: AugmentConfig,
) -> seqio.DataSource:
    def dataset(
        split: str, shuffle_files: bool = False, seed: int | None = None
    ) -> tf.data.Dataset:
        ids = tf.TensorSpec([None], tf.int32)
        return tf.data.Dataset.from_generator(
            lambda: examples(
                folder,
                tokenizer,
                split=split,
                tokens=tokens,
                validation=validation,
                config=config,
                seed=seed,
                shuffle=shuffle_files,
            ),
            output_signature={"inputs": ids, "targets": ids, "targets_counted": ids},
        )

    return seqio.FunctionDataSource(dataset, splits=SPLITS)
