"""What a notebook shows: checked parameters, figures with captions and data, sortable tables, sentences, source code.

Figures are ordinary matplotlib figures, shown as SVG images, which JupyterLab, nbconvert, GitHub and the book all know. They are
drawn once, on a light ground that reads in both themes.
"""

import ast
import base64
import html
import inspect
import io
import numbers
import re
import textwrap
from collections.abc import Callable
from typing import Any

import matplotlib
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from pydantic import TypeAdapter, ValidationError

from seqlib import stats
from seqlib import study as studies
from seqlib.errors import SeqlibError, UsageError, first_problem, nearest

INK = "#222832"
STYLE = {"figure.dpi": 96, "figure.facecolor": "white", "savefig.facecolor": "white", "axes.edgecolor": "#d8dadd",
         "grid.color": "#e4e6e9", **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
         "legend.frameon": False, "svg.hashsalt": "seqlib", "svg.fonttype": "path", "font.size": 10, "axes.titlesize": 11,
         "axes.titlelocation": "left"}
sns.set_theme(style="whitegrid", palette="colorblind", rc=STYLE)
plt.ioff()  # a figure is shown by `figure`, once


def parameters(study: str, **values: Any) -> None:
    """Check a notebook's parameters, all of which are named here: `arms`, `seeds`, and fields of the study's spec.

    Call it behind the parameters cell, and name every parameter. Raises UsageError that names the parameter and what is allowed,
    on a wrong value and on a name that the parameters cell (or papermill) has set and that is none."""
    check_parameters(study, values)
    for name in _assigned(values):
        if name not in values:
            raise nearest("parameter", name, values)


def check_parameters(study: str, values: dict[str, Any]) -> None:
    """Raises UsageError on a parameter of a wrong name, type or range. A field may hold a mapping by arm."""
    kind = studies.get(study)
    for name, value in values.items():
        if name == "arms":
            if not isinstance(value, (list, tuple)) or not value or not all(isinstance(arm, str) for arm in value):
                raise UsageError(f"arms: wants a list of arms such as {list(kind.arms)[:2]}, got {value!r}")
            for arm in value:
                if arm not in kind.arms:
                    raise nearest("arm in arms:", arm, kind.arms)
            if len(set(value)) < len(value):
                raise UsageError(f"arms: an arm is named twice in {value!r}")
        elif name == "seeds":
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
                raise UsageError(f"seeds: wants a whole number from 1 to 1000, got {value!r}")
        elif name not in kind.spec.model_fields or name in ("study", "arm", "seed"):
            raise nearest("parameter", name, ["arms", "seeds", *(set(kind.spec.model_fields) - {"study", "arm", "seed"})])
        else:
            field = kind.spec.model_fields[name]
            for arm in value if isinstance(value, dict) else ():
                if arm not in kind.arms:
                    raise nearest(f"arm in {name}:", arm, kind.arms)
            for one in value.values() if isinstance(value, dict) else [value]:
                if one == "auto" and isinstance(field.default, str):
                    continue
                _check_field(name, field, one)


def _check_field(name: str, field: Any, value: Any) -> None:
    from typing import Annotated

    if isinstance(value, bool) and field.annotation is not bool:
        raise UsageError(f"{name}: wants {getattr(field.annotation, '__name__', field.annotation)}, got {value!r}")
    kind = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    try:
        TypeAdapter(kind).validate_python(value, strict=not isinstance(value, list))
    except ValidationError as error:
        raise UsageError(f"{name}: {first_problem(error).partition(': ')[2]}, got {value!r}") from None


def _assigned(values: dict[str, Any]) -> list[str]:
    """Names that the parameters cell assigns, and the cell that papermill puts behind it: read from the kernel's history."""
    shell = get_ipython()
    names: list[str] = []
    cells = shell.history_manager.input_hist_raw[1:] if shell else []
    for source in reversed(cells[-12:]):
        try:
            own = [target.id for statement in ast.parse(source).body if isinstance(statement, ast.Assign)
                   for target in statement.targets if isinstance(target, ast.Name)]
        except SyntaxError:
            continue
        injected = source.lstrip().startswith("# Parameters")
        if own and (injected or set(own) & set(values)):
            names += own
            if not injected:
                break
    return [name for name in dict.fromkeys(names) if not name.startswith("_")]


def md(text: str) -> None:
    """Markdown with numbers computed in the cell."""
    if text.strip():
        display(Markdown(textwrap.dedent(text).strip()))


