"""Verdicts as JSON rows, and the front page's table."""

from collections.abc import Iterable
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np

from seqlib import claims, reach, study
from seqlib.provenance import PACKAGES
from seqlib.rules import VERDICTS, Verdict
from seqlib.sources import cache
from seqlib.store import ROOT, Store

COLUMNS = [field.name for field in fields(Verdict)]


def rows(names: Iterable[str] | None = None, state: str = "") -> list[dict[str, Any]]:
    """The verdicts of some studies (all if None) as JSON-ready rows, None for what is not finite;
    `state` is for `kept_rows`. Raises UsageError on an unknown study."""
    names = study.names() if names is None else names
    return [_finite(asdict(row)) for name in names for row in reach.verdicts(name)]


def kept_rows(names: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """The same, out of the cache while the package, its versions of libraries and a study's records
    are, by content, those of which they were computed. For a process that has changed nothing in
    memory: `seqlib claims`."""
    memory, root, found = joblib.Memory(cache() / "verdicts", verbose=0), Store.archive().root, []
    code = [path for end in ("py", "yaml") for path in Path(__file__).parent.rglob(f"*.{end}")]
    made_of = joblib.hash([*map(version, PACKAGES), *(path.read_bytes() for path in sorted(code))])
    for name in study.names() if names is None else names:
        study.folder(name)  # raises where there is no such study
        records = [(path.name, path.read_bytes()) for path in sorted((root / name).glob("*.json"))]
        found += memory.cache(rows)([name], joblib.hash([made_of, records]))
    memory.reduce_size(items_limit=32)
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def answer_table() -> str:
    """The front page's table in Markdown: each study's answer, and its claims by verdict, post-hoc
    ones apart."""
    text = ["| Study | Answer | Verdicts |", "|---|---|---|"]
    for name in study.names():
        rows = claims.study_verdicts(name)
        counts = _counts(row for row in rows if not row.post_hoc)
        if later := _counts(row for row in rows if row.post_hoc):
            counts += f"; post hoc {later}"
        title = claims.read(name).title
        text.append(f"| [{title}](studies/{name}) | {headline(name)} | {counts} |")
    return "\n".join(text) + "\n"


def _counts(rows: Iterable[Verdict]) -> str:
    found = [row.verdict for row in rows]
    return ", ".join(f"{found.count(v)} {v}" for v in VERDICTS if v in found)


def headline(name: str) -> str:
    """A study's answer in one line: the Markdown output of its page's cell tagged `headline`."""
    import nbformat  # takes a second to import

    path = ROOT / "book" / "studies" / f"{name}.ipynb"
    cells = nbformat.read(path, 4).cells if path.exists() else []
    outputs = [output for cell in cells if "headline" in cell.metadata.get("tags", [])
               for output in cell.get("outputs", [])]
    texts = [output.data["text/markdown"] for output in outputs
             if "text/markdown" in output.get("data", {})]
    return " ".join(" ".join(texts).split()).replace("|", "\\|") or "Not built yet."
