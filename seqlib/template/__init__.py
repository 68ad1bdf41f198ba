"""`seqlib new NAME`: the files of a new study, which runs at once."""

import keyword
import re
from importlib.resources import files
from pathlib import Path

from seqlib import study as studies
from seqlib.errors import UsageError
from seqlib.store import ROOT, write_atomically

FILES = {"study.py.txt": "seqlib/studies/{name}/__init__.py",
         "plan.yaml": "seqlib/studies/{name}/plan.yaml",
         "claims.yaml": "seqlib/studies/{name}/claims.yaml",
         "notebook.ipynb": "notebooks/{name}.ipynb"}


def write(name: str) -> list[Path]:
    """Write a new study; returns its files. Raises UsageError on a taken or an invalid name."""
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(f"{name!r} cannot name a study; take small letters, digits and "
                         "underscores, such as copy_task")
    package = studies.FOLDER.parents[1]
    places = {source: (package if target.startswith("seqlib") else ROOT) / target.format(name=name)
              for source, target in FILES.items()}
    taken = [path for path in (*places.values(), studies.FOLDER / name) if path.exists()]
    if taken:
        raise UsageError(f"there is a study {name} already ({taken[0]}); choose another name")
    for source, path in places.items():
        text = (files("seqlib.template") / source).read_text(encoding="utf-8")
        text = text.replace("StudySpec", f"{name.title().replace('_', '')}Spec")
        text = text.replace("STUDY", name)
        write_atomically(path, text.encode())
    return list(places.values())
