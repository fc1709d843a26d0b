"""Reading and writing T5X checkpoints of T5 1.1 models, such as Google's released OptFormers.

    checkpoint_700000/
      checkpoint                              msgpack: the step, and the location of each array
      target.decoder.layers_0.mlp.wo.kernel/  one of the model's arrays, zarr by TensorStore
      state.param_states.…/                   the optimizer's state, which is not read
      sentencepiece.model                     T5's vocabulary; T5X does not save it, so add it

T5X's `examples.t5` network names arrays like `decoder/layers_0/mlp/wo/kernel`. Its kernels join
the heads, [D, H·K], and one embedding table has rows for all ids. Reading executes no code from the
files.
"""

import contextlib
import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from optformer.errors import CheckpointError, ConfigError
from optformer.model import transformer
from optformer.model.config import T5_BASE, ModelConfig
from optformer.model.saved import T5X, Checkpoint
from optformer.model.transformer import AnyArray, Ids, Weights
from optformer.tokenization.tokenizer import RELEASED, StudyTokenizer, vocabulary_of

if TYPE_CHECKING:
    import tensorstore

VOCABULARY = "sentencepiece.model"

VERSION = 3
"""The version of T5X's checkpoint format since 2021."""

ALGORITHMS = (
    "designer_recursive_gp",
    "designer_eagle_strategy",
    "designer_reg_evo",
    "designer_hill_climb",
    "designer_random_search",
    "designer_grid_search_shuffled",
    "designer_grid_search",
)
"""The algorithms of the released models [google-research/optformer, neurips22]. The first is
GP-UCB."""

TOKENS = 1024
"""The longest trajectory in tokens, of the HPO-B model. The other released model allows more."""

EMBEDDING, HEAD = "token_embedder/embedding", "decoder/logits_dense/kernel"

SHAPES = ("width", "heads", "head_size", "feed_forward", "encoder_layers", "decoder_layers")
"""The fields that may differ between T5 models, besides dropout."""

SELF = {"encoder": "attention", "decoder": "self_attention"}
"""The name of self-attention in each stack."""

FEED_FORWARD = {"gate": "wi_0", "up": "wi_1", "down": "wo"}


def load(folder: Path) -> Checkpoint:
    """A model in the released format, trained by T5X, with its vocabulary in the folder.

    Raises:
      CheckpointError: a file is missing or damaged, or the model has another architecture.
    """
    path = folder / VOCABULARY
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is a T5X checkpoint without its vocabulary. Put T5's {VOCABULARY} beside "
            f"the file {T5X}: the one with 32,100 pieces, which T5 names cc_all.32000.100extra."
        )
    try:
        vocabulary = vocabulary_of(RELEASED, path.read_bytes())
    except ConfigError as error:
        raise CheckpointError(f"{path} is damaged: {error}. Copy it again.") from error
    weights, config = read(folder, Ids.of(vocabulary))
    return Checkpoint(
        config=config,
        tokenizer=StudyTokenizer(RELEASED, vocabulary),
        weights=weights,
        algorithms=ALGORITHMS,
        tokens=TOKENS,
        about={"source": "T5X", "step": int(_contents(folder)["state"]["step"])},
    )


def save(saved: Checkpoint, folder: Path, step: int = 0) -> None:
    """Writes a model as a T5X checkpoint that T5X and `load` can read.

    The names of algorithms and the longest trajectory are lost, because T5X does not store them.

    Raises:
      CheckpointError: the architecture or token format is not T5's, or the folder exists.
    """
    if saved.tokenizer.options != RELEASED:
        raise CheckpointError(
            "the tokenizer's options differ from the released format, with which T5X checkpoints "
            "are read. Train with tokenizer=released."
        )
    vocabulary = saved.tokenizer.vocabulary
    write(saved.weights, saved.config, Ids.of(vocabulary), folder, step, vocabulary.text_model)


