"""The verbs plan and simulate: how embedding tables go over the ranks of a cluster, why, and what steps take there."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from cuesta.cli.recipes import RECIPES, recipe_named
from cuesta.cli.verbs import print_settings
from cuesta.engine.registry import did_you_mean
from cuesta.errors import UserError

if TYPE_CHECKING:
    from cuesta.rec.neo.requests import PlanRequest

_MODELS = "a recipe, a log's schema.toml, or model-a, model-f, model-i of the Neo paper"
_CALIBRATION = "calibration.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta plan` takes beside its settings; the parser brings no --help of its own."""
    parser.add_argument("model", nargs="?", help=_MODELS)
    parser.add_argument("--out", help="write the plan, or the calibration, to this file, as JSON")
    parser.add_argument(
        "--tables", type=int, default=20, help="how many to tell of, the costliest (%(default)s)"
    )
    parser.add_argument(
        "--calibrate",
        action="store_true",
        help=f"measure this machine with --cluster.world-size ranks, into --out ({_CALIBRATION})",
    )
    parser.add_argument("--calibration", metavar="FILE", help="plan with what --calibrate measured")
    parser.add_argument("-h", "--help", action="store_true", help="list the settings")
    parser.set_defaults(plan_parser=parser)


def add_simulate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta simulate` takes beside its settings."""
    parser.add_argument("model", nargs="?", help=_MODELS)
    parser.add_argument("-h", "--help", action="store_true", help="list the settings")
    parser.set_defaults(simulate_parser=parser)


def plan(options: argparse.Namespace) -> int:
    """Plan the tables of a model and print the plan with its reasons; or measure this machine."""
    from cuesta.engine.override import override
    from cuesta.rec.neo.explain import explain, to_json
    from cuesta.rec.neo.plan import write_plan
    from cuesta.rec.neo.planner import PlannerSettings, make_plan
    from cuesta.rec.neo.requests import PlanRequest, workload_of

    if options.help:
        options.plan_parser.print_help()
        print_settings(PlanRequest(name="plan"))
        return 0
    if options.calibrate:
        return _calibrate(options)
    if options.model is None:
        options.plan_parser.error(f"name {_MODELS}")
    _check_model(options.model)
    given = _request(options)
    request = override(given, options.settings)
    if options.calibration and request.cluster.num_nodes > 1:
        print(
            f"{options.calibration} is of {given.cluster.world_size} ranks on one machine; links between machines, "
            f"--cluster.across {request.cluster.across:g} and --cluster.ring-across, were not measured",
            file=sys.stderr,
        )
    workload = workload_of(request, recipe_named)
    settings = PlannerSettings(schemes=request.schemes, least_columns=request.least_columns)
    planned = make_plan(workload, request.cluster, settings)
    if options.out:
        write_plan(planned.plan, options.out)
        print(f"wrote {options.out}", file=sys.stderr)
    if options.json:
        print(json.dumps(to_json(planned), indent=1))
    else:
        print(explain(planned, num_tables=options.tables))
    return 0


def simulate(options: argparse.Namespace) -> int:
    """Print what training steps take on clusters that are not at hand."""
    from cuesta.engine.override import override
    from cuesta.rec.neo.requests import PlanRequest, workload_of
    from cuesta.rec.neo.simulate import (
        SimulateRequest,
        fits_in,
        ladder,
        memory,
        scaling,
        weak_scaling,
    )
    from cuesta.rec.neo.simulated_text import in_words, to_json
    from cuesta.rec.neo.workload import PAPER

    name = options.model or "model-a"
    request = SimulateRequest(name=name)
    if options.help:
        options.simulate_parser.print_help()
        print_settings(request)
        return 0
    _check_model(name)
    request = override(request, options.settings)
    if name in PAPER:
        sizes = memory(name)
        fits = fits_in(request, sizes[-1])
        rungs, grown = (ladder(request), weak_scaling(request)) if fits else ([], [])
    else:
        asked = PlanRequest(
            name=name, batch_size=request.batch_size, dim=request.dim, dense=request.dense
        )
        rungs, sizes = [], []
        grown = scaling(request, workload_of(asked, recipe_named))
    if options.json:
        print(json.dumps(to_json(rungs, grown, sizes), indent=1))
    else:
        print(in_words(request, rungs, grown, sizes))
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    """Measure this machine, write what was found, and print it beside the defaults."""
    from cuesta.engine.override import override
    from cuesta.rec.neo.calibration import calibrate, compared, write_calibration
    from cuesta.rec.neo.requests import PlanRequest

    if options.calibration:
        raise UserError("give --calibrate to measure or --calibration to read, not both")
    if options.model is not None:
        raise UserError(
            f"--calibrate measures the machine, whatever the model; then plan: cuesta plan {options.model} "
            f"--calibration {options.out or _CALIBRATION}"
        )
    request = override(PlanRequest(name="plan"), options.settings)
    world = request.cluster.world_size
    print(
        f"measuring {world} ranks at once, about half a minute on an idle machine; leave it idle",
        file=sys.stderr,
    )
    found = calibrate(world)
    path = options.out or _CALIBRATION
    write_calibration(found, path)
    if options.json:
        print(json.dumps(asdict(found), indent=1))
        return 0
    print(f"{found.machine}: {found.cluster.world_size} ranks at once, {found.date}")
    print(f"{'bandwidths in GiB/s':28}{'measured':>12}  {'default':>12}")
    for name, value, default in compared(found):
        print(f"{name:28}{_short(value):>12}  {_short(default):>12}")
    print(f"wrote {path}; cuesta plan RECIPE --calibration {path} plans with it")
    return 0


def _request(options: argparse.Namespace) -> PlanRequest:
    """Return the request that flags are laid over: of this machine where a calibration is given."""
    from cuesta.rec.neo.calibration import read_calibration
    from cuesta.rec.neo.requests import PlanRequest

    request = PlanRequest(name=options.model)
    if options.calibration is None:
        return request
    return replace(request, cluster=read_calibration(options.calibration).cluster)


def _check_model(name: str) -> None:
    from cuesta.rec.neo.workload import PAPER

    if name not in RECIPES and name not in PAPER and not name.endswith(".toml"):
        known = [*PAPER, *RECIPES]
        raise UserError(f"there is no model {name!r}{did_you_mean(name, known)}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
