"""Reports as one HTML file that needs nothing else: `render_page` fills a jinja2 template.

Templates extend `page.html.j2` and show sections with `parts.html.j2`, both beside this file; charts
are inline SVG, images inline. A page reads on a phone, in light and dark, and loads nothing from
anywhere.
"""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

from cuesta.engine.recipe import Json
from cuesta.engine.section import Chart, Image, Table


def render_page(template: Path, **values: object) -> str:
    """Return the page that a template makes of `values`."""
    import jinja2

    loader = jinja2.FileSystemLoader([template.parent, Path(__file__).parent])
    page = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page.filters["number"] = number
    page.filters["svg"] = _svg
    page.filters["data_url"] = _data_url
    page.filters["spelt"] = spelt
    page.filters["size"] = size
    page.tests["chart"] = lambda part: isinstance(part, Chart)
    page.tests["table"] = lambda part: isinstance(part, Table)
    page.tests["numeric"] = lambda cell: isinstance(cell, (int, float))
    return page.get_template(template.name).render(**values)


def number(value: str | int | float | None) -> str:
    """Return a cell as text: integers with separators, floats with four digits, NaN as n/a.

    >>> number(1234567), number(0.123456), number(float("nan")), number("as it is")
    ('1,234,567', '0.1235', 'n/a', 'as it is')
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 10):
        return f"{int(value):,}"
    return f"{value:.4f}" if 1e-4 <= abs(value) < 1e4 or value == 0 else f"{value:.3e}"


def spelt(name: str) -> str:
    """Return a metric's name as a reader expects it.

    >>> spelt("ne"), spelt("calibration_error")
    ('NE', 'calibration error')
    """
    return {"auc": "AUC", "ne": "NE", "gauc": "gAUC"}.get(name, name.replace("_", " "))


def size(num_bytes: int) -> str:
    """Return a number of bytes in the unit that suits it.

    >>> size(1000), size(3 << 20)
    ('1000 bytes', '3.0 MiB')
    """
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes} bytes"


def leaves(value: Json, path: str = "") -> dict[str, str]:
    """Return the settings by dotted path, as text; a group's `class` stands at its own path."""
    if not isinstance(value, dict):
        return {path: value if isinstance(value, str) else json.dumps(value)}
    found: dict[str, str] = {}
    for name, item in value.items():
        inner = path if name == "class" else f"{path}.{name}".lstrip(".")
        if inner:
            found |= leaves(item, inner)
    return found


def _data_url(image: Image) -> str:
    kind = "png" if image.data.startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(image.data).decode()}"


def _svg(chart: Chart) -> str:
    import markupsafe

    from cuesta.engine.pictures import chart_svg

    return markupsafe.Markup(chart_svg(chart))