def read(folder: Path, ids: Ids) -> tuple[Weights, ModelConfig]:
    """The weights (numpy, float32) of a T5X checkpoint, and the model's shape.

    Args:
      ids: the division of the rows of its embedding table.

    Raises:
      CheckpointError: names the first array that is missing, damaged, unexpected, or of another
        shape.
    """
    arrays, stores = _stored(folder, _contents(folder)["target"])
    shapes = {name: tuple(array.shape) for name, array in (arrays | stores).items()}
    try:
        config = _config(folder, shapes)
    except ConfigError as error:
        raise CheckpointError(f"{folder} has a model that is out of range: {error}") from error
    empty = jax.eval_shape(lambda: transformer.init(config, ids, jax.random.key(0)))
    want = {name: leaf.shape for name, leaf in jax.eval_shape(to_t5x, empty).items()}
    # Before anything is read: an array's file can be small where it is all one value.
    for name in sorted(want.keys() | shapes.keys()):
        got = shapes.get(name, "nothing")
        if want.get(name) != got:
            hint = f" Is {VOCABULARY} the one of its training?" if name in (EMBEDDING, HEAD) else ""
            raise CheckpointError(
                f"{folder} is not a T5 1.1 model with {ids.text} pieces, {ids.bins} bins and "
                f"{ids.statuses} rows of padding: {name} has shape {got}, but "
                f"{want.get(name, 'nothing')} is expected.{hint}"
            )
    arrays |= _values(folder, stores)
    cuts = [ids.text, ids.text + ids.bins]
    text_TD, bins_QD, padding_ND = np.split(arrays[EMBEDDING], cuts)
    head_text_TD, head_bins_QD, head_padding_ND = np.split(arrays[HEAD].T, cuts)

    def ours(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = _path(path)
        array = arrays[_name(name)]
        return (array.T if name.endswith(".position") else array).reshape(leaf.shape)

    stacks = {stack: empty[stack] for stack in SELF}
    return jax.tree_util.tree_map_with_path(ours, stacks) | {
        "text": text_TD,
        "numbers": {"bins": bins_QD, "statuses": padding_ND},
        "token_head": {"text": head_text_TD, "bins": head_bins_QD, "statuses": head_padding_ND},
    }, config


def write(
    weights: Weights,
    config: ModelConfig,
    ids: Ids,
    folder: Path,
    step: int = 0,
    text_model: bytes | None = None,
) -> None:
    """Writes the folder atomically, without an optimizer's state.

    Args:
      text_model: the SentencePiece model to write into the folder.

    Raises:
      CheckpointError: the architecture is not T5's, or the folder exists.
    """
    import tensorstore
    from flax import serialization, traverse_util

    given, released = dataclasses.asdict(config), dataclasses.asdict(_like_t5(config))
    wrong = [f"model.{k}={v!r} (T5: {released[k]!r})" for k, v in given.items() if v != released[k]]
    if wrong or not ids.text_output:
        raise CheckpointError(
            f"T5X has no model with {', '.join(wrong) or 'a decoder that outputs no text'}. "
            "Train with model=t5-base and tokenizer=released, in any width and depth."
        )
    transformer.check_weights(weights, config, ids)
    if folder.exists():
        raise CheckpointError(f"{folder} exists. Remove it, or choose another.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        specs, written = {}, []
        for name, array in to_t5x(weights).items():
            values = np.asarray(array, np.float32)
            place = f"target/{name}".replace("/", ".")
            specs[name] = {
                "driver": "zarr",
                "dtype": "float32",
                "kvstore": {"driver": "file", "path": place},
                "metadata": {
                    "compressor": {"id": "gzip", "level": 1},
                    "shape": list(values.shape),
                    "chunks": list(values.shape),
                },
            }
            kvstore = {"driver": "file", "path": str((temporary / place).resolve())}
            store = tensorstore.open(specs[name] | {"kvstore": kvstore}, create=True).result()
            written.append(store.write(values))
        for future in written:
            future.result()
        target = traverse_util.unflatten_dict(specs, sep="/")  # type: ignore[no-untyped-call]
        state = {"step": np.asarray(step, np.int32), "param_states": {}}
        contents = {"version": VERSION, "optimizer": {"target": target, "state": state}}
        (temporary / T5X).write_bytes(serialization.msgpack_serialize(contents))
        if text_model is not None:
            (temporary / VOCABULARY).write_bytes(text_model)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def to_t5x(weights: Weights) -> dict[str, AnyArray]:
    """Our weights as T5X's arrays, by name."""
    rows = [
        [table[part] for part in ("text", "bins", "statuses")]
        for table in ({"text": weights["text"]} | weights["numbers"], weights["token_head"])
    ]
    embedding_VD, head_VD = (jnp.concatenate(parts) for parts in rows)
    theirs: dict[str, AnyArray] = {EMBEDDING: embedding_VD, HEAD: head_VD.T}
    for path, leaf in jax.tree_util.tree_leaves_with_path({s: weights[s] for s in SELF}):
        name = _path(path)
        if name.endswith(".position"):
            leaf = leaf.T
        elif name.endswith((".query", ".key", ".value")):
            leaf = leaf.reshape(leaf.shape[0], -1)
        elif name.endswith(".out"):
            leaf = leaf.reshape(-1, leaf.shape[2])
        theirs[_name(name)] = leaf
    return theirs


def _contents(folder: Path) -> dict:
    """The contents of the msgpack file: `target` with arrays or their locations, and `state`."""
    from flax import serialization

    path = folder / T5X
    try:
        contents = serialization.msgpack_restore(path.read_bytes())
        optimizer = contents["optimizer"]
        return {"target": dict(optimizer["target"]), "state": {"step": optimizer["state"]["step"]}}
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no T5X checkpoint {path}.") from error
    except Exception as error:  # any, from a parser of damaged bytes
        raise CheckpointError(
            f"{path} is damaged or not a T5X checkpoint: {error!r}. Copy it again."
        ) from error


def _stored(
    folder: Path, target: dict
) -> "tuple[dict[str, np.ndarray], dict[str, tensorstore.TensorStore]]":
    """T5X's arrays by name: those in the msgpack file, and those in files of their own, unread."""
    from flax import traverse_util

    leaves = traverse_util.flatten_dict(  # type: ignore[no-untyped-call]
        target, is_leaf=lambda _, node: isinstance(node, dict) and "driver" in node, sep="/"
    )
    arrays, stores = {}, {}
    for name, leaf in leaves.items():
        with _reading(folder, name):
            if isinstance(leaf, np.ndarray):
                arrays[name] = _floating(leaf)
            else:
                stores[name] = _open(folder, leaf)
    return arrays, stores


def _values(folder: Path, stores: "Mapping[str, tensorstore.TensorStore]") -> dict[str, np.ndarray]:
    """What is in these files."""
    futures: dict[str, tensorstore.Future[np.ndarray]] = {}
    for name, store in stores.items():
        with _reading(folder, name):
            # TensorStore reads a missing chunk as its fill value.
            statistics = store.storage_statistics(query_fully_stored=True).result()
            stored: object = statistics.fully_stored  # its stub says None
            if not stored:
                raise ValueError("a part of it is missing")
            futures[name] = store.read()
    arrays = {}
    for name, future in futures.items():
        with _reading(folder, name):
            arrays[name] = _floating(future.result())
    return arrays


def _floating(array: np.ndarray) -> np.ndarray:
    """The array as float32.

    Raises:
      ValueError: it has other values than finite floating-point numbers.
    """
    # T5X before 2021-06 wrote half precision as uint16.
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"its numbers are {array.dtype}, not floating-point")
    array = array.astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise ValueError("it has numbers that are not finite")
    return array


def _open(folder: Path, placeholder: Mapping) -> "tensorstore.TensorStore":
    """The array of a placeholder, which may name the storage that T5X originally wrote to."""
    import tensorstore

    path = placeholder["kvstore"].get("path") or placeholder["path"]
    place = str(path).rstrip("/")
    if not re.fullmatch(r"\w[\w.]*", place):
        raise ValueError(f"{path!r} is not a folder of the checkpoint")
    kvstore = {"driver": "file", "path": str(folder.resolve() / place)}
    return tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True).result()


