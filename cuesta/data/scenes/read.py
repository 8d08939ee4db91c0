"""`read_views`: posed images from whatever form they are in."""

from __future__ import annotations

from pathlib import Path

from cuesta.data.scenes.colmap import has_model, read_colmap
from cuesta.data.scenes.kitti import read_kitti
from cuesta.data.scenes.mvsnet import read_mvsnet
from cuesta.data.scenes.scene import open_scene
from cuesta.data.scenes.transforms_json import read_transforms_json
from cuesta.data.scenes.views import Views
from cuesta.errors import UserError

_MODELS = ("", "sparse/0", "sparse", "colmap/sparse/0")


def read_views(path: str | Path) -> Views:
    """Return the views of a scene: the first of these forms that `path` has.

    ```
    manifest.json                                 a cuesta scene: its COLMAP model
    cameras, images, points3D as .bin or .txt     COLMAP; also in sparse/0, sparse, colmap/sparse/0
    transforms.json, or the path of any .json     Blender, instant-ngp, nerfstudio
    cams/ and pair.txt                            MVSNet
    calib.txt                                     a KITTI sequence
    ```

    Names are relative to where the form keeps its images: the folder of images of COLMAP and MVSNet,
    the folder of the .json, the KITTI sequence. Raises `UserError` where there is none of them, and
    as the form's own reader does.
    """
    path = Path(path)
    if path.name == "manifest.json" and path.is_file():
        path = path.parent
    if path.suffix == ".json" and path.is_file():
        return read_transforms_json(path)
    if (path / "manifest.json").is_file():
        return read_colmap(open_scene(path).model)
    model = model_folder(path)
    if model is not None:
        return read_colmap(model)
    if (path / "transforms.json").is_file():
        return read_transforms_json(path / "transforms.json")
    if (path / "cams").is_dir() and (path / "pair.txt").is_file():
        return read_mvsnet(path).views
    if (path / "calib.txt").is_file():
        return read_kitti(path).views
    if not path.exists():
        raise UserError(f"{path}: no such folder or file; name another")
    raise UserError(
        f"{path}: no scene that cuesta reads; it looked for manifest.json, a COLMAP model (here, in "
        "sparse/0, sparse or colmap/sparse/0), transforms.json, cams/ with pair.txt, and calib.txt; "
        "name a folder that has one"
    )


def model_folder(path: Path) -> Path | None:
    """Return the folder of the COLMAP model at or below `path`, None where there is none."""
    for place in _MODELS:
        if any(has_model(path / place, suffix) for suffix in (".bin", ".txt")):
            return path / place
    return None
