"""Self-contained HTML pages in one style: no scripts and no external resources."""

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_STYLE = "page.css"


def render(package: str, template: str, **shown: object) -> str:
    """Render a package's template with the given values. All values are escaped: captions are untrusted text."""
    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (files("tinygptv.pages") / _STYLE).read_text(encoding="utf-8")
    return environment.get_template(template).render(css=Markup(style), **shown)


def template_text(package: str, template: str) -> str:
    """The source of a template, for the hash of what a page depends on."""
    return (files(package) / "templates" / template).read_text(encoding="utf-8")
