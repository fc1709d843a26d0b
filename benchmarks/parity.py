"""The largest difference between our logits and T5X's or Hugging Face's, for equal weights.

    python benchmarks/parity.py make DIR --size base      # where T5X can be imported
    python benchmarks/parity.py compare DIR --size base   # with optformer
    python benchmarks/parity.py restore DIR --size base   # where T5X can be imported
    python benchmarks/parity.py torch --size base         # with optformer[parity]

`make` lets T5X write a checkpoint, including its optimizer's state, and the logits of its network
for packed and padded rows. `compare` reads that checkpoint, compares logits, and writes the weights
as a T5X checkpoint; `restore` lets T5X read it, and compares arrays and logits. `torch` copies our
random weights into Hugging Face's T5. All in single precision on CPU.
"""

import argparse
import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import jax
    from t5x.examples.t5.network import Transformer
    from transformers import T5ForConditionalGeneration

    from optformer.model.config import ModelConfig
    from optformer.model.transformer import Ids, Weights

BINS = 1000
TEXT, TOKENS = 256, 1024  # row lengths: several times the position bias's maximum distance
STEP = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A T5 1.1 model."""

    vocabulary: int
    pieces: int
    width: int
    heads: int
    head_size: int
    feed_forward: int
    encoder_layers: int
    decoder_layers: int


SIZES = {
    # Heads times head size differs from the width, and the stacks have different depths.
    "small": Size(
        vocabulary=1280,
        pieces=250,
        width=64,
        heads=4,
        head_size=24,
        feed_forward=160,
        encoder_layers=2,
        decoder_layers=3,
    ),
    # The size of the released OptFormer.
    "base": Size(
        vocabulary=33152,
        pieces=32100,
        width=768,
        heads=12,
        head_size=64,
        feed_forward=2048,
        encoder_layers=12,
        decoder_layers=12,
    ),
}


def random_rows(size: Size, *, packed: bool) -> dict[str, np.ndarray]:
    """Two rows of random tokens with padding; if `packed`, the first holds two studies."""
    rng = np.random.default_rng(0)
    rows = {}
    for side, places in (("text", TEXT), ("targets", TOKENS)):
        segments_BT = np.zeros((2, places), np.int32)
        segments_BT[0, : places - 5] = 1
        segments_BT[1, : places * 3 // 4] = 1
        if packed:
            segments_BT[0, places // 2 : places - 5] = 2
        tokens_BT = rng.integers(1, size.vocabulary, segments_BT.shape, dtype=np.int32)
        rows[side] = np.where(segments_BT > 0, tokens_BT, 0)
        rows[f"{side}_segments"] = segments_BT
    starts_BT = np.diff(rows["targets_segments"], axis=1, prepend=0) != 0
    before_BT = np.pad(rows["targets"], ((0, 0), (1, 0)))[:, :-1]
    rows["inputs"] = np.where(starts_BT, 0, before_BT)
    return rows


def make(folder: Path, size: Size) -> None:
    """Writes T5X's checkpoint after one step of its Adafactor, and its logits."""
    import jax
    from t5x import adafactor, checkpoints, partitioning, train_state

    network, variables = t5x_network(size)
    rng = np.random.default_rng(1)
    # So that the norms' scales are not all 1.
    params = jax.tree.map(
        lambda a: a * rng.uniform(0.5, 1.5, a.shape).astype(np.float32), variables["params"]
    )
    rules = adafactor.standard_logical_factor_rules()
    optimizer = adafactor.Adafactor(decay_rate=0.8, step_offset=0, logical_factor_rules=rules)
    state = train_state.FlaxOptimTrainState.create(optimizer, {**variables, "params": params})
    gradients = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), params)
    state = state.apply_gradient(gradients, learning_rate=1e-3)
    shutil.rmtree(folder, ignore_errors=True)
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    checkpoints.Checkpointer(state, partitioner, str(folder)).save(state)
    np.save(folder / "logits.npy", t5x_logits(network, state.params, size))


def compare(folder: Path, size: Size) -> None:
    """Reads T5X's checkpoint, compares logits, and writes it again."""
    from optformer.model import t5x

    ids = ids_of(size)
    start = time.perf_counter()
    weights, config = t5x.read(folder / f"checkpoint_{STEP}", ids)
    read = time.perf_counter() - start
    rows = random_rows(size, packed=True)
    ours_BTV = our_logits(weights, config, ids, rows)
    report("ours, from T5X's checkpoint", ours_BTV, np.load(folder / "logits.npy"), rows)
    shutil.rmtree(folder / "ours", ignore_errors=True)
    start = time.perf_counter()
    t5x.write(weights, config, ids, folder / "ours" / f"checkpoint_{STEP}", STEP)
    print(f"read in {read:.1f} s, written in {time.perf_counter() - start:.1f} s")