@contextlib.contextmanager
def _reading(folder: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"the array {name} of {folder} is missing or damaged: {error}. Copy the folder again."
        ) from error


def _config(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> ModelConfig:
    """The model's shape, inferred from some arrays; `read` checks all of them against it."""
    layers = {stack: {f"{stack}/layers_0"} for stack in SELF}
    for name in shapes:
        if match := re.match(r"(encoder|decoder)/layers_\d+", name):
            layers[match[1]].add(match[0])
    try:
        heads, _ = shapes["decoder/relpos_bias/rel_embedding"]
        width, inner = shapes["decoder/layers_0/self_attention/query/kernel"]
        _, feed_forward = shapes["decoder/layers_0/mlp/wi_0/kernel"]
        head_size = inner // heads
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{folder} is not a T5 1.1 encoder-decoder: {error} is missing or has another shape."
        ) from error
    return dataclasses.replace(
        T5_BASE,
        width=width,
        heads=heads,
        head_size=head_size,
        feed_forward=feed_forward,
        encoder_layers=len(layers["encoder"]),
        decoder_layers=len(layers["decoder"]),
    )


def _like_t5(config: ModelConfig) -> ModelConfig:
    """The T5 model of this size."""
    sizes = {name: getattr(config, name) for name in (*SHAPES, "dropout")}
    return dataclasses.replace(T5_BASE, **sizes)


def _path(path: tuple) -> str:
    """The path of a leaf, such as `decoder.layers.3.cross.query`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _name(path: str) -> str:
    """T5X's name of the array at a path, such as
    `decoder/layers_3/encoder_decoder_attention/query/kernel`."""
    stack, *parts = path.split(".")
    match parts:
        case ["position"]:
            return f"{stack}/relpos_bias/rel_embedding"
        case ["norm"]:
            return f"{stack}/{stack}_norm/scale"
        case ["layers", index, *inner]:
            layer = f"{stack}/layers_{index}"
    match inner:
        case ["self_norm"]:
            return f"{layer}/pre_{SELF[stack]}_layer_norm/scale"
        case ["cross_norm"]:
            return f"{layer}/pre_cross_attention_layer_norm/scale"
        case ["ff_norm"]:
            return f"{layer}/pre_mlp_layer_norm/scale"
        case ["ff", part]:
            return f"{layer}/mlp/{FEED_FORWARD[part]}/kernel"
        case ["self", part]:
            return f"{layer}/{SELF[stack]}/{part}/kernel"
        case ["cross", part]:
            return f"{layer}/encoder_decoder_attention/{part}/kernel"
    raise AssertionError(f"T5 has no array {path}")
