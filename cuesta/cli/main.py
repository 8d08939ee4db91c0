"""`cuesta`: parse the verb, run it, turn a user's mistake into one line and exit status 2.

Only the standard library is imported until a verb runs, so that `cuesta --help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

import cuesta
from cuesta.cli import (
    THREAD_ENVIRONMENT,
    depth,
    fleet,
    fusing,
    judging,
    masking,
    planning,
    publishing,
    ranks,
    tables,
)
from cuesta.errors import UserError

EPILOGUE = """\
cuesta demo                              train a ranker, rebuild a landmark from photos
cuesta train dlrm.ml100k --optim.lr 1e-3   flags are the recipe's fields; `cuesta train RECIPE --help` lists them
cuesta reconstruct PHOTOS                a posed, checked scene of a folder of photos
cuesta depth scenes/PHOTOS               depth of every image; then masks, fuse
cuesta view scenes/PHOTOS                look at it in the browser
cuesta bench embedding_bag               time the kernels against their peers
"""


# Modules that come with an extra: `pip install 'cuesta[vision]'`.
EXTRAS = {
    **dict.fromkeys(("pycolmap", "poselib", "cv2", "PIL", "h5py", "plyfile", "laspy"), "vision"),
    "viser": "view",
}
_WITH_SETTINGS = ("train", "plan", "simulate", "reconstruct", "depth", "masks", "fuse")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status: 0, 1 for a failed check, 2 for a mistake."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.update({**THREAD_ENVIRONMENT, **os.environ})
    parser = build_parser()
    words, nested = _apart(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(words)
    rest += nested
    if rest and options.verb not in _WITH_SETTINGS:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.settings = rest
    try:
        sys.exit(_run(options))
    except UserError as error:
        print(f"cuesta: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        remedy = f"pip install 'cuesta[{extra}]' brings it, in a clone pip install -e '.[{extra}]'"
        print(f"cuesta: {error.name} is not installed; {remedy}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("cuesta: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return all other words, and the flags with a dot, each with its values, which would be taken for a name."""
    words: list[str] = []
    nested: list[str] = []
    found = words
    for word in arguments:
        if word.startswith("--"):
            found = nested if "." in word.partition("=")[0] else words
        found.append(word)
    return words, nested


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="cuesta",
        description="Ranking and 3D reconstruction on one ragged core.",
        epilog=EPILOGUE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"cuesta {cuesta.__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    _verb(verbs, "list", "list recipes, data sets and benches")
    demo = _verb(verbs, "demo", "train a ranker on ml-100k and rebuild a landmark from photos")
    demo.add_argument("--out", default="runs/demo", help="folder, replaced (%(default)s)")

    train = _verb(verbs, "train", "train a recipe", add_help=False)
    train.add_argument("recipe", nargs="?", help="a name from `cuesta list`")
    train.add_argument("--out", help="run folder (runs/RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    train.add_argument("--overwrite", action="store_true", help="replace the run in the folder")
    train.add_argument("--plan", help="how ranks share the tables: a file of `cuesta plan --out`")
    tables.add_arguments(train)
    train.add_argument(
        "--wait-for-saves",
        action="store_true",
        help="stand still while a checkpoint is written: no copy of all weights and states in memory",
    )
    ranks.add_arguments(train)
    train.add_argument("--device", help="cpu, cuda, cuda:1 (a GPU if there is one)")
    train.add_argument("-h", "--help", action="store_true", help="list the recipe's settings")
    train.set_defaults(train_parser=train)

    places = "place embedding tables on the ranks of a cluster, and say why"
    planning.add_arguments(_verb(verbs, "plan", places, add_help=False))
    elsewhere = "simulate training steps on clusters that are not at hand"
    planning.add_simulate_arguments(_verb(verbs, "simulate", elsewhere, add_help=False))

    evaluate = _verb(verbs, "eval", "evaluate a run, or scenes against truth (--task)")
    evaluate.add_argument("run", metavar="PATH", help="a run folder; with --task, scenes")
    evaluate.add_argument("--split", default="test", help="validation or test (%(default)s)")
    judging.add_eval_arguments(evaluate)

    _vision_verbs(verbs)
    _data_verbs(_verb(verbs, "data", "get, make or check data", has_json=False))
    summary = "time cuesta and its peers, after proving the answers right"
    bench = _verb(verbs, "bench", summary, has_json=False)
    bench.add_argument("--json", metavar="FILE", help="write the result as JSON to this file")
    bench.add_argument("name", nargs="?", help="which; without it, they are listed")
    bench.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    bench.add_argument(
        "--save", action="store_true", help="write benchmarks/results/NAME_….md, .json"
    )
    return parser


def _vision_verbs(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    reconstruct = _verb(
        verbs, "reconstruct", "make a posed, checked scene of photos or a video", add_help=False
    )
    reconstruct.add_argument("photos", nargs="?", help="a folder of photos, or a video")
    reconstruct.add_argument(
        "--out", help="folder of the scene (scenes/NAME); goes on where it was"
    )
    reconstruct.add_argument(
        "--recipe", choices=("laptop", "debug", "paper"), default="laptop", help="(%(default)s)"
    )
    reconstruct.add_argument("-h", "--help", action="store_true", help="list the settings")
    reconstruct.set_defaults(reconstruct_parser=reconstruct)
    depth_of = "give a posed scene depth: PatchMatch on CPUs"
    depth.add_arguments(_verb(verbs, "depth", depth_of, add_help=False))
    masks_of = "mask depth that no other view confirms, sky and what moved"
    masking.add_arguments(_verb(verbs, "masks", masks_of, add_help=False))
    fusing.add_arguments(_verb(verbs, "fuse", "fuse depth maps to a cloud", add_help=False))
    many = "many scenes, from photos to clouds, one job a scene"
    fleet.add_arguments(_verb(verbs, "scenes", many))
    publishing.add_publish_arguments(_verb(verbs, "publish", "publish scenes as a data set"))
    view = _verb(
        verbs, "view", "show a scene, a COLMAP model or a cloud in the browser", has_json=False
    )
    view.add_argument("path", help="a scene, a model's folder, or a .ply, .pcd or .las file")
    view.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    view.add_argument("--port", type=int, default=8080, help="first port to try (%(default)s)")
    view.add_argument("--no-browser", action="store_true", help="do not open a browser")


def _data_verbs(data: argparse.ArgumentParser) -> None:
    verbs = data.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    get = _verb(verbs, "get", "fetch and convert a registered data set")
    get.add_argument("name", help="a name from `cuesta list`")
    make = _verb(
        verbs, "make", "generate clicks with a known Bayes error, or scenes with exact depth"
    )
    make.add_argument("name", help="stream.mini, stream.small, stream.large, landmarks or rooms")
    make.add_argument("--out", help="folder (the data cache)")
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--size", default="mini", help="of scenes: mini, small, train (%(default)s)")
    make.add_argument("--preset", default="mild", help="of photos: clean, mild, hard (%(default)s)")
    make.add_argument("--lidar", action="store_true", help="scenes come with a LiDAR map")
    check = _verb(verbs, "check", "name everything that is wrong with a log")
    check.add_argument("paths", nargs="+", help="Parquet files or folders of them")
    check.add_argument("--schema", help="TOML file (schema.toml in the folder)")
    check.add_argument("--limit", type=int, default=10, help="violations shown of each kind")
    again = "check every file, mask, pose and list of a published data set"
    publishing.add_verify_arguments(_verb(verbs, "verify", again))
    forms = "write a published data set in another tool's form"
    publishing.add_export_arguments(_verb(verbs, "export", forms))


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    *,
    has_json: bool = True,
    add_help: bool = True,
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(name, help=summary, description=summary, add_help=add_help)
    if has_json:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
    return parser


def _run(options: argparse.Namespace) -> int:
    from cuesta.cli import data, verbs, vision

    run: dict[str, Callable[[argparse.Namespace], int]] = {
        "list": verbs.list_everything,
        "demo": verbs.demo,
        "train": verbs.train,
        "plan": planning.plan,
        "simulate": planning.simulate,
        "eval": judging.judge if getattr(options, "task", None) else verbs.evaluate,
        "bench": verbs.bench,
        "reconstruct": vision.reconstruct,
        "view": vision.view,
        "depth": depth.depth,
        "masks": masking.masks,
        "fuse": fusing.fuse,
        "scenes": fleet.scenes,
        "publish": publishing.publish,
        "verify": publishing.verify,
        "export": publishing.export,
        "get": data.get,
        "make": data.make,
        "check": data.check,
    }
    return run[getattr(options, "data_verb", options.verb)](options)


if __name__ == "__main__":
    main()