def restore(folder: Path, size: Size) -> None:
    """T5X reads our checkpoint: the same arrays, to the bit, and the same logits."""
    import jax
    from flax import core
    from t5x import checkpoints, partitioning, train_state

    network, variables = t5x_network(size)
    state = train_state.InferenceState.create(variables)
    partitioner = partitioning.PjitPartitioner(num_partitions=1)
    checkpointer = checkpoints.Checkpointer(state, partitioner, str(folder / "ours"))
    restored = checkpointer.restore(step=STEP)
    own = checkpoints.load_t5x_checkpoint(str(folder), step=STEP)["target"]
    params = core.unfreeze(restored.params)
    jax.tree.map(np.testing.assert_array_equal, params, own)
    got_BTV = t5x_logits(network, params, size)
    rows = random_rows(size, packed=True)
    report("T5X's, from our checkpoint", got_BTV, np.load(folder / "logits.npy"), rows)


def compare_torch(size: Size) -> None:
    """Compares our model and Hugging Face's with the same random weights."""
    import jax

    from optformer.model import transformer
    from optformer.model.config import T5_BASE

    ids = ids_of(size)
    shape = {k: v for k, v in dataclasses.asdict(size).items() if hasattr(T5_BASE, k)}
    config = dataclasses.replace(T5_BASE, **shape)
    weights = perturbed(transformer.init(config, ids, jax.random.key(0)))
    rows = random_rows(size, packed=False)
    theirs_BTV = torch_logits(torch_model(weights, config, ids), rows)
    report(
        "ours, compared with Hugging Face's",
        our_logits(weights, config, ids, rows),
        theirs_BTV,
        rows,
    )


def perturbed(weights: "Weights") -> "Weights":
    """The weights times random factors, so that the norms' scales are not all 1."""
    import jax

    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: a * rng.uniform(0.5, 1.5, a.shape).astype(np.float32), weights)


def report(title: str, got_BTV: np.ndarray, want_BTV: np.ndarray, rows: Mapping) -> None:
    """Prints the largest difference at positions that belong to a study."""
    real_BT = rows["targets_segments"] > 0
    want_NV = want_BTV[real_BT]
    most = np.abs(got_BTV[real_BT] - want_NV).max()
    print(
        f"{title}: {most:.1e} at most over {want_NV.size:,} logits of standard deviation "
        f"{want_NV.std():.2f}, the largest {np.abs(want_NV).max():.1f}"
    )


def ids_of(size: Size) -> "Ids":
    """The division of the rows of the model's embedding table."""
    from optformer.model.transformer import Ids

    unused = size.vocabulary - size.pieces - BINS
    return Ids(text=size.pieces, bins=BINS, statuses=unused, text_output=True)


def our_logits(weights: "Weights", config: "ModelConfig", ids: "Ids", rows: Mapping) -> np.ndarray:
    """The logits of all positions, [B, T, V], padding included."""
    import jax

    from optformer.model import transformer

    @jax.jit
    def logits(weights: "Weights") -> "jax.Array":
        hidden_BTD = transformer.forward(
            weights,
            config,
            ids,
            text_BS=rows["text"],
            text_slots_BS=np.zeros_like(rows["text"]),
            text_segments_BS=rows["text_segments"],
            inputs_BT=rows["inputs"],
            input_slots_BT=np.zeros_like(rows["inputs"]),
            target_slots_BT=np.zeros_like(rows["inputs"]),
            segments_BT=rows["targets_segments"],
            trials_T=np.zeros(rows["inputs"].shape[1], np.int32),
        )
        return transformer.token_logits(weights, ids, hidden_BTD)

    return np.asarray(logits(weights))


def t5x_network(size: Size) -> "tuple[Transformer, dict]":
    """T5X's network and its initial variables."""
    import jax
    from t5x.examples.t5 import network

    config = network.T5Config(
        vocab_size=size.vocabulary,
        emb_dim=size.width,
        num_heads=size.heads,
        head_dim=size.head_size,
        mlp_dim=size.feed_forward,
        mlp_activations=("gelu", "linear"),
        num_encoder_layers=size.encoder_layers,
        num_decoder_layers=size.decoder_layers,
        dropout_rate=0.0,
        logits_via_embedding=False,
    )
    module = network.Transformer(config)
    ids = np.ones((1, 2), np.int32)
    init = jax.jit(lambda key: module.init(key, ids, ids, ids, enable_dropout=False))
    return module, init(jax.random.key(0))


