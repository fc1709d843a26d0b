"""How fast training is, beside the machine's matrix products and Hugging Face's T5 in torch.

    python benchmarks/train.py --presets micro tiny small

For each preset: tokens a second and the share of the machine's rate of matrix products, at a batch
of one shape; then over real batches of generated studies, the share of the time spent waiting for
them. A step is timed as the fastest of several, as other work on the machine only adds to it.

The machine's rate is that of products of 1,024 x 1,024 matrices in single precision. A step's
products are counted in its program, gradients included. Torch trains the same architecture
(`T5ForConditionalGeneration`: the same sizes and numbers of tokens, without our slots, values and
second head) on the same cores with AdamW; it needs optformer[parity].
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from optformer.training.batches import Batch, Batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["micro", "tiny", "small"])
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a shape")
    parser.add_argument("--real", type=int, default=12, help="real batches; 0 leaves them out")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "PRESET"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, preset = options.measure
        measure = {"ours": ours, "real": real, "torch": theirs}[what]
        print(json.dumps(measure(preset, options) | {"peak": peak()}))
        return
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(
        "| preset | weights | GFLOP/s: machine | ours | share | tokens/s | torch | ratio |", end=""
    )
    print(" waiting | peak memory: ours | torch |\n" + "|---" * 11 + "|")
    for preset in options.presets:
        each = {what: child(what, preset) for what in ("ours", "torch", "real")}
        print(row(preset, **each), flush=True)


def row(preset: str, ours: dict, torch: dict, real: dict) -> str:
    """A row of the table."""
    cells = [
        preset,
        f"{ours['weights']:,}",
        f"{ours['machine']:.0f}",
        f"{ours['rate']:.0f}",
        f"{ours['rate'] / ours['machine']:.0%}",
        f"{ours['tokens']:,.0f}",
        f"{torch['tokens']:,.0f}" if torch else "no torch",
        f"{ours['tokens'] / torch['tokens']:.2f}" if torch else "",
        f"{real['waiting']:.1%}" if real else "",
        f"{ours['peak']:,.0f} MiB",
        f"{torch['peak']:,.0f} MiB" if torch else "",
    ]
    return f"| {' | '.join(cells)} |"


def child(what: str, preset: str) -> dict:
    """A measurement in a process of its own, so that its memory is only its own."""
    if what == "real" and "--real" in sys.argv and sys.argv[sys.argv.index("--real") + 1] == "0":
        return {}
    command = [sys.executable, *sys.argv, "--measure", what, preset]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(preset: str, options: argparse.Namespace) -> dict:
    """Our step at one shape, and the machine's matrix products just before it."""
    import jax

    from optformer.training.step import make_step, start
    from optformer.training.throughput import fastest, matrix_rate, products

    config, ids, batches, mesh = setting(preset, options)
    batch = full(batches, options)
    step = make_step(config.model, config.loss, config.optimizer, ids, seed=0, mesh=mesh)
    state = start(config, ids)
    weights = sum(leaf.size for leaf in jax.tree.leaves(state["weights"]))
    jaxpr = jax.make_jaxpr(lambda state: step(state, [batch], 1e-3, 4.0))(state)
    flops = sum(products(jaxpr.jaxpr))

    def once() -> None:
        nonlocal state
        state, measured = step(state, [batch], 1e-3, 4.0)
        jax.block_until_ready(measured)

    machine = matrix_rate() / 1e9
    seconds = fastest(once, options.steps)
    return {
        "machine": max(machine, matrix_rate() / 1e9),
        "rate": flops / seconds / 1e9,
        "tokens": batch.targets_BT.size / seconds,
        "weights": weights,
    }


def real(preset: str, options: argparse.Namespace) -> dict:
    """Generated studies, made by another process meanwhile; each shape is compiled beforehand."""
    if not options.real:
        return {}
    import jax

    from optformer.training.feed import feed
    from optformer.training.step import make_step, start

    config, ids, batches, mesh = setting(preset, options, experts=True)
    step = make_step(config.model, config.loss, config.optimizer, ids, seed=0, mesh=mesh)
    state = start(config, ids)
    for _ in range(2):  # the second time nothing is compiled
        waited, began = 0.0, time.perf_counter()
        with feed(batches, 0, options.real, 1) as made:
            for _ in range(options.real):
                before = time.perf_counter()
                batch = next(made)
                waited += time.perf_counter() - before
                state, measured = step(state, [batch], 1e-3, 4.0)
                jax.block_until_ready(measured)
    return {"waiting": waited / (time.perf_counter() - began)}


def theirs(preset: str, options: argparse.Namespace) -> dict:
    """Hugging Face's T5 with the same sizes; nothing where torch is not installed."""
    try:
        import torch
        import transformers  # noqa: F401 (what `torch_t5` needs)
    except ImportError as error:
        print(f"no torch column: {error}. Install optformer[parity].", file=sys.stderr)
        return {}
    from parity import torch_t5

    from optformer.training.throughput import fastest

    config, ids, batches, _ = setting(preset, options)
    torch.manual_seed(0)
    size = ids.text + ids.bins + ids.statuses
    network = torch_t5(config.model, size).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    text = torch.randint(1, size, full(batches, options).text_BS.shape)
    targets = torch.randint(1, size, (options.rows, options.tokens))

    def once() -> None:
        optimizer.zero_grad(set_to_none=True)
        network(input_ids=text, labels=targets).loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return {"tokens": targets.numel() / fastest(once, options.steps)}


def setting(preset: str, options: argparse.Namespace, *, experts: bool = False) -> tuple:
    """A run's configuration, and what it trains on. Torch's model has no experts."""
    from optformer.data.mixture import GeneratedSource
    from optformer.model.transformer import Ids
    from optformer.tokenization.tokenizer import StudyTokenizer
    from optformer.training import sharding
    from optformer.training.batches import Batches
    from optformer.training.config import load_config

    config = load_config(
        None,
        [
            f"model={preset}",
            f"batch.rows={options.rows}",
            f"batch.tokens={options.tokens}",
            "data.generated_weight=1.0",
            f"model.experts={str(experts).lower()}",
        ],
    )
    tokenizer = StudyTokenizer(config.tokenizer)
    made = GeneratedSource(config.data.generate, options.rows, options.tokens)
    batches = Batches([(made, 1.0)], tokenizer, config.batch, seed=0, ask_experts=experts)
    mesh = sharding.make_mesh(dataclasses.replace(config.train, devices=1), config.model)
    return config, Ids.of(tokenizer.vocabulary), batches, mesh


def full(batches: "Batches", options: argparse.Namespace) -> "Batch":
    """The first batch whose rows are as long as they can be."""
    shape = (options.rows, options.tokens)
    return next(b for b in map(batches.__getitem__, range(1000)) if b.targets_BT.shape == shape)


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
