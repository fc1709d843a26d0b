"""Shapes in signatures are checked while tests run; development data is used where it is."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

import tests.shapes

# People look for new counterexamples at every run; a change is judged by the same ones as before.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")

# Must come before the first import of the package.
install_import_hook("optformer", f"{tests.shapes.__name__}.checked")


@pytest.fixture(autouse=True)
def single_precision() -> Iterator[None]:
    """Vizier's own service switches JAX to 64 bits for the whole process; later tests need 32."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_enable_x64", False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real study logs and published curves, kept beside the checkout or named by a variable."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("OPTFORMER_SHARED_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no development data at {folder}; set OPTFORMER_SHARED_DATA to use it")
    return folder
