"""What a notebook shows: checked parameters, figures with captions and data, sortable tables,
sentences, source code.

Figures are ordinary matplotlib figures, shown as SVG images, which JupyterLab, nbconvert, GitHub
and the book all know. They are drawn once, on a light ground that reads in both themes.
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
from pathlib import Path
from typing import Any

import itables
import pandas as pd
import seaborn as sns
from IPython import get_ipython
from IPython.display import HTML, Markdown, display
from IPython.utils.capture import capture_output
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib import api, frames, stats, yamls
from seqlib import study as studies
from seqlib.errors import SeqlibError, nearest
from seqlib.plan import check_parameters

INK = "#222832"  # of text and reference lines
STYLE = {
    "figure.dpi": 96, "figure.facecolor": "white", "savefig.facecolor": "white",
    "axes.edgecolor": "#d8dadd", "grid.color": "#e4e6e9", "axes.titlelocation": "left",
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "font.size": 10, "axes.titlesize": 11, "axes.labelsize": 10, "xtick.labelsize": 9,
    "ytick.labelsize": 9, "legend.fontsize": 9, "legend.frameon": False,
    "svg.hashsalt": "seqlib", "svg.fonttype": "path"}
sns.set_theme(style="whitegrid", palette="colorblind", rc=STYLE)
plt.ioff()  # a figure is shown by `figure`, once

CLAIMS = {
    "reproduced": "holds here as well",
    "same direction": "holds here, with an effect of another size",
    "direction holds on a stand-in": "holds in its direction, on the stand-in that we have",
    "direction fails on a stand-in": "is contradicted on the stand-in that we have",
    "equivalent": "makes no difference here beyond the margin fixed beforehand",
    "contradicted": "is contradicted here", "inconclusive": "is left open by our runs",
    "confounded": "holds as published and is no longer clear once a flaw is mended",
    "not comparable": "cannot be compared, since our data or model are others",
    "not run": "has not been tested yet"}
FIGURES = {
    "reproduced": "agrees with ours", "contradicted": "disagrees with ours",
    "same direction": "ranks the arms as ours does, at other values"}
NUMBER = re.compile(r"\[?[-+]?[0-9]")
INTERVAL = re.compile(r"(\S+) (?:(\[[^]]+\])|\(([^)]+ to [^)]+)\))")  # what `mean` writes
BY_NUMBER = """function (shown, purpose) {
    if (purpose === "display" || purpose === "filter") return shown;
    const number = parseFloat(String(shown).replaceAll(/[,[]/g, ""));
    return isNaN(number) ? -Infinity : number;
}"""
# What itables tells while its script does not run: that the notebook is not trusted, links to help.
HINTS = re.compile(r"<noscript>.*?</noscript>|<sup>.*?</sup>|\(need <a.*?\?\)", re.DOTALL)
_tables = {"ready": False}  # whether the page has the script by which its tables sort


def begin() -> None:
    """A notebook begins, perhaps not for the first time in this kernel: its first table brings the
    script of all."""
    _tables["ready"] = False


def parameters(study: str, **values: Any) -> None:
    """Check a notebook's parameters, all of which are named here: `arms`, `seeds`, and fields of
    the study's spec.

    Call it behind the parameters cell. Raises UsageError on a wrong value, and on a name that the
    parameters cell, or the one that papermill puts behind it, sets and that is no parameter.

    A list or a mapping that arrives as a text is read as YAML, and so is a number such as 1e-3:
    `papermill -p` and YAML 1.1 know no better."""
    begin()
    shell = get_ipython()
    fields = studies.get(study).spec.model_fields
    for name, value in values.items():
        if name not in fields or fields[name].annotation is not str:
            values[name] = _meant(name, value)
            if shell and values[name] != value:
                shell.user_ns[name] = values[name]
    check_parameters(study, values)
    for name in assigned(shell.history_manager.input_hist_raw if shell else [], values):
        if name not in values:
            raise nearest("parameter", name, values)


def _meant(name: str, value: Any) -> Any:
    """A value with every text in it that YAML 1.2 reads otherwise."""
    if isinstance(value, dict):
        return {key: _meant(name, part) for key, part in value.items()}
    if isinstance(value, list):
        return [_meant(name, part) for part in value]
    return yamls.value(value, name) if isinstance(value, str) else value


def assigned(cells: list[str], known: dict[str, Any]) -> list[str]:
    """Names that the latest parameters cell of a kernel's history sets, and the latest cell of
    papermill's behind it. A parameters cell has nothing but assignments, some of known names."""
    injected: list[str] = []
    for source in reversed(cells):
        try:
            statements = ast.parse(source).body
        except SyntaxError:  # a magic
            continue
        names = [ast.unparse(statement).partition("=")[0].partition(":")[0].strip()
                 for statement in statements if isinstance(statement, (ast.Assign, ast.AnnAssign))]
        if not names or len(names) < len(statements):
            continue
        if source.lstrip().startswith("# Parameters"):
            injected = injected or names
        elif set(names) & set(known):
            return names + injected
    return injected


def md(text: str) -> None:
    """Markdown with numbers computed in the cell; an empty text shows nothing."""
    if text.strip():
        display(Markdown(textwrap.dedent(text).strip()))


def have(runs: pd.DataFrame, study: str = "", experiment: str = "") -> bool:
    """Whether a frame has any run; where not, a line says so and how to train them."""
    if not len(runs):
        how = f" Train them with `seqlib sweep {study} {experiment}`." if study else ""
        md(f"*The archive has no such runs yet.{how}*")
    return len(runs) > 0


def figure(drawn: Figure, name: str, *, data: pd.DataFrame, alt: str, caption: str) -> None:
    """Show a figure once, as SVG, with its caption and a link to its data as CSV.

    name: of the file and of the anchor on the page, such as "airline-errors", one of its kind in
    the book. alt: what a reader who does not see the figure has to know. caption: one paragraph of
    Markdown, which states the finding."""
    image = {"image/svg+xml": svg(drawn), "text/plain": f"Figure: {alt}"}
    display(image, raw=True, metadata={"image/svg+xml": {"name": name, "alt": alt}})
    words = {"text/markdown": caption, "text/plain": caption}
    display(words, raw=True, metadata={"seqlib": {"caption": name}})
    encoded = base64.b64encode(data.to_csv(index=False).encode()).decode()
    link = f'<a download="{name}.csv" href="data:text/csv;base64,{encoded}">data (CSV)</a>'
    display({"text/html": link, "text/plain": ""}, raw=True, metadata={"seqlib": {"data": name}})


def svg(drawn: Figure) -> str:
    """A figure as SVG; it is closed."""
    buffer = io.StringIO()
    drawn.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(drawn)
    return buffer.getvalue()


def table(frame: pd.DataFrame, caption: str, digits: int = 3, wide: str | tuple[str, ...] = (),
          width: str = "45%", links: dict[str, str] | None = None) -> None:
    """A table that sorts on a click; floats with `digits` significant digits; columns `wide` take
    `width` of the room each; `links` gives columns an address, in which {} is the cell's text.

    What `mean` writes becomes two columns, of the values and of their intervals; a column whose
    texts begin with a number sorts by it. Without scripts the table stands there unsorted."""
    if not _tables["ready"]:
        with capture_output() as captured:
            itables.init_notebook_mode(all_interactive=False, connected=False)
        for output in captured.outputs:
            display(HTML(HINTS.sub("", output.data["text/html"])))
        _tables["ready"] = True
    columns = [column for name in frame for column in _columns(name, frame[name], digits)]
    names = [name for name, *_ in columns]
    shown = pd.DataFrame(dict(enumerate(map(html.escape, texts) for _, texts, _ in columns)))
    for name, address in (links or {}).items():
        at = names.index(name)
        shown[at] = [f'<a href="{address.format(text)}">{text}</a>' for text in shown[at]]
    shown.columns = [html.escape(name) for name in names]
    wide = (wide,) if isinstance(wide, str) else wide
    settings = [{"targets": names.index(name), "width": width, "className": "wide"}
                for name in wide]
    settings.append({"targets": [i for i, (*_, number) in enumerate(columns) if number],
                     "type": "num", "render": itables.JavascriptFunction(BY_NUMBER)})
    corners = dict.fromkeys(("topStart", "topEnd", "bottomStart", "bottomEnd"))
    corners["topEnd"] = "search" if len(frame) > 12 else None
    text = itables.to_html_datatable(
        shown, caption=caption, paging=False, layout=corners, showIndex=False, allow_html=True,
        classes="display compact", style="width:100%", columnDefs=settings, connected=False,
        text_in_header_can_be_selected=False, display_logo_when_loading=False)
    rows = [names, ["---"] * len(names), *zip(*(texts for _, texts, _ in columns))]
    cells = [[" ".join(cell.replace("|", "\\|").split()) for cell in row] for row in rows]
    plain = "\n".join(["", "", *(f"| {' | '.join(row)} |" for row in cells)])
    display({"text/html": HINTS.sub("", text), "text/markdown": caption + plain}, raw=True)


def _columns(name: Any, values: pd.Series, digits: int) -> list[tuple[str, list[str], bool]]:
    """A column as a table shows it, or two where it has intervals: name, texts, whether it sorts by
    number. `MAE [95% interval]` names both."""
    texts = [_cell(value, digits) for value in values]
    parts = [INTERVAL.fullmatch(text) for text in texts]
    if not any(parts):
        number = any(isinstance(value, numbers.Real) and not isinstance(value, bool)
                     for value in values)
        return [(str(name), texts, number or all(map(NUMBER.match, filter(None, texts))))]
    first, _, second = str(name).removesuffix("]").partition(" [")
    spans = [part[2] or part[3] if part else "" for part in parts]
    whole = [part[1] if part else text for part, text in zip(parts, texts)]
    if not any(part and part[2] for part in parts):
        second = "range"  # of fewer values than an interval needs
    return [(first, whole, True), (second or "95% interval", spans, True)]


def _cell(value: Any, digits: int) -> str:
    """What a table shows of a value: nothing of what is missing, thousands with commas."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return "" if pd.api.types.is_scalar(value) and pd.isna(value) else str(value)
    if isinstance(value, numbers.Integral):
        return f"{value:,}"
    if pd.isna(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{float(f'{value:.{digits}g}'):g}"


def mean(values: pd.Series, digits: int = 1) -> str:
    """`mean [low, high]` with the 95% interval; of fewer than six values `mean (lowest to
    highest)`, of one the value alone, of none nothing."""
    values = values.dropna()
    if values.empty:
        return ""
    text = f"{values.mean():,.{digits}f}"
    if len(values) == 1:
        return text
    if len(values) < stats.MINIMUM:
        return f"{text} ({values.min():,.{digits}f} to {values.max():,.{digits}f})"
    low, high = stats.mean_interval(values)
    return f"{text} [{low:,.{digits}f}, {high:,.{digits}f}]"


def source(*things: Any) -> None:
    """The real source of functions and classes of the package."""
    for thing in things:
        code = textwrap.dedent(inspect.getsource(thing)).rstrip()
        file = Path(inspect.getsourcefile(inspect.unwrap(thing)))  # of what a cache wraps
        file = file.relative_to(Path(__file__).parents[1])
        display(Markdown(f"`{file.as_posix()}`\n\n```python\n{code}\n```"))


def verdicts(study: str) -> None:
    """A study's claims with their verdicts, a row each; their names lead to the claims' page."""
    rows = api.verdicts(study)
    rows["post_hoc"] = rows.post_hoc.map({True: "yes", False: ""})
    columns = {"id": "claim", "verdict": "verdict", "says": "what is claimed", "seeds": "seeds",
               "p_holm": "p (Holm)", "probability": "P(A better)", "post_hoc": "post hoc",
               "reason": "why"}
    table(rows[list(columns)].rename(columns=columns), "Verdicts on the document's claims",
          wide=("what is claimed", "why"), width="28%", links={"claim": "claims.ipynb#{}"})


def said(study: str) -> dict[str, str]:
    """What became of each claim, by its id, as the end of a sentence:
    `f"That A beats B {said['A04']}."`"""
    return {row.id: (FIGURES if row.kind in ("exact", "value") or row.one_run else CLAIMS).get(
        row.verdict, CLAIMS[row.verdict]) for row in api.verdicts(study).itertuples()}


def recorded(study: str) -> str:
    """The machines and code of a study's archived runs, in a sentence of Markdown."""
    records, kind = frames.archived(study), studies.get(study)
    if not records:
        return "The archive has no runs of this study yet."
    machines = {(r.provenance["machine"]["cpu"], r.provenance["machine"]["cores"],
                 r.provenance["versions"]["torch"]) for r in records}
    where = "; ".join(f"{cpu}, {cores} cores, torch {version}"
                      for cpu, cores, version in sorted(machines))
    older = sum(not kind.current(record) for record in records)
    dirty = sum(bool(record.provenance["git"]["dirty"]) for record in records)
    text = f"{len(records):,} archived runs, recorded on {where}. "
    text += f"**{older:,} of them were made by older code.**" if older else (
        "Today's code makes the same runs.")
    return text + (f" {dirty:,} were recorded while other files of the package had uncommitted "
                   "changes." if dirty else "")


def trained(live: pd.DataFrame) -> str:
    """How many live runs were trained now, how long all took, and where: the frame of
    `seqlib.train`, in a sentence."""
    machine, now = live.attrs.get("machine", {}), live.attrs.get("trained", 0)
    how = "all of them trained now" if now == len(live) else (
        f"{now or 'none'} of them trained now, the others earlier by the same code")
    seconds = live.seconds.sum() if "seconds" in live else float("nan")
    return (f"{len(live)} runs, {how}: {seconds:.0f} s of training on "
            f"{machine.get('cpu', 'this machine')}, {machine.get('cores', '?')} cores.")


def differs(live: pd.DataFrame, archive: pd.DataFrame) -> str:
    """In which settings and numbers of seeds live runs differ from archived runs of the same arms,
    in a sentence of Markdown."""
    arms = set(live.arm) & set(archive.arm)
    if not arms:
        return "The archive has no runs of these arms to compare with."
    live, archive = live[live.arm.isin(arms)], archive[archive.arm.isin(arms)]

    def values(frame: pd.DataFrame, name: str) -> str:
        return ", ".join(sorted({f"{value:g}" if isinstance(value, float) else str(value)
                                 for value in frame[name].dropna()}))

    fields = [name for name in studies.get(live.study.iloc[0]).spec.model_fields
              if name not in ("study", "arm", "seed")]
    pairs = [(f"{name} {values(live, name)}", values(archive, name)) for name in fields
             if values(live, name) != values(archive, name)]
    seeds, archived = (frame.groupby("arm").seed.nunique().max() for frame in (live, archive))
    if seeds != archived:
        pairs.append((f"{seeds} seed{'s' if seeds != 1 else ''} an arm", archived))
    if not pairs:
        return "The live run has the settings and seeds of the archive; rounding alone may differ."
    return "The live run has " + "; ".join(f"{ours} instead of {its}" for ours, its in pairs) + "."


def picture(drawn: Figure, alt: str) -> str:
    """HTML of a figure, for `interactive`."""
    encoded = base64.b64encode(svg(drawn).encode()).decode()
    return (f'<img alt="{html.escape(alt, quote=True)}" style="max-width:100%" '
            f'src="data:image/svg+xml;base64,{encoded}">')


def interactive(controls: dict, draw: Callable[..., str]) -> None:
    """Controls (widgets by name), and below them the HTML that `draw` makes of their values, anew
    whenever one changes.

    No Output widget takes part: executing one in batch can wait for ever (jupyter/nbclient issue
    312)."""
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
