"""Listing data sets, as against fetching one."""

from seqlib import data


def test_listing_fetches_nothing_and_says_how_to(monkeypatch, tmp_path):
    monkeypatch.setenv("SEQLIB_CACHE", str(tmp_path))
    monkeypatch.delenv("SEQLIB_DATA", raising=False)
    for name in ("reachable", "hub", "wheel"):
        monkeypatch.setattr(data, name, None)  # a call would raise TypeError
    rows = {row["name"]: row for row in data.rows()}
    assert set(rows) == set(data.DATA) and rows["airline"]["source"] == "the package"
    absent = [name for name, row in rows.items() if row["path"] is None]
    assert set(absent) == set(data.DATA) - {"airline"}
    assert all(rows[name]["source"] == f"not fetched yet; `seqlib data {name}` does it" for name in absent)
    assert not data._listing.get()
