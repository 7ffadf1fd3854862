"""Loads a configuration: read, substitute, combine, inherit, validate, and every error at once.

The way of a file: `files` gives its text, `reader` a tree with places (variables replaced), `merge` one tree
of all files with defaults in place, `schema` the values, `checks` and `explain` the problems.
"""

import json
from collections.abc import Mapping as Environment
from pathlib import Path
from types import MappingProxyType
from typing import Final

from pydantic import ValidationError

from rdpbalancer.errors import ConfigurationError
from rdpbalancer.settings.checks import cross_problems
from rdpbalancer.settings.error_report import explain
from rdpbalancer.settings.error_text import shown
from rdpbalancer.settings.files import FileError, more_files, read_text
from rdpbalancer.settings.merge import SECTIONS, combine, inherit
from rdpbalancer.settings.problems import ConfigurationErrors, Problem, SourceLocation, problem_at
from rdpbalancer.settings.reader import read_yaml
from rdpbalancer.settings.schema import Document, Settings
from rdpbalancer.settings.substitute import Substitution
from rdpbalancer.settings.tree import MappingNode, ScalarNode, plain

__all__ = ["ConfigurationErrors", "Problem", "SourceLocation", "load", "load_to_keep", "loads", "loads_kept"]

EXPECTED_SECTIONS: Final = f"a configuration has the keys {', '.join(SECTIONS)}"
NO_ENVIRONMENT: Final[Environment[str, str]] = MappingProxyType({})


def load(path: Path, *, environ: Environment[str, str]) -> Settings:
    """Load the configuration at `path` and the files `conf.d/*.yaml` beside it, in the order of their names.

    Raises ConfigurationErrors, with all problems of all files.
    """
    return _settings(_texts(path), Substitution(environ, path.parent))[0]


def _texts(path: Path) -> dict[str, str | Problem]:
    """Return the text of each file, or why there is none."""
    texts: dict[str, str | Problem] = {}
    folder = path.parent / "conf.d"
    try:
        more = more_files(folder)
    except FileError as error:
        more = []
        texts[str(folder)] = error.problem(str(folder))
    for file in (path, *more):
        try:
            texts[str(file)] = read_text(file)
        except FileError as error:
            texts[str(file)] = error.problem(str(file))
    return texts


def load_to_keep(path: Path, *, environ: Environment[str, str]) -> tuple[Settings, str]:
    """Load as `load` does, and return beside the settings a text to keep, for `loads_kept`.

    Variables, conf.d and defaults are worked in: it says the same whatever becomes of the files and the
    environment meanwhile.
    """
    settings, root = _settings(_texts(path), Substitution(environ, path.parent))
    return settings, json.dumps(plain(root), ensure_ascii=False)


def loads_kept(text: str) -> Settings:
    """Load what `load_to_keep` gave. Raises ConfigurationError: it is damaged, or of another version."""
    try:
        document = Document.model_validate(json.loads(text))
    except ValueError as error:  # pydantic's ValidationError is one too
        message = f"the kept configuration cannot be used: {error}"
        raise ConfigurationError("kept-configuration", message) from error
    return _without_defaults(document)


def loads(text: str, *, name: str = "<string>", environ: Environment[str, str] = NO_ENVIRONMENT) -> Settings:
    """Load the configuration that `text` is, without conf.d.

    `name` stands for the file: problems name it, and `${file:path}` starts from its folder.
    Raises ConfigurationErrors, with all problems.
    """
    return _settings({name: text}, Substitution(environ, Path(name).parent))[0]


def _settings(
    texts: Environment[str, str | Problem], substitution: Substitution
) -> tuple[Settings, MappingNode]:
    trees: list[MappingNode] = []
    problems: list[Problem] = []
    for file, text in texts.items():
        tree, found = (None, [text]) if isinstance(text, Problem) else _tree(text, file, substitution)
        problems += found
        if tree is not None:
            trees.append(tree)
    document = None
    if trees:
        root, found = combine(trees, complete=len(trees) == len(texts))
        root = inherit(root)
        document, more = _validated(root)
        problems += [*found, *more]
    if document is None or problems:
        order = {file: number for number, file in enumerate(texts)}
        unique = dict.fromkeys(problems)
        raise ConfigurationErrors(sorted(unique, key=lambda problem: (order[problem.file], *problem[1:])))
    return _without_defaults(document), root


def _without_defaults(document: Document) -> Settings:
    """Return the settings; the defaults have gone into the services."""
    return Settings.model_validate(
        {"global": document.global_, "virtual_services": document.virtual_services}
    )


def _tree(text: str, file: str, substitution: Substitution) -> tuple[MappingNode | None, list[Problem]]:
    """Return the tree of one file, which has to be a mapping, and what is wrong with it."""
    node, problems = read_yaml(text, file=file, substitution=substitution)
    if isinstance(node, MappingNode) or problems:
        return node if isinstance(node, MappingNode) else None, problems
    if node is None or (isinstance(node, ScalarNode) and node.value is None):
        place = SourceLocation(file, 1, 1)
        return None, [problem_at(place, (), f"the file is empty: {EXPECTED_SECTIONS}")]
    return None, [problem_at(node.place, (), f"{EXPECTED_SECTIONS}; this is {shown(plain(node))}")]


def _validated(root: MappingNode) -> tuple[Document | None, list[Problem]]:
    cross = list(cross_problems(root))
    try:
        return Document.model_validate(plain(root)), cross
    except ValidationError as error:
        return None, [*explain(error, root), *cross]
