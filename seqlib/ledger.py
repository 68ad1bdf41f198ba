"""Verdicts as JSON rows, tables and Markdown."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from seqlib import claims, study
from seqlib.verdicts import VERDICTS


def as_rows(rows: list[claims.Verdict]) -> list[dict]:
    """JSON-ready rows."""
    def clean(value):
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}
        if isinstance(value, list):
            return [clean(v) for v in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return [clean(asdict(row)) for row in rows]


def ledger_table(rows: list[claims.Verdict]) -> pd.DataFrame:
    """The ledger's overview, one row a claim."""
    return pd.DataFrame([{"claim": r.id, "study": r.study, "verdict": r.verdict, "seeds": r.seeds, "p (Holm)": r.p_holm,
                          "P(A better)": r.probability, "the document says": r.says} for r in rows])


def ledger_text(entry: dict, rows: list[claims.Verdict]) -> str:
    """One study's claims in Markdown, with figures, intervals and what would change the verdict."""
    def number(value):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

    def span(ends):
        return f"{number(ends[0])} to {number(ends[1])}"

    text = [f"## {entry['title']}", f"Known flaws of document {entry['document']}: {entry['flaws'].strip()}"]
    for r in rows:
        text.append(f"### {r.id}: {r.verdict}\n\n{r.says}")
        if r.ours:
            said = r.seed_value if isinstance(r.seed_value, dict) else {}
            text.append("| | document | ours | 95% interval | one run |\n|---|---|---|---|---|\n" + "\n".join(
                f"| {k} | {number(said[k]) if k in said else ''} | {number(v)} | {span(r.ci[k])} | "
                f"{span(r.one_run[k]) if k in r.one_run else ''} |" for k, v in r.ours.items()))
        facts = [f"{r.seeds} paired seeds" if r.seeds else "", f"p = {r.p_holm:.2g} (Holm)" if r.p_holm is not None else "",
                 f"P(improvement) = {r.probability:.2f}" if r.probability is not None else "", r.reason,
                 f"{r.older_code} runs recorded with older code" if r.older_code else "",
                 f"would change it: {r.changes.rstrip('.')}" if r.changes else ""]
        text.append("; ".join(f for f in facts if f) + ".")
    return "\n\n".join(text)


def answer_table() -> str:
    """The front page's table in Markdown: each study's answer, and its claims by verdict."""
    text = ["| Study | Answer | Verdicts |", "|---|---|---|"]
    for name, entry in claims.load().items():
        records, headline = claims.archived(name), "The archive is not complete."
        rows = claims.study_verdicts(name, entry["claims"], claims.frame(records))
        if len(records) == len(study.get(name).planned()):
            headline = study.get(name).headline(records, {row.id: row for row in rows})
        verdicts = [row.verdict for row in rows]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts)
        text.append(f"| [{entry['title']}](studies/{name}) | {headline} | {counts} |")
    return "\n".join(text) + "\n"
