"""What every test shares: two threads, one hypothesis profile with no deadline and a fixed seed,
data in a folder of its own, and the order of files.
"""

import os
import tempfile
from pathlib import Path

import hypothesis
import pytest
import torch

from tests.emission import only_what_is_called

hypothesis.settings.register_profile(
    "ci", deadline=None, derandomize=True, max_examples=25, print_blob=True
)
hypothesis.settings.load_profile("ci")
torch.set_num_threads(2)
only_what_is_called()

# Streams and encoders that tests make are the session's own: what an older version made proves nothing.
_data = tempfile.TemporaryDirectory(prefix="cuesta-tests-")
os.environ["CUESTA_DATA"] = _data.name


# Kernels are compiled once and cached, unless two workers want the same ones at the same time: the
# files that compile most come first, each kind in one file, and then the long ones, in this order.
FIRST = (
    "ops/test_jagged_attention.py",
    "data/worlds/test_render.py",
    "ops/test_embedding_bag.py",
    "ops/test_embedding_update.py",
    "ops/test_dot_interaction.py",
    "ops/test_plane_sweep.py",
    "ops/test_gpu_attention.py",
    "ops/test_gpu_compile.py",
    "ops/test_gdpa.py",
    "ops/test_jagged_softmax.py",
    "vision/terrasky3d/test_pipeline.py",
    "ops/test_patch_match.py",
    "ops/test_jagged_elementwise.py",
    "ops/test_compile.py",
    "rec/test_registry.py",
    "test_examples.py",
    "cli/test_main.py",
    "test_readme.py",
    "cli/test_bench.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Let `--dist loadfile` keep our order, instead of the files of most tests first."""
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of `FIRST` first; keep the order within files, and of the others."""
    folder = Path(__file__).parent
    places = {folder / name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(FIRST)))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Draw the same random numbers in every run."""
    torch.manual_seed(0)