def t5x_logits(module: "Transformer", params: dict, size: Size) -> np.ndarray:
    """The same as `our_logits` for packed rows, from T5X's network."""
    import jax

    rows = random_rows(size, packed=True)

    @jax.jit
    def logits(params: dict) -> "jax.Array":
        return module.apply(
            {"params": params},
            rows["text"],
            rows["inputs"],
            rows["targets"],
            encoder_segment_ids=rows["text_segments"],
            decoder_segment_ids=rows["targets_segments"],
            enable_dropout=False,
        )

    return np.asarray(logits(params))


def torch_t5(config: "ModelConfig", vocabulary: int) -> "T5ForConditionalGeneration":
    """Hugging Face's T5 1.1 with these sizes and random weights."""
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=vocabulary,
            d_model=config.width,
            num_heads=config.heads,
            d_kv=config.head_size,
            d_ff=config.feed_forward,
            num_layers=config.encoder_layers,
            num_decoder_layers=config.decoder_layers,
            relative_attention_num_buckets=config.buckets,
            relative_attention_max_distance=config.max_distance,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            dropout_rate=0.0,
            decoder_start_token_id=0,
            pad_token_id=0,
        )
    )


def torch_model(
    weights: "Weights", config: "ModelConfig", ids: "Ids"
) -> "T5ForConditionalGeneration":
    """Hugging Face's T5 with our weights."""
    import torch

    from optformer.model.t5x import to_t5x

    model = torch_t5(config, ids.outputs).eval()
    # From version 5 on, it is tied to the embedding unless a file sets this otherwise.
    model.lm_head = torch.nn.Linear(config.width, ids.outputs, bias=False)
    theirs = {}
    for name, array in to_t5x(weights).items():
        # T5X multiplies by kernels from the right, torch from the left; position tables, too,
        # are transposed.
        transposed = name.endswith(("kernel", "rel_embedding"))
        theirs[_torch_name(name)] = torch.tensor(np.asarray(array.T if transposed else array))
    for stack in ("encoder", "decoder"):
        theirs[f"{stack}.embed_tokens.weight"] = theirs["shared.weight"]
    model.load_state_dict(theirs, strict=True)
    return model


def torch_logits(model: "T5ForConditionalGeneration", rows: Mapping) -> np.ndarray:
    """The same as `our_logits`, for rows of one study each."""
    import torch

    with torch.no_grad():
        return model(
            input_ids=torch.tensor(rows["text"], dtype=torch.long),
            attention_mask=torch.tensor(rows["text_segments"] > 0),
            decoder_input_ids=torch.tensor(rows["inputs"], dtype=torch.long),
        ).logits.numpy()


def _torch_name(name: str) -> str:
    """Hugging Face's name of one of T5X's arrays."""
    from optformer.model.t5x import EMBEDDING, HEAD

    if name == EMBEDDING:
        return "shared.weight"
    if name == HEAD:
        return "lm_head.weight"
    stack, place, *inner = name.split("/")
    if place == "relpos_bias":
        return f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    if place == f"{stack}_norm":
        return f"{stack}.final_layer_norm.weight"
    feed_forward = 1 if stack == "encoder" else 2
    layer, part = {
        "attention": (0, "SelfAttention"),
        "self_attention": (0, "SelfAttention"),
        "encoder_decoder_attention": (1, "EncDecAttention"),
        "mlp": (feed_forward, "DenseReluDense"),
        "pre_attention_layer_norm": (0, "layer_norm"),
        "pre_self_attention_layer_norm": (0, "layer_norm"),
        "pre_cross_attention_layer_norm": (1, "layer_norm"),
        "pre_mlp_layer_norm": (feed_forward, "layer_norm"),
    }[inner[0]]
    leaf = {"query": "q", "key": "k", "value": "v", "out": "o"}.get(inner[1], inner[1])
    block = f"{stack}.block.{place.removeprefix('layers_')}.layer.{layer}.{part}"
    return f"{block}.weight" if leaf == "scale" else f"{block}.{leaf}.weight"


def main() -> None:
    """Runs one comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("step", choices=["make", "compare", "restore", "torch"])
    parser.add_argument("folder", type=Path, nargs="?", help="the folder for T5X's checkpoint")
    parser.add_argument("--size", choices=SIZES, default="small")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    if arguments.step == "torch":
        compare_torch(size)
    elif arguments.folder is None:
        parser.error(f"{arguments.step} needs a folder")
    else:
        {"make": make, "compare": compare, "restore": restore}[arguments.step](
            arguments.folder.resolve(), size
        )


if __name__ == "__main__":
    main()