def have(runs: pd.DataFrame, study: str = "", experiment: str = "") -> bool:
    """Whether a frame has any run; where not, a line says so and how to train them."""
    if len(runs):
        return True
    how = f" Train them with `seqlib sweep {study} {experiment}`.".replace(" `", " `") if study else ""
    md(f"*The archive has no such runs yet.{how.rstrip()}*")
    return False


def figure(drawn: Figure, name: str, *, data: pd.DataFrame, alt: str, caption: str) -> None:
    """Show a figure once, as SVG, with its caption (Markdown, which states the finding) and a link to its data as CSV.

    name: of the file and the anchor, such as "airline-errors". alt: what a reader who does not see it has to know."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(drawn)
    image = {"image/svg+xml": buffer.getvalue(), "text/plain": f"Figure: {alt}"}
    display(image, raw=True, metadata={"image/svg+xml": {"name": name, "alt": alt}})
    display({"text/markdown": caption, "text/plain": caption}, raw=True, metadata={"seqlib": {"caption": name}})
    display(HTML(data_link(data, name)))


def data_link(data: pd.DataFrame, name: str) -> str:
    """HTML of a link that saves a frame as CSV."""
    encoded = base64.b64encode(data.to_csv(index=False).encode()).decode()
    return f'<a download="{name}.csv" href="data:text/csv;base64,{encoded}">data (CSV)</a>'


def table(frame: pd.DataFrame, caption: str, digits: int = 3, wide: str | tuple[str, ...] = (), width: str = "45%") -> None:
    """A table that sorts on a click; floats with `digits` significant digits; columns `wide` take `width` of the room each.

    A column whose texts begin with a number, such as those of `mean`, sorts by it."""
    import itables

    itables.init_notebook_mode(all_interactive=False, connected=False)
    shown = frame.astype(object)
    for column in shown:
        shown[column] = [_cell(value, digits) for value in shown[column]]
    corners = {"topStart": None, "topEnd": "search" if len(frame) > 12 else None, "bottomStart": None, "bottomEnd": None}
    columns = [{"targets": list(shown).index(name), "width": width} for name in ((wide,) if isinstance(wide, str) else wide)]
    numeric = [i for i, name in enumerate(shown) if all(NUMBER.match(text) for text in shown[name] if text)]
    columns.append({"targets": numeric, "type": "num", "render": itables.JavascriptFunction(SORTED)})
    itables.show(shown, caption=caption, paging=False, layout=corners, showIndex=False, classes="display compact",
                 style="width:100%", columnDefs=columns)


NUMBER = re.compile(r"[-+]?[0-9]")
SORTED = """function (shown, purpose) {
    const number = parseFloat(String(shown).replaceAll(",", ""));
    return purpose === "display" || purpose === "filter" ? shown : isNaN(number) ? -Infinity : number;
}"""


def _cell(value: Any, digits: int) -> str:
    """What a table shows of a value: nothing of what is missing, thousands with commas."""
    if isinstance(value, str) or not pd.api.types.is_scalar(value):
        return str(value)
    if pd.isna(value):
        return ""
    if isinstance(value, bool) or not isinstance(value, (numbers.Integral, numbers.Real)):
        return str(value)
    if isinstance(value, numbers.Integral):
        return f"{value:,}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10**digits else f"{rounded:g}"


def mean(values: pd.Series, digits: int = 1) -> str:
    """`mean [low, high]` with the 95% interval; of fewer than six values `mean (lowest to highest)`, of one the value alone."""
    values = values.dropna()
    if values.empty:
        return ""
    text = f"{values.mean():,.{digits}f}"
    if len(values) == 1:
        return text
    if len(values) < stats.MINIMUM:
        return f"{text} ({values.min():,.{digits}f} to {values.max():,.{digits}f})"
    low, high = stats.bca_interval(values)
    return f"{text} [{low:,.{digits}f}, {high:,.{digits}f}]"


def source(*things: Any) -> None:
    """The real source of functions and classes of the package, as the page shows it."""
    for thing in things:
        code = textwrap.dedent(inspect.getsource(thing)).rstrip()
        where = f"{thing.__module__.replace('.', '/')}.py"
        display(Markdown(f"`{where}`\n\n```python\n{code}\n```"))


def verdicts(study: str) -> None:
    """A study's claims with their verdicts, a row each, linked to the page of all verdicts."""
    from seqlib import api

    rows = api.verdicts(study)
    columns = {"id": "claim", "verdict": "verdict", "seeds": "seeds", "p_holm": "p (Holm)", "probability": "P(A better)",
               "says": "the document says", "reason": "why"}
    table(rows[list(columns)].rename(columns=columns), "Verdicts on the document's claims",
          wide=("the document says", "why"), width="28%")


