"""The bench of reconstructions says in each row what is given."""

from pathlib import Path

import pytest

from cuesta.cli.bench import reconstruct
from cuesta.cli.bench.harness import Settings
from cuesta.data.scenes.scene import Scene


def test_generated_rows_say_that_the_lens_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scene = Scene(tmp_path / "landmark_000_mixed")
    monkeypatch.setattr(reconstruct, "make_landmarks", lambda *_: [scene])
    monkeypatch.setattr(reconstruct, "read_colmap", lambda _: None)
    (case,) = reconstruct._generated_cases(tmp_path, Settings())
    assert case.name == "generated landmark, mixed, K given"
    assert case.settings().calibrate.intrinsics == scene.model
