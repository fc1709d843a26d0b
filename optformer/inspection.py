"""What `optformer inspect` says of folders without studies: checkpoints, runs, results."""

import json
from pathlib import Path

from optformer import checkpoint


def inspect(path: str) -> tuple[str, dict[str, str]] | None:
    """What kind of folder of ours the path is, and its description.

    None if it is none of them; then it may hold studies (`optformer.data.inspect`).
    """
    place = Path(path)
    if (place / checkpoint.WEIGHTS).is_file():
        return "checkpoint", of_checkpoint(place)
    if (place / "metrics.jsonl").is_file():
        return "training run", of_run(place)
    if (place / "plan.json").is_file():
        return "results of an evaluation", of_results(place)
    return None


def of_checkpoint(folder: Path) -> dict[str, str]:
    """Shape, tokenizer and origin of a model."""
    loaded = checkpoint.load(folder)
    weights = sum(array.size for array in checkpoint.flatten(loaded.weights).values())
    shape = loaded.config
    return {
        "weights": f"{weights:,}",
        "shape": f"{shape.encoder_layers} encoder and {shape.decoder_layers} decoder layers, width "
        f"{shape.width}",
        "bins": f"{loaded.tokenizer.options.bins:,}",
        "vocabulary": loaded.tokenizer.vocabulary.fingerprint,
    } | {name: str(value) for name, value in loaded.about.items() if not isinstance(value, dict)}


def of_run(folder: Path) -> dict[str, str]:
    """How far a training run is."""
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    if not lines:
        return {"steps": "none yet"}
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    found = {
        "steps": f"{last['step']:,}, {last['done']:.0%} of the run",
        "time": f"{last['seconds']:.0f} s",
        "loss": f"{first['loss']:.3f} -> {last['loss']:.3f} nats a token",
    }
    for name in ("checkpoint", "best"):
        if (folder / name).is_dir():
            found[name] = str(folder / name)
    return found


def of_results(folder: Path) -> dict[str, str]:
    """What an evaluation planned and what of it is done."""
    from optformer.eval import results

    found = results.read(folder)
    return {
        "protocol": found.protocol,
        "optimizers": ", ".join(found.optimizers),
        "tasks": f"{len(found.tasks)}, {len(found.seeds)} seeds, {found.trials} trials",
        "runs": f"{found.runs - found.missing:,} of {found.runs:,}, {len(found.failures)} failed",
    }
