"""A T5X checkpoint loads back equal, or an error names the damage.

T5X itself is not needed: `benchmarks/parity.py` has it write and read such checkpoints.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from flax import serialization
from vizier import pyvizier as vz

import optformer
from optformer.errors import CheckpointError
from optformer.model import checkpoint, t5x, transformer
from optformer.model.config import MICRO, T5_BASE
from optformer.model.saved import Checkpoint
from optformer.model.transformer import Ids
from optformer.tokenization.tokenizer import StudyTokenizer
from optformer.training.sharding import to_numpy
from tests.tokenization.released import released_tokenizer

# No two sizes are equal, and heads times head size differs from the width.
CONFIG = dataclasses.replace(
    T5_BASE, width=20, heads=2, head_size=12, feed_forward=28, encoder_layers=1, decoder_layers=2
)
IDS = Ids.of(released_tokenizer().vocabulary)
WEIGHTS = to_numpy(transformer.init(CONFIG, IDS, jax.random.key(0)))
QUERY = "target.decoder.layers_1.self_attention.query.kernel"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    saved = Checkpoint(config=CONFIG, tokenizer=released_tokenizer(), weights=WEIGHTS)
    folder = tmp_path_factory.mktemp("t5x") / "checkpoint_700"
    t5x.save(saved, folder, step=700)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy for a test to damage."""
    return Path(shutil.copytree(written, tmp_path / "checkpoint_700"))


def contents(folder: Path) -> dict:
    return serialization.msgpack_restore((folder / "checkpoint").read_bytes())


def set_contents(folder: Path, tree: dict) -> None:
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(tree))


def test_a_written_checkpoint_loads_back_to_the_bit(written: Path) -> None:
    loaded = checkpoint.load(written)
    assert loaded.config == CONFIG
    assert loaded.tokenizer.options == released_tokenizer().options
    assert loaded.tokenizer.vocabulary.fingerprint == released_tokenizer().vocabulary.fingerprint
    assert loaded.about == {"source": "T5X", "step": 700}
    jax.tree.map(np.testing.assert_array_equal, loaded.weights, WEIGHTS)


def test_the_layout_is_that_of_t5x(written: Path) -> None:
    """Names and shapes of its `examples.t5` network, and placeholders as its writer makes them."""
    tree = contents(written)
    assert tree["version"] == 3
    assert tree["optimizer"]["state"]["step"] == 700
    target = tree["optimizer"]["target"]
    assert target.keys() == {"token_embedder", "encoder", "decoder"}
    layer = target["decoder"]["layers_1"]
    assert layer.keys() == {
        "pre_self_attention_layer_norm",
        "self_attention",
        "pre_cross_attention_layer_norm",
        "encoder_decoder_attention",
        "pre_mlp_layer_norm",
        "mlp",
    }
    assert layer["self_attention"]["query"]["kernel"] == {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "file", "path": QUERY},
        "metadata": {
            "compressor": {"id": "gzip", "level": 1},
            "shape": [20, 24],
            "chunks": [20, 24],
        },
    }
    shapes = {name: array.shape for name, array in t5x.to_t5x(WEIGHTS).items()}
    assert shapes["decoder/layers_1/self_attention/out/kernel"] == (24, 20)
    assert shapes["encoder/layers_0/mlp/wi_1/kernel"] == (20, 28)
    assert shapes["encoder/relpos_bias/rel_embedding"] == (2, 32)
    assert shapes["decoder/logits_dense/kernel"] == (20, IDS.outputs)
    assert shapes["token_embedder/embedding"] == (IDS.outputs, 20)


def test_a_loaded_model_suggests(written: Path) -> None:
    metric = vz.MetricInformation("y", goal=vz.ObjectiveMetricGoal.MAXIMIZE)
    problem = vz.ProblemStatement(metric_information=[metric])
    problem.search_space.root.add_float_param("x", 0.0, 1.0)
    model = optformer.load(written)
    [suggestion] = model.suggest(problem, seed=0)
    assert 0.0 <= suggestion.parameters.as_dict()["x"] <= 1.0
    assert model.teacher(None) == "designer_recursive_gp"


def test_arrays_are_read_from_placeholders_of_any_storage(folder: Path) -> None:
    """Of Google's storage, in TensorStore's old and new format, and from the msgpack itself."""
    tree = contents(folder)
    target = tree["optimizer"]["target"]
    decoder = target["decoder"]
    decoder["decoder_norm"]["scale"] = WEIGHTS["decoder"]["norm"]
    shutil.rmtree(folder / "target.decoder.decoder_norm.scale")
    older = decoder["logits_dense"]["kernel"]
    older["path"] = older["kvstore"].pop("path")
    older["kvstore"] |= {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
    newer = target["token_embedder"]["embedding"]
    newer["kvstore"] |= {"driver": "gcs", "bucket": "b", "path": newer["kvstore"]["path"] + "/"}
    set_contents(folder, tree)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.load(folder).weights, WEIGHTS)


def test_arrays_in_half_precision_and_many_chunks_are_read(folder: Path) -> None:
    shutil.rmtree(folder / QUERY)
    query_DHK = WEIGHTS["decoder"]["layers"][1]["self"]["query"]
    halves_DHK = query_DHK.astype(jnp.bfloat16)
    store = tensorstore.open(
        {
            "driver": "zarr",
            "dtype": "bfloat16",
            "kvstore": {"driver": "file", "path": str(folder / QUERY)},
            "metadata": {"shape": [20, 24], "chunks": [7, 24]},
        },
        create=True,
    ).result()
    store.write(halves_DHK.reshape(20, 24)).result()
    got_DHK = checkpoint.load(folder).weights["decoder"]["layers"][1]["self"]["query"]
    assert got_DHK.dtype == np.float32
    np.testing.assert_array_equal(got_DHK, halves_DHK.astype(np.float32))


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit(folder: Path, change: Callable[[dict], object]) -> None:
    tree = contents(folder)
    change(tree["optimizer"]["target"])
    set_contents(folder, tree)


