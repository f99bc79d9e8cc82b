"""A reference of every key that a definition may have, made from the schemas in `tinygptv/definitions/`.

`pages()` gives Markdown by file name. The site takes them in when it is built (see the end of this file, which mkdocs
loads as a hook), so they are never out of date and are not committed.
"""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from infra.key_meanings import PLAIN_KEYS
from tinygptv.definitions.benchmark import Benchmark
from tinygptv.definitions.captions import Captions
from tinygptv.definitions.filters import FilterChain
from tinygptv.definitions.hardware import Hardware
from tinygptv.definitions.mixture import Mixture
from tinygptv.definitions.recipe import Recipe
from tinygptv.definitions.scorer import Scorer
from tinygptv.definitions.source import Source
from tinygptv.definitions.template import Template

CHECKOUT = Path(__file__).resolve().parent.parent
DEFINITIONS = CHECKOUT / "tinygptv" / "definitions"

KINDS: dict[str, tuple[Any, str]] = {
    "source": (Source, "datasets/sources"),
    "filter": (FilterChain, "datasets/filters"),
    "captions": (Captions, "datasets/captions"),
    "scorer": (Scorer, "datasets/scorers"),
    "mixture": (Mixture, "datasets/mixtures"),
    "benchmark": (Benchmark, "datasets/benchmarks"),
    "recipe": (Recipe, "tinygptv/recipes"),
    "template": (Template, "tinygptv/templates"),
    "hardware": (Hardware, "infra/hardware"),
}
"""Kind of definition → its schema, and the folder of the shipped ones."""

_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", type(None): "null"}
_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least", "max_length": "at most"}


@dataclass(frozen=True)
class Key:
    """One row of the reference."""

    name: str
    type: str
    default: str
    meaning: str
    place: str


def pages() -> dict[str, str]:
    """File name → Markdown: an index and one page per kind of definition."""
    rows = [f"| [{kind}]({kind}.md) | `{folder}/` |" for kind, (_, folder) in KINDS.items()]
    index = [
        "# Reference",
        "Every key of every definition file, made from the schemas in `tinygptv/definitions/`, where the last column "
        "points. Unknown keys are errors.",
        "\n".join(["| definition | shipped ones |", "|---|---|", *rows]),
    ]
    return {"index.md": "\n\n".join(index) + "\n"} | {f"{kind}.md": _page(kind) for kind in KINDS}


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """All schemas that an annotation mentions, each once, in the order of reading."""
    seen: list[type[BaseModel]] = []

    def visit(part: Any) -> None:
        if inspect.isclass(part) and issubclass(part, BaseModel):
            if part not in seen:
                seen.append(part)
                for field in part.model_fields.values():
                    visit(field.annotation)
            return
        for inner in get_args(part):
            visit(inner)

    visit(annotation)
    yield from seen


def keys(model: type[BaseModel]) -> list[Key]:
    """The rows of one schema."""
    return [_key(model, name, field) for name, field in model.model_fields.items()]


def _page(kind: str) -> str:
    schema, folder = KINDS[kind]
    parts = [f"# {kind.capitalize()}", f"Files: `{folder}/*.yaml`, or your own below `TINYGPTV_DEFINITIONS`."]
    for model in models(schema):
        head = "| key | type | default | meaning | defined in |\n|---|---|---|---|---|"
        rows = [f"| `{key.name}` | {key.type} | {key.default} | {key.meaning} | {key.place} |" for key in keys(model)]
        parts += [f"## {model.__name__}", inspect.cleandoc(model.__doc__ or ""), "\n".join([head, *rows])]
    return "\n\n".join(parts) + "\n"


def _key(model: type[BaseModel], name: str, field: FieldInfo) -> Key:
    owner = next(base for base in model.__mro__ if name in inspect.get_annotations(base))
    line, comment = _written(owner)[name]
    file = Path(inspect.getfile(owner)).relative_to(DEFINITIONS)
    meaning = comment or _sentences_about(name, model) or _sentences_about(name, owner) or _plain(model, name)
    return Key(
        name=name,
        type=_cell(f"{_type_name(field.annotation)}{_limits(field.metadata)}"),
        default=_cell(_default(field)),
        meaning=_cell(meaning),
        place=f"`{file}:{line}`",
    )


@cache
def _written(model: type[BaseModel]) -> dict[str, tuple[int, str]]:
    """Field → its line in the file, and the text below it, empty if there is none."""
    lines, first = inspect.getsourcelines(model)
    (body,) = (node.body for node in ast.parse(textwrap.dedent("".join(lines))).body if isinstance(node, ast.ClassDef))
    found = {}
    for node, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = inspect.cleandoc(str(following.value.value))
            found[node.target.id] = (first + node.lineno - 1, text)
    return found


def _sentences_about(name: str, model: type[BaseModel]) -> str:
    """What a schema's docstring says of a key that has no text of its own."""
    text = " ".join(inspect.cleandoc(model.__doc__ or "").split())
    sentences = re.split(r"(?<=[.;])\s+(?=[A-Z`])", text)
    return " ".join(sentence for sentence in sentences if re.search(rf"`{name}(:[^`]*)?`", sentence))


def _plain(model: type[BaseModel], name: str) -> str:
    """From the table of plain keys: the schema's own entry, that of one it extends, or the one for every schema."""
    own = (PLAIN_KEYS.get(f"{schema.__name__}.{name}") for schema in model.__mro__)
    return next((text for text in own if text), PLAIN_KEYS.get(name, ""))


def _type_name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        name = f"{_type_name(parts[0])}{_limits(parts[1:])}"
    elif origin is Literal:
        name = ", ".join(f"`{part}`" for part in parts)
    elif origin in (Union, types.UnionType):
        name = " or ".join(_type_name(part) for part in parts)
    elif origin is list:
        name = f"list of {_type_name(parts[0])}"
    elif origin is dict:
        name = f"mapping of {_type_name(parts[0])} to {_type_name(parts[1])}"
    elif inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        name = f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    else:
        name = _PLAIN.get(annotation, str(annotation))
    return name


def _limits(metadata: Any) -> str:
    found = []
    for limit in metadata:
        found += [f"{sign} {getattr(limit, name)}" for name, sign in _LIMITS.items() if hasattr(limit, name)]
    return f" ({', '.join(found)})" if found else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default if field.default is not PydanticUndefined else field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "empty"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def on_files(files: Any, config: Any) -> Any:
    """The hook of mkdocs: add the pages to the site's files."""
    from mkdocs.structure.files import File

    for name, content in pages().items():
        files.append(File.generated(config, f"reference/{name}", content=content))
    return files
