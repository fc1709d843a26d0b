"""Imports go one way, and light modules import nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from optformer.data.mixture import GenerateConfig
from optformer.settings import read_config
from optformer.training.config import load_config

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "optformer"

# A package may import itself, the packages named here, and the foundation.
MAY_IMPORT = {
    "convert": set(),
    "tokenization": set(),
    # Two wings, which do not import each other.
    "data": {"convert", "tokenization"},
    "model": {"tokenization"},
    "training": {"tokenization", "data", "model"},
    "policies": {"convert", "tokenization", "model"},
    "eval": {"convert", "tokenization", "data", "model", "training", "policies"},
    "service": {"convert", "policies"},
    "terminal": {"convert", "tokenization", "data", "model", "training", "eval", "service"},
    "demo": {"convert", "data", "model", "training", "policies", "eval", "service", "terminal"},
}
# The modules in the root, which import no package.
FOUNDATION = {"errors", "files", "progress", "settings", "space", "study"}


def imports(path: Path) -> set[str]:
    """The packages and root modules of `optformer` that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("optformer.")}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_go_one_way(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room} | FOUNDATION
    # Public names of the package, such as optformer.load, are not modules.
    modules = {path.stem for path in PACKAGE.iterdir()} - {"__init__"}
    for path in sorted((PACKAGE / room).rglob("*.py")):
        wrong = (imports(path) & modules) - allowed
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_every_package_has_its_rule_and_the_root_holds_few_modules() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == MAY_IMPORT.keys()
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == FOUNDATION | {"cli"}


def test_the_readme_lists_every_folder_and_root_module() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    listing = readme[readme.index("## Folders") :]
    listed = {line.split()[0] for line in listing.splitlines() if line.startswith("    ")}
    inside = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    inside |= {f"{room}/" for room in MAY_IMPORT} | {"pretrained/"}
    outside = {"optformer/", "tests/", "scripts/", "examples/", "benchmarks/", "docs/"}
    assert listed == inside | outside


def test_the_foundation_knows_no_package() -> None:
    for name in FOUNDATION:
        wrong = imports(PACKAGE / f"{name}.py") & (MAY_IMPORT.keys() | {"cli"})
        assert not wrong, f"{name} imports {sorted(wrong)}"


@pytest.mark.parametrize("module", ["optformer", "optformer.cli"])
def test_light_modules_import_nothing_heavy(module: str) -> None:
    """Slow imports are in the functions that use them."""
    heavy = ("jax", "vizier", "matplotlib", "scipy", "sklearn", "pyarrow", "optuna", "tensorflow")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_recipe_is_of_valid_runs_on_training_families_only() -> None:
    script = (ROOT / "scripts" / "pretrain").read_text("utf-8")
    stages = sorted((ROOT / "examples" / "pretrain").glob("[0-9]-*.toml"))
    assert stages
    for stage in stages:
        config = load_config(stage)
        assert config.data.generated_weight > 0
        assert config.data.generate.purpose == "train"
        assert script.count(f"$recipe/{stage.name}") == 1
    for name in ("searches", "searches-wide", "calibration"):
        made = read_config(GenerateConfig, ROOT / "examples" / "pretrain" / f"{name}.toml")
        assert made.purpose == "train"
        assert script.count(f"$recipe/{name}.toml") == 1