def _other_shape(folder: Path) -> None:
    scale = {"scale": np.ones(21, np.float32)}
    _edit(folder, lambda target: target["encoder"].update(encoder_norm=scale))


def _elsewhere(folder: Path, path: str) -> None:
    place = {"driver": "file", "path": path}
    _edit(
        folder,
        lambda target: target["encoder"]["encoder_norm"]["scale"].update(kvstore=place),
    )


def _other_vocabulary(folder: Path) -> None:
    """A text model of another size."""
    from optformer.tokenization.vocabulary import train_text_model

    lines = ["another corpus", "with other words"] * 50
    (folder / "sentencepiece.model").write_bytes(train_text_model(lines, 300))


def _endless(folder: Path) -> None:
    """An array of 10^12 numbers in a file of a few bytes: all are the fill value."""
    path = folder / QUERY / ".zarray"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"shape": [10**6, 10**6], "fill_value": 0.0}))


def _fill(folder: Path) -> None:
    path = folder / QUERY / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fill_value": 0.0}))
    (folder / QUERY / "0.0").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: _flip(f / QUERY / "0.0"), "the array decoder/layers_1/self_attention/query"),
        (lambda f: _cut(f / QUERY / "0.0"), "the array decoder/layers_1/self_attention/query"),
        # TensorStore alone would read zeros.
        (lambda f: (f / QUERY / "0.0").unlink(), "query/kernel of .* a part of it is missing"),
        (_fill, "query/kernel of .* a part of it is missing"),
        (_endless, r"query/kernel has shape \(1000000, 1000000\), but \(20, 24\) is expected"),
        (lambda f: shutil.rmtree(f / QUERY), "query/kernel of .* is missing or damaged"),
        (lambda f: _cut(f / "checkpoint"), "checkpoint is damaged or not a T5X checkpoint"),
        (lambda f: (f / "checkpoint").write_bytes(b""), "checkpoint is damaged or not a T5X"),
        # TensorFlow's T5 has a file of that name too.
        (
            lambda f: (f / "checkpoint").write_bytes(b'model_checkpoint_path: "model.ckpt-1"'),
            "checkpoint is damaged or not a T5X checkpoint",
        ),
        (
            lambda f: _edit(f, lambda target: target["decoder"].pop("decoder_norm")),
            r"decoder_norm/scale has shape nothing, but \(20,\) is expected",
        ),
        (
            lambda f: _edit(f, lambda target: target["decoder"].pop("relpos_bias")),
            "not a T5 1.1 encoder-decoder: 'decoder/relpos_bias/rel_embedding' is missing",
        ),
        (
            lambda f: _edit(f, lambda target: target.pop("encoder")),
            "encoder/encoder_norm/scale has shape nothing",
        ),
        # T5 1.0 has one input kernel, and other models have more arrays.
        (
            lambda f: _edit(f, lambda t: t["decoder"].update(bias=np.ones(3, np.float32))),
            r"decoder/bias has shape \(3,\), but nothing is expected",
        ),
        (
            lambda f: _edit(f, lambda t: t["decoder"].update(bias=np.ones(3, np.uint16))),
            "decoder/bias of .* its numbers are uint16, not floating-point",
        ),
        (_other_shape, r"encoder_norm/scale has shape \(21,\), but \(20,\) is expected"),
        (lambda f: _elsewhere(f, "../secret"), "'../secret' is not a folder of the checkpoint"),
        (lambda f: _elsewhere(f, "/etc"), "'/etc' is not a folder of the checkpoint"),
        (lambda f: _elsewhere(f, ".."), "'..' is not a folder of the checkpoint"),
        (lambda f: (f / "sentencepiece.model").unlink(), r"without its vocabulary.*32,100 pieces"),
        (lambda f: (f / "sentencepiece.model").write_bytes(b"x"), "sentencepiece.model is damaged"),
        (_other_vocabulary, "is expected. Is sentencepiece.model the one of its training?"),
    ],
)
def test_damage_is_named(folder: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=says):
        checkpoint.load(folder)


def test_the_fingerprint_depends_on_the_weights(folder: Path) -> None:
    before = checkpoint.fingerprint(folder)
    assert before == checkpoint.fingerprint(folder)
    _flip(folder / QUERY / "0.0")
    assert before != checkpoint.fingerprint(folder)


def test_models_that_t5x_cannot_represent_are_not_written(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    with pytest.raises(CheckpointError, match=r"T5X has no model with .*model.slots=40 \(T5: 0\)"):
        t5x.write({}, MICRO, IDS, tmp_path / "a")
    with pytest.raises(CheckpointError, match="no model with a decoder that outputs no text"):
        t5x.write(WEIGHTS, CONFIG, dataclasses.replace(IDS, text_output=False), tmp_path / "a")
    with pytest.raises(CheckpointError, match="do not fit the model's configuration"):
        t5x.write(WEIGHTS, dataclasses.replace(CONFIG, width=24), IDS, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"exists\. Remove it, or choose another"):
        t5x.write(WEIGHTS, CONFIG, IDS, there)
    with pytest.raises(CheckpointError, match="options differ from the released format"):
        ours = Checkpoint(config=MICRO, tokenizer=StudyTokenizer(), weights={})
        t5x.save(ours, tmp_path / "a")
    assert list(tmp_path.iterdir()) == [there]
