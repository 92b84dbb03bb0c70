"""The templates of this folder filled in. What comes from texts, models and users is escaped; what is missing fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

HERE = Path(__file__).parent


def render(template: str, **shown: Any) -> str:
    """A page as HTML; every template is given the style of all pages as `css`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = (HERE / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(css=css, **shown)
