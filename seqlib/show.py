"""What a notebook shows: checked parameters, sortable tables, and figures that read in light and in dark.

A figure is drawn twice, once a theme, and embedded as SVG with alt text, a caption and its data as a CSV link, so that
the executed notebook is complete by itself in JupyterLab and in the book.
"""

import base64
import html
import io
import types
from collections.abc import Callable

import matplotlib
import pandas as pd
import seaborn as sns
from IPython.display import HTML, Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from seqlib import study
from seqlib.errors import SeqlibError

THEMES = {"light": {"ink": "#222832", "grid": "#d8dadd", "face": "white"},
          "dark": {"ink": "#ced6dd", "grid": "#3a3f46", "face": "none"}}


def parameters(name: str, namespace: dict):
    """Validated parameters of a study's notebook from its namespace; call it right behind the parameters cell.

    Raises UsageError that names the parameter and what is allowed.
    """
    reserved = {"In", "Out", "exit", "quit", "open", "get_ipython"}
    values = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in reserved
              and not isinstance(v, types.ModuleType) and not callable(v)}
    return study.get(name).validate(values)


def start() -> None:
    """Load the table scripts into the page (offline, once a notebook)."""
    import itables

    itables.init_notebook_mode(all_interactive=False, connected=False)


def table(frame: pd.DataFrame, caption: str, digits: int = 3, wide: str | tuple[str, ...] = (), width: str = "45%") -> None:
    """A sortable table; floats with `digits` significant digits; column `wide`, or each of several, takes `width` of the
    room."""
    import itables

    shown = frame.copy()
    for column in shown.select_dtypes("float"):
        shown[column] = shown[column].map(lambda x: "" if pd.isna(x) else float(f"{x:.{digits}g}"))
    shown = shown.fillna("")
    corners = {"topStart": None, "topEnd": "search" if len(frame) > 12 else None, "bottomStart": None, "bottomEnd": None}
    itables.show(shown, caption=caption, paging=False, layout=corners, showIndex=False, classes="display compact",
                 style="width:100%", columnDefs=[{"targets": list(shown).index(name), "width": width}
                                                for name in ((wide,) if isinstance(wide, str) else wide)])


def say(text: str) -> None:
    """Markdown with numbers computed in the cell; of an empty text nothing, which Jupyter would show as an object's name."""
    if text:
        display(Markdown(text))


def _link(data: pd.DataFrame, name: str) -> str:
    encoded = base64.b64encode(data.to_csv(index=False).encode()).decode()
    return f'<a download="{name}.csv" href="data:text/csv;base64,{encoded}">data (CSV)</a>'


def _svg(draw: Callable[[], Figure], theme: dict) -> str:
    ink, grid = theme["ink"], theme["grid"]
    style = {"figure.facecolor": theme["face"], "axes.facecolor": "none", "axes.edgecolor": grid, "grid.color": grid,
             **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), ink), "legend.frameon": False,
             "svg.hashsalt": "seqlib", "font.size": 10, "axes.titlesize": 11, "axes.titlelocation": "left"}
    with sns.axes_style("whitegrid", style), matplotlib.rc_context(style), sns.color_palette("colorblind"):
        figure = draw()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def figure(draw: Callable[[], Figure], *, name: str, alt: str, caption: str, data: pd.DataFrame) -> None:
    """Show what `draw` returns, in both themes. `caption` states the finding; `data` is what was drawn."""
    display(HTML(f'<figure class="seqlib" id="{name}"><div>{pictures(draw, alt)}</div><figcaption>{html.escape(caption)} '
                 f"{_link(data, name)}</figcaption></figure>"))


def pictures(draw: Callable[[], Figure], alt: str) -> str:
    """HTML of a figure in both themes, of which a page shows one."""
    return "".join(
        f'<img class="only-{theme}" alt="{html.escape(alt, quote=True)}" style="max-width:100%'
        f'{";display:none" if theme == "dark" else ""}" src="data:image/svg+xml;base64,{_svg(draw, colours)}">'
        for theme, colours in THEMES.items())


def texts(written: dict[str, str]) -> str:
    """HTML of texts with their names, side by side where there is room, line breaks kept."""
    columns = "".join(f'<div style="flex:1 1 15em"><b>{html.escape(name)}</b><pre style="white-space:pre-wrap">'
                      f"{html.escape(text)}</pre></div>" for name, text in written.items())
    return f'<div style="display:flex;flex-wrap:wrap;gap:1em">{columns}</div>'


def interactive(controls: dict, draw: Callable[..., str]) -> None:
    """Controls (widgets by name), and below them the HTML that `draw` makes of their values, anew whenever one changes.

    No Output widget takes part: executing one in batch can wait for ever (jupyter/nbclient issue 312)."""
    import ipywidgets as widgets

    shown = widgets.HTML("Change a value to see what becomes of it.")

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
    """Colour of text and reference lines in the theme being drawn."""
    return matplotlib.rcParams["text.color"]
