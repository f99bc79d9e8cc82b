"""Explains YAML syntax errors: the line to look at, and what to change there."""

import re

import yaml

from tinygptv.loading.mistakes import Mistake, Place

_INDENTATION = "the indentation does not match the lines above; indent lines of one block by the same number of spaces"

_REMEDIES: list[tuple[str, str]] = [
    (r"mapping values are not allowed", f"a ':' where no key can be. Either {_INDENTATION}; or put the text in quotes"),
    (r"could not find expected ':'", "this is neither `key: value` nor `- item`, or its ':' has no space after it"),
    (r"did not find expected <?(block end|-|key)|expected <block end>|expected the node content", _INDENTATION),
    (r"sequence entries are not allowed", f"a '-' where no list can begin. Either {_INDENTATION}; or put it in quotes"),
    (r"cannot start any token", "a text cannot begin with this character; put it in quotes"),
    (r"expected a single document", "a second document begins here, after `---`; want one in each file"),
]


def explain_syntax(text: str, file: str) -> Mistake:
    """The first syntax error in `text`, which must have one."""
    try:
        # The Python parser describes errors in more detail than the C one.
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None:
            loader.construct_document(node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return Mistake(Place(file, line), "", f"the character {chr(int(error.character))!r} is not allowed; remove it")
    except yaml.MarkedYAMLError as error:
        return _explain(error, text, file)
    return Mistake(Place(file, 1), "", "not valid YAML")


def _explain(error: yaml.MarkedYAMLError, text: str, file: str) -> Mistake:
    problem, context = error.problem or "", error.context or ""
    mark = error.problem_mark or error.context_mark
    line = mark.line if mark else 0
    start = error.context_mark.line if error.context_mark else line
    lines = text.split("\n")
    tab = next((at for at in (line, line - 1) if 0 <= at < len(lines) and re.match(r" *\t", lines[at])), None)
    if tab is not None:
        return Mistake(Place(file, tab + 1), "", "a tab in the indentation; YAML is indented with spaces")
    if "quoted scalar" in context:
        return Mistake(Place(file, start + 1), "", "the quote that opens here is not closed")
    if "flow" in context and "node" not in context:
        kind = "[" if "sequence" in context else "{"
        message = f"the '{kind}' that opens here is not closed, or a ',' is missing between its items"
        return Mistake(Place(file, start + 1), "", message)
    if "undefined alias" in problem:
        return Mistake(
            Place(file, line + 1), "", f"{problem.removeprefix('found ')}; write the value, or anchor it (&)"
        )
    said = f"{context} {problem}".strip()
    remedy = next((remedy for pattern, remedy in _REMEDIES if re.search(pattern, said)), f"not valid YAML: {said}")
    return Mistake(Place(file, (start if "simple key" in context else line) + 1), "", remedy)