def said(study: str) -> dict[str, str]:
    """What became of each claim, by its id, as the end of a sentence: `f"That A beats B {said['A04']}."`"""
    from seqlib import api

    return {row.id: (FIGURES if row.kind in ("exact", "value") else {}).get(row.verdict, CLAIMS[row.verdict])
            for row in api.verdicts(study).itertuples()}


CLAIMS = {"reproduced": "holds here as well", "same direction": "holds here, with an effect of another size",
          "equivalent": "makes no difference here beyond the margin fixed beforehand",
          "contradicted": "is contradicted here", "inconclusive": "is left open by our runs",
          "confounded": "holds as published and no longer once a flaw is mended",
          "not comparable": "cannot be compared, since our data or model are others", "not run": "has not been tested yet"}
FIGURES = {"reproduced": "agrees with ours", "same direction": "ranks the arms as ours does, at other values",
           "contradicted": "disagrees with ours"}


def recorded(study: str) -> str:
    """The machines and code of a study's archived runs, in a sentence of Markdown."""
    from seqlib import frames

    records, kind = frames.archived(study), studies.get(study)
    if not records:
        return "The archive has no runs of this study yet."
    machines = {(r.provenance["machine"]["cpu"], r.provenance["machine"]["cores"], r.provenance["versions"]["torch"])
                for r in records}
    where = "; ".join(f"{cpu}, {cores} cores, torch {version}" for cpu, cores, version in sorted(machines))
    older = sum(not kind.current(record) for record in records)
    dirty = sum(bool(record.provenance["git"]["dirty"]) for record in records)
    return (f"{len(records):,} archived runs, recorded on {where}. "
            + (f"**{older:,} of them were made by older code.** " if older else "Today's code makes the same runs. ")
            + (f"{dirty:,} were recorded while other files of the package had uncommitted changes." if dirty else ""))


def trained(live: pd.DataFrame) -> str:
    """How many live runs were trained now, how long all took, and where: the frame of `seqlib.train`, in a sentence."""
    machine = live.attrs.get("machine", {})
    seconds = live.seconds.sum() if "seconds" in live else float("nan")
    return (f"{len(live)} runs, {live.attrs.get('trained', 0)} of them trained now and the others earlier by the same code: "
            f"{seconds:.0f} s of training on {machine.get('cpu', 'this machine')}, {machine.get('cores', '?')} cores.")


def differs(live: pd.DataFrame, archive: pd.DataFrame) -> str:
    """In which settings and numbers of seeds live runs differ from archived runs of the same arms, in a sentence of Markdown."""
    arms = [arm for arm in live.arm.unique() if arm in set(archive.arm)]
    if not arms:
        return "The archive has no runs of these arms to compare with."
    live, archive = live[live.arm.isin(arms)], archive[archive.arm.isin(arms)]

    def of(frame, name):
        return ", ".join(sorted({f"{value:g}" if isinstance(value, float) else str(value) for value in frame[name]}))

    settings = [name for name in studies.get(live.study.iloc[0]).spec.model_fields if name not in ("study", "arm", "seed")]
    told = [f"{name} {of(live, name)} instead of {of(archive, name)}" for name in settings if of(live, name) != of(archive, name)]
    seeds, of_archive = (int(frame.groupby("arm").seed.nunique().max()) for frame in (live, archive))
    told += [f"{seeds} seeds an arm instead of {of_archive}"] if seeds != of_archive else []
    return (f"The live run differs from the archive's: {'; '.join(told)}." if told else
            "The live run has the settings and seeds of the archive; what differs between them is rounding.")


def picture(drawn: Figure, alt: str) -> str:
    """HTML of a figure, for `interactive`."""
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(drawn)
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{html.escape(alt, quote=True)}" style="max-width:100%" src="data:image/svg+xml;base64,{encoded}">'


def interactive(controls: dict, draw: Callable[..., str]) -> None:
    """Controls (widgets by name), and below them the HTML that `draw` makes of their values, anew whenever one changes.

    No Output widget takes part: executing one in batch can wait for ever (jupyter/nbclient issue 312)."""
    import ipywidgets as widgets

    shown = widgets.HTML("Change a value to see what it does.")

    def redraw(_):
        try:
            shown.value = draw(**{name: control.value for name, control in controls.items()})
        except SeqlibError as error:
            shown.value = html.escape(str(error))

    for control in controls.values():
        control.style.description_width = "initial"  # room for the whole word
        control.observe(redraw, "value")
    display(widgets.VBox([*controls.values(), shown]))


def ink() -> str:
    """Colour of text and reference lines."""
    return matplotlib.rcParams["text.color"]
