"""Fingerprints of code: a record carries that of what made it, so that it can be said whether
today's code would make it.

The fingerprint of an arm covers every definition of the package that its run reaches, found from
names and imports, and what the arm itself is (its entry in the study's `ARMS`). Comments,
docstrings, annotations of arguments, the file of a definition, other arms, and the fields of a
spec (whose values the record has) do not count. What cannot change a figure is left out as a
whole: see OPAQUE.
"""

import ast
import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OPAQUE = frozenset(f"seqlib.{name}" for name in (
    "accepted", "api", "code", "data", "errors", "frames", "logs", "plan", "places", "processes",
    "progress", "provenance", "sources", "store", "study", "sweep", "verify", "yamls"))
FOUND = [("seqlib.record", "tidy")]  # of every study: the digits that a record keeps
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class _Module:
    """What a module defines and imports, by name, without importing it."""

    def __init__(self, name: str):
        file = _file(name)
        self.name = name
        self.package = file.name == "__init__.py"
        self.tree = ast.parse(file.read_bytes())
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.effects: list[ast.stmt] = []
        self.imports: dict[str, tuple[str, str | None]] = {}
        for statement in _flat(self.tree.body):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self.imports |= imported(statement, name, self.package)
            elif names := _bound(statement):
                for bound in names:
                    self.definitions.setdefault(bound, []).append(statement)
            elif not isinstance(statement, ast.Pass) and not _is_text(statement):
                self.effects.append(statement)


