from seqlib import provenance


def module(tmp_path, monkeypatch, text):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "sample_module.py").write_text(text)
    for cached in (provenance.code_hash, provenance.made_by):
        cached.cache_clear()
    return provenance.code_hash(("sample_module",))


CODE = '"""What it is."""\n\n\ndef double(x):\n    """Twice x."""\n    return 2 * x  # exact\n'


def test_words_do_not_change_the_hash_and_code_does(tmp_path, monkeypatch):
    first = module(tmp_path, monkeypatch, CODE)
    told = CODE.replace("Twice x.", "Two times x,\n\n    as said.").replace("# exact", "# no rounding").replace("What", "This")
    assert module(tmp_path, monkeypatch, told) == first
    assert module(tmp_path, monkeypatch, CODE.replace("2 * x", "3 * x")) != first
    assert module(tmp_path, monkeypatch, CODE.replace("return 2", 'y = "# exact"\n    return 2')) != first


def test_records_that_carry_the_hash_of_the_bytes_still_count(tmp_path, monkeypatch):
    now = module(tmp_path, monkeypatch, CODE)
    of_bytes = provenance._hash(("sample_module",), bytes)
    assert of_bytes != now
    assert provenance.made_by(now, ("sample_module",)) and provenance.made_by(of_bytes, ("sample_module",))
    assert not provenance.made_by("0" * 64, ("sample_module",))
