"""The op contract: every op folder has its three bodies with the same functions and the same
parameters.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cuesta.ops

FOLDERS = sorted(p.parent for p in Path(cuesta.ops.__file__).parent.glob("*/__init__.py"))


def public_functions(path: Path) -> dict[str, list[str]]:
    functions = [
        node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    ]
    plain = [f for f in functions if not any("jit" in ast.unparse(d) for d in f.decorator_list)]
    return {f.name: [a.arg for a in f.args.args] for f in plain if not f.name.startswith("_")}


def test_there_are_ops() -> None:
    assert len(FOLDERS) >= 4


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_bodies_have_the_same_functions_and_parameters(folder: Path) -> None:
    bodies = {name: public_functions(folder / f"{name}.py") for name in ("reference", "cpu", "gpu")}
    assert bodies["cpu"], f"{folder.name} has no public body"
    for name, parameters in bodies["cpu"].items():
        for other in ("reference", "gpu"):
            assert bodies[other].get(name) == parameters, f"{folder.name}/{other}.py: {name}"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.name)
def test_tests_of_an_op_have_no_literal_tolerance(folder: Path) -> None:
    path = Path(__file__).parent / f"test_{folder.name}.py"
    assert path.exists(), f"no tests for {folder.name}"
    assert "atol=" not in path.read_text()
    assert "rtol=" not in path.read_text()


def test_ops_are_imported_without_triton_and_yet_counted() -> None:
    code = (
        "import sys\nimport cuesta.ops\nassert 'triton' not in sys.modules\n"
        "import torch\nfrom torch.utils.flop_counter import flop_registry\n"
        "assert torch.ops.cuesta.gdpa in flop_registry\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_first_kernel_leaves_torch_its_threads() -> None:
    code = (
        "import torch\ntorch.set_num_threads(1)\nfrom cuesta.ops import pad\n"
        "from cuesta.ragged import Ragged\npad(Ragged.from_lengths(torch.ones(3), [1, 2]))\n"
        "assert torch.get_num_threads() == 1, torch.get_num_threads()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_results_do_not_depend_on_torchs_default_dtype() -> None:
    code = (
        "import torch\nfrom cuesta.ops import *\n"
        "layout = TableLayout(rows=(9,), dims=(5,), features=(0,), poolings=('sum',))\n"
        "def run():\n"
        "    weight, ids, offsets = torch.ones(45, dtype=torch.float32), torch.arange(4), torch.arange(5)\n"
        "    state = TableState.fresh(weight, layout, SGD())\n"
        "    out = embedding_bag(weight, ids, offsets, layout=layout)\n"
        "    embedding_update(state, [Lookup(layout, ids, offsets, out)], SGD(), step=1)\n"
        "    rows = embedding_rows(weight, ids, offsets, layout=layout)\n"
        "    return out, weight, rows, dot_interaction(out, out[:, None])\n"
        "expected = run()\n"
        "for dtype in (torch.float64, torch.bfloat16):\n"
        "    torch.set_default_dtype(dtype)\n"
        "    assert all(torch.equal(a, b) for a, b in zip(run(), expected, strict=True))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_program_that_has_imported_the_reader_may_still_fork() -> None:
    code = (
        "import os, torch, cuesta.data.ranking\n"
        "child = os.fork()\n"
        "if child:\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "else:\n"
        "    from cuesta.ops import pad\n    from cuesta.ragged import Ragged\n"
        "    pad(Ragged.from_lengths(torch.ones(3), [1, 2]))\n    os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
