"""Fingerprints of code: a record carries that of what made it, so that it can be said whether today's code would make it.

The fingerprint of an arm covers every definition of the package that its run reaches, found from names and imports, and what
the arm itself is (its entry in the study's `ARMS`). Comments, docstrings, annotations of arguments, the file that a definition
stands in, other arms, and the fields of a spec (whose values the record has) do not count. What cannot change a figure is left
out as a whole: see OPAQUE.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OPAQUE = frozenset(f"seqlib.{name}" for name in (
    "accepted", "api", "code", "data", "errors", "frames", "plan", "processes", "provenance", "sources", "store", "study", "sweep",
    "verify", "yamls"))
FOUND = [("seqlib.record", "tidy")]  # of every study: the digits that a record keeps


class _Module:
    """What a module defines and imports, by name, without importing it."""

    def __init__(self, name: str):
        spec = importlib.util.find_spec(name)
        self.name = name
        self.package = spec.submodule_search_locations is not None
        self.tree = ast.parse(Path(spec.origin).read_bytes())
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.effects: list[ast.stmt] = []
        self.imports: dict[str, tuple[str, str | None]] = {}
        for statement in _flat(self.tree.body):
            if isinstance(statement, (ast.Import, ast.ImportFrom)):
                self.imports |= imported(statement, name, self.package)
            elif names := list(_bound(statement)):
                for bound in names:
                    self.definitions.setdefault(bound, []).append(statement)
            elif not isinstance(statement, ast.Pass) and not _is_text(statement):
                self.effects.append(statement)


def _flat(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Statements of a module, those inside `if` and `try` too; what is there for type checkers alone is left out."""
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        if isinstance(statement, (ast.If, ast.Try, ast.With)):
            yield from _flat(statement.body)
            yield from _flat(getattr(statement, "orelse", []))
        else:
            yield statement


def _bound(statement: ast.stmt) -> Iterable[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield statement.name
    elif isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def imported(statement: ast.Import | ast.ImportFrom, module: str, package: bool) -> dict[str, tuple[str, str | None]]:
    """What an import binds, of this package alone: name -> (module, attribute or None for the module itself)."""
    found = {}
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            if alias.name.startswith("seqlib"):
                found[alias.asname or alias.name.split(".")[0]] = (alias.name if alias.asname else "seqlib", None)
        return found
    source = statement.module or ""
    if statement.level:
        parent = module.split(".")[: len(module.split(".")) - statement.level + package]
        source = ".".join([*parent, source] if source else parent)
    if source.split(".")[0] == "seqlib":
        for alias in statement.names:
            whole = f"{source}.{alias.name}"
            found[alias.asname or alias.name] = (whole, None) if _exists(whole) else (source, alias.name)
    return found


@functools.cache
def _exists(module: str) -> bool:
    """Whether there is such a module; looked up among the files, so that none is imported."""
    path = Path(__file__).parents[1].joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@functools.cache
def _module(name: str) -> _Module:
    return _Module(name)


class Reach:
    """The definitions that some starting points lead to; `texts` maps (module, name) to their syntax trees as text."""

    def __init__(self, roots: Iterable[tuple[str, str]]):
        self.texts: dict[tuple[str, str], str] = {}
        self.waiting = list(roots)
        while self.waiting:
            self._take(*self.waiting.pop())

    @property
    def modules(self) -> set[str]:
        return {module for module, _ in self.texts}

    def _take(self, name: str, definition: str) -> None:
        if name in OPAQUE or name == "seqlib" or definition == "ARMS" or (name, definition) in self.texts:
            return
        module = _module(name)
        if definition not in module.definitions:
            if definition in module.imports:
                self._follow(module.imports[definition])
            return
        if name not in self.modules and module.effects:
            self._add(module, "", module.effects)
        self._add(module, definition, module.definitions[definition])

    def _follow(self, target: tuple[str, str | None]) -> None:
        name, attribute = target
        if attribute is not None:
            self.waiting.append((name, attribute))
        elif name not in OPAQUE and name != "seqlib":  # the module as a value: all of it
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
        chain = _chain(node)
        if chain:
            first, *rest = chain
            if first in imports:
                name, attribute = imports[first]
                while attribute is None and rest and _exists(f"{name}.{rest[0]}"):
                    name, rest = f"{name}.{rest[0]}", rest[1:]
                if attribute is None and rest:
                    attribute = rest[0]
                self._follow((name, attribute))
            elif first in module.definitions:
                self.waiting.append((module.name, first))
            if isinstance(node, ast.Name) or all(isinstance(n, (ast.Name, ast.Attribute, ast.expr_context)) for n in ast.walk(node)):
                return
        for child in ast.iter_child_nodes(node):
            self._references(child, module, imports)


def _chain(node: ast.AST) -> list[str]:
    """`a.b.c` as its names; empty for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return [*reversed([*names, node.id])] if isinstance(node, ast.Name) else []


def essential(statement: ast.stmt) -> list[ast.stmt]:
    """What of a definition can change a figure: of a spec its methods, without validators."""
    if not isinstance(statement, ast.ClassDef) or not any("Spec" in ast.dump(base) for base in statement.bases):
        return [statement]
    return [part for part in statement.body if isinstance(part, ast.FunctionDef)
            and not any("validator" in ast.dump(mark) for mark in part.decorator_list)]


def as_text(node: Any) -> str:
    """A syntax tree as text that is the same for every version of Python: no positions, no empty fields, no words."""
    if isinstance(node, list):
        return "[" + ",".join(map(as_text, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and node.body and _is_text(node.body[0]):
        fields["body"] = node.body[1:]
    if isinstance(node, ast.arg):
        fields.pop("annotation", None)
    for name in ("returns", "type_comment", "type_params", "kind", "ctx", "type_ignores"):
        fields.pop(name, None)
    inner = ",".join(f"{name}={as_text(value)}" for name, value in fields.items() if value not in (None, []))
    return f"{type(node).__name__}({inner})"


def described(value: Any, roots: list[tuple[str, str]]) -> Any:
    """What an arm is, as JSON; classes and functions of the package that it names are added to `roots`."""
    if isinstance(value, functools.partial):
        return [described(part, roots) for part in (value.func, list(value.args), value.keywords)]
    if callable(value) and hasattr(value, "__qualname__"):
        if value.__module__.startswith("seqlib"):
            roots.append((value.__module__, value.__qualname__.split(".")[0]))
        return f"{value.__module__}.{value.__qualname__}" if not value.__module__.startswith("seqlib") else value.__qualname__
    if dataclasses.is_dataclass(value):
        if type(value).__module__.startswith("seqlib"):
            roots.append((type(value).__module__, type(value).__qualname__.split(".")[0]))
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"is": type(value).__name__} | {name: described(part, roots) for name, part in fields.items()}
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


@functools.cache  # of the files as they are when it is first asked for: what a process has imported is what it runs
def _reach(roots: tuple[tuple[str, str], ...]) -> Reach:
    return Reach(roots)


def fingerprint(study: Any, arm: str) -> str:
    """sha256, 64 hex digits, of all that a run of `arm` reaches and of what the arm is."""
    what = repr(described(study.arms.get(arm), []))
    return hashlib.sha256("\n".join([what, *sorted(reach(study, arm).texts.values())]).encode()).hexdigest()
