"""Where a built page says of a claim what the ledger does not."""

import re
from collections.abc import Iterator

from bs4 import BeautifulSoup

from seqlib.rules import VERDICTS
from seqlib.show import CLAIMS, FIGURES


def on_the_page_of_claims(soup: BeautifulSoup, rows: list[dict]) -> Iterator[str]:
    """Each section's verdict, seeds and p, and the mean and interval of every figure."""
    for row in rows:
        section = soup.find("section", id=row["id"].lower())
        text = " ".join(section.get_text(" ").split())
        said = [text.partition("Verdict: ")[2].startswith(row["verdict"]),
                f"{row['seeds']} seeds" in text or not row["seeds"],
                f"p = {row['p_holm']:.2g} (Holm)" in text if row["p_holm"] is not None else True]
        if not all(said):
            yield f"{row['id']}: {said}: {text[:300]}"
        found = re.findall(r"-?[\d,]*\d\.?\d*(?:e[-+]\d+)?", section.get_text(" "))
        numbers = {float(number.replace(",", "")) for number in found}
        for name, value in row["ours"].items():
            ends = row["ci"][name]
            for number in [value, *(end for end in ends if end is not None and ends[0] != ends[1])]:
                if not any(abs(number - one) <= 6e-4 * abs(number) for one in numbers):
                    yield f"{row['id']}, {name}: {number} is not there"


def in_a_table_of_verdicts(soup: BeautifulSoup, rows: list[dict]) -> Iterator[str]:
    """A row a claim: verdict, seeds, p and probability."""
    by_id = {row["id"]: row for row in rows}
    for table in soup.find_all("table"):
        heads = [head.get_text(strip=True) for head in table.find_all("th")]
        if not {"claim", "verdict"} <= {*heads}:
            continue
        for line in table.find_all("tr"):
            cells = dict(zip(heads, [cell.get_text(strip=True) for cell in line.find_all("td")]))
            row = by_id.pop(cells.get("claim"), None)
            if row:
                told = (cells["verdict"], cells["seeds"],
                        *(float(cells[name]) if cells[name] else None
                          for name in ("p (Holm)", "P(A better)")))
                wanted = (row["verdict"], str(row["seeds"]), row["p_holm"], row["probability"])
                near = all(a is b is None or None not in (a, b) and abs(a - b) < 0.006 * b + 1e-3
                           for a, b in zip(told[2:], wanted[2:]))
                if told[:2] != wanted[:2] or not near:
                    yield f"{row['id']}: {told}, and the ledger has {wanted}"
    yield from (f"{id_}: no table has it" for id_ in by_id)


def in_sentences(soup: BeautifulSoup, rows: list[dict]) -> Iterator[str]:
    """Of `... (A04) holds here as well` the words behind the claim's name."""
    text = " ".join(soup.get_text(" ").split())
    for row in rows:
        right = {CLAIMS[row["verdict"]], FIGURES.get(row["verdict"], CLAIMS[row["verdict"]])}
        wrong = {*CLAIMS.values(), *FIGURES.values()} - right
        for match in re.finditer(rf"\({row['id']}\),? (?:it )?", text):
            behind = text[match.end():]
            if any(behind.startswith(phrase) for phrase in wrong):
                if not any(behind.startswith(phrase) for phrase in right):
                    yield f"({row['id']}) {behind[:80]}"


def on_the_front_page(soup: BeautifulSoup, rows: list[dict]) -> Iterator[str]:
    """How many claims of each study have which verdict, post-hoc ones behind the others."""
    for line in soup.find("table").find_all("tr")[1:]:
        link, text = line.find("a")["href"], line.find_all("td")[2].get_text(" ", strip=True)
        study = re.search(r"studies/(\w+)", link)[1]
        parts = dict(zip((False, True), [*text.split("; post hoc "), ""]))
        for post_hoc, part in parts.items():
            own = [row["verdict"] for row in rows
                   if row["study"] == study and row["post_hoc"] == post_hoc]
            wanted = {(str(own.count(verdict)), verdict) for verdict in VERDICTS if verdict in own}
            if {tuple(one.split(" ", 1)) for one in part.split(", ") if one} != wanted:
                yield f"{study}: {part}, and the ledger has {wanted}"
