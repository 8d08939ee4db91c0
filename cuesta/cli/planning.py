"""The verb plan: how embedding tables go over the ranks of a cluster, and why."""

from __future__ import annotations

import argparse
import json
import sys

from cuesta.cli.recipes import RECIPES, recipe_named
from cuesta.cli.verbs import print_settings
from cuesta.engine.registry import did_you_mean
from cuesta.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `cuesta plan` takes beside its settings; the parser brings no --help of its own."""
    parser.add_argument(
        "model", nargs="?", help="a recipe, or model-a, model-f, model-i of the Neo paper"
    )
    parser.add_argument("--out", help="write the plan to this file, as JSON")
    parser.add_argument(
        "--tables", type=int, default=20, help="how many to tell of, the costliest (%(default)s)"
    )
    parser.add_argument("-h", "--help", action="store_true", help="list the settings")
    parser.set_defaults(plan_parser=parser)


def plan(options: argparse.Namespace) -> int:
    """Plan the tables of a model and print the plan with its reasons."""
    from cuesta.engine.override import override
    from cuesta.rec.neo.explain import explain, to_json
    from cuesta.rec.neo.plan import write_plan
    from cuesta.rec.neo.planner import PlannerSettings, make_plan
    from cuesta.rec.neo.requests import PlanRequest, workload_of
    from cuesta.rec.neo.workload import PAPER

    request = override(PlanRequest(name=options.model or "plan"), options.settings)
    if options.help:
        options.plan_parser.print_help()
        print_settings(request)
        return 0
    if options.model is None:
        options.plan_parser.error("name a recipe, or model-a, model-f or model-i")
    if options.model not in RECIPES and options.model not in PAPER:
        known = [*PAPER, *RECIPES]
        raise UserError(f"there is no model {options.model!r}{did_you_mean(options.model, known)}")
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