def _flat(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Statements of a module, those inside `if` and `try` too, without those for type checkers."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            others = [handler.body for handler in getattr(statement, "handlers", [])]
            for part in (statement.body, *others, getattr(statement, "orelse", [])):
                yield from _flat(part)
        else:
            yield statement


def _bound(statement: ast.stmt) -> list[str]:
    """Names that a statement gives a value to."""
    if isinstance(statement, (*FUNCTION, ast.ClassDef)):
        return [statement.name]
    if not isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        return []
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    nodes = [node for target in targets for node in ast.walk(target)]
    return [node.id for node in nodes if isinstance(node, ast.Name)]


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def imported(statement: ast.Import | ast.ImportFrom, module: str,
             package: bool) -> dict[str, tuple[str, str | None]]:
    """What an import binds, of this package alone: name -> (module, attribute), or (module, None)
    for the module itself."""
    found = {}
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.name.startswith("seqlib"):
                bound = alias.asname or "seqlib"
                found[bound] = (alias.name if alias.asname else "seqlib", None)
        return found
    source = statement.module or ""
    if statement.level:
        parent = module.split(".")[: len(module.split(".")) - statement.level + package]
        source = ".".join([*parent, source] if source else parent)
    if source.split(".")[0] == "seqlib":
        for alias in statement.names:
            whole = f"{source}.{alias.name}"
            target = (whole, None) if _file(whole) else (source, alias.name)
            found[alias.asname or alias.name] = target
    return found


@functools.cache
def _file(module: str) -> Path | None:
    """The file of a module of the package, None without one. Nothing is imported."""
    paths = [Path(folder, *module.split(".")[1:]) for folder in sys.modules["seqlib"].__path__]
    found = [file for path in paths for file in (path / "__init__.py", path.with_suffix(".py"))]
    return next((file for file in found if file.exists()), None)


@functools.cache
def _module(name: str) -> _Module:
    return _Module(name)


class Reach:
    """The definitions that some starting points lead to; `texts` has their syntax trees as text,
    by (module, name)."""

    def __init__(self, roots: Iterable[tuple[str, str]]):
        self.texts: dict[tuple[str, str], str] = {}
        self.waiting = list(roots)
        while self.waiting:
            self._take(*self.waiting.pop())

    @property
    def modules(self) -> set[str]:
        return {module for module, _ in self.texts}

    def _take(self, name: str, definition: str) -> None:
        if _left_out(name) or definition == "ARMS" or (name, definition) in self.texts:
            return
        module = _module(name)
        if definition not in module.definitions:
            if definition in module.imports:
                self._follow(module.imports[definition])
            return
        if module.effects and (name, "") not in self.texts:
            self._add(module, "", module.effects)
        self._add(module, definition, module.definitions[definition])

    def _follow(self, target: tuple[str, str | None]) -> None:
        """Wait for what an import leads to."""
        name, attribute = target
        if attribute is not None:
            self.waiting.append((name, attribute))
        elif not _left_out(name):  # the module as a value: all of it
            self.waiting += [(name, definition) for definition in _module(name).definitions]

    def _add(self, module: _Module, definition: str, statements: list[ast.stmt]) -> None:
        kept = [part for statement in statements for part in essential(statement)]
        self.texts[module.name, definition] = "\n".join(map(as_text, kept))
        imports = dict(module.imports)
        for node in (n for part in kept for n in ast.walk(part)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                imports |= imported(node, module.name, module.package)
        for part in kept:
            self._references(part, module, imports)

    def _references(self, node: ast.AST, module: _Module, imports: dict) -> None:
        """Wait for all that a syntax tree names: of `a.b.c` the module a.b, and c in it."""
        first, *rest = _chain(node) or [""]
        if first in imports:
            name, attribute = imports[first]
            while attribute is None and rest and _file(f"{name}.{rest[0]}"):
                name = f"{name}.{rest.pop(0)}"
            if attribute is None and rest:
                attribute = rest[0]
            self._follow((name, attribute))
        elif first in module.definitions:
            self.waiting.append((module.name, first))
        if not first:
            for child in ast.iter_child_nodes(node):
                self._references(child, module, imports)


def _left_out(module: str) -> bool:
    return module in OPAQUE or module == "seqlib"


def _chain(node: ast.AST) -> list[str]:
    """`a.b.c` as its names; empty for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [node.id, *reversed(names)] if isinstance(node, ast.Name) else []


def essential(statement: ast.stmt) -> list[ast.stmt]:
    """What of a definition can change a figure: of a spec its methods, without validators, and of
    a function under `@study` the function without what else the kit is given."""
    if isinstance(statement, FUNCTION):
        marks = [mark for mark in statement.decorator_list if not _is_kit(mark)]
        fields = {**dict(ast.iter_fields(statement)), "decorator_list": marks}
        return [type(statement)(**fields)]
    bases = statement.bases if isinstance(statement, ast.ClassDef) else []
    if not any("Spec" in ast.dump(base) for base in bases):
        return [statement]
    methods = [part for part in statement.body if isinstance(part, ast.FunctionDef)]
    return [method for method in methods
            if not any("validator" in ast.dump(mark) for mark in method.decorator_list)]


def _is_kit(mark: ast.expr) -> bool:
    return isinstance(mark, ast.Call) and _chain(mark.func)[-1:] == ["study"]


def as_text(node: Any) -> str:
    """A syntax tree as text that is the same for every version of Python: without positions, empty
    fields and docstrings."""
    if isinstance(node, list):
        return "[" + ",".join(map(as_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (*FUNCTION, ast.ClassDef)) and _is_text(node.body[0]):
        fields["body"] = node.body[1:]
    if isinstance(node, ast.arg):
        fields.pop("annotation", None)
    for name in ("returns", "type_comment", "type_params", "kind", "ctx", "type_ignores"):
        fields.pop(name, None)
    kept = [f"{name}={as_text(part)}" for name, part in fields.items() if part not in (None, [])]
    return f"{type(node).__name__}({','.join(kept)})"


def described(value: Any, roots: list[tuple[str, str]]) -> Any:
    """What an arm is, as JSON; the package's classes and functions that it names are added to
    `roots`."""
    if isinstance(value, functools.partial):
        return [described(part, roots) for part in (value.func, list(value.args), value.keywords)]
    named = value if callable(value) and hasattr(value, "__qualname__") else type(value)
    ours = named.__module__.startswith("seqlib")
    if ours:
        roots.append((named.__module__, named.__qualname__.split(".")[0]))
    if named is value:
        return value.__qualname__ if ours else f"{value.__module__}.{value.__qualname__}"
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"is": named.__name__} | {name: described(x, roots) for name, x in fields.items()}
    if isinstance(value, dict):
        return {str(name): described(part, roots) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [described(part, roots) for part in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


def reach(study: Any, arm: str) -> Reach:
    """All that a run of an arm leads to."""
    roots: list[tuple[str, str]] = []
    described(study.arms.get(arm), roots)
    return _reach((*study.roots, *FOUND, *dict.fromkeys(roots)))


@functools.cache  # of the files as first read: what a process has imported is what it runs
def _reach(roots: tuple[tuple[str, str], ...]) -> Reach:
    return Reach(roots)


def fingerprint(study: Any, arm: str) -> str:
    """sha256, 64 hex digits, of all that a run of `arm` reaches and of what the arm is."""
    return _digest(repr(described(study.arms.get(arm), [])), reach(study, arm))


@functools.cache
def _digest(what: str, reached: Reach) -> str:
    texts = sorted(reached.texts.values())
    return hashlib.sha256("\n".join([what, *texts]).encode()).hexdigest()
