"""Pages for people: one self-contained HTML file each, in one style. No script, no address, any browser, any time."""

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_STYLE = "page.css"


def render(package: str, template: str, **shown: object) -> str:
    """The page that a package's template makes of what is shown. Everything is escaped: captions are what strangers
    wrote."""
    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = (files("tinygptv.pages") / _STYLE).read_text(encoding="utf-8")
    return environment.get_template(template).render(css=Markup(style), **shown)


def template_text(package: str, template: str) -> str:
    """A template as it is written, for the hash of what a page depends on."""
    return (files(package) / "templates" / template).read_text(encoding="utf-8")
