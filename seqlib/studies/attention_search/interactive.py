"""The page's interactive cell: widths of an attention give its parameters and what decoding keeps a token."""

import ipywidgets as widgets

from seqlib import show
from seqlib.studies.attention_search.arms import PUBLISHED, Attention, outline, size

LONG = 131_072  # tokens
START = Attention(None, 64, 0, 32, 48, factor=1.5)  # rope_small


def describe(at: Attention) -> str:
    """A latent attention at the published size against the plain block, in words."""
    widths = (PUBLISHED.F,) * PUBLISHED.L
    plain, ours = (size(each, PUBLISHED, widths) for each in (None, at))
    whole, kept = (outline(each, PUBLISHED, widths).cached_per_token for each in (None, at))
    gb = LONG * 4 / 2**30  # in single precision
    return (f"{ours:,} parameters, {ours - plain:+,} against the plain block. Decoding keeps {kept:,} numbers a token, "
            f"the plain block {whole:,} ({kept / whole:.1%}): for a context of {LONG:,} tokens {gb * kept:.1f} GB in single "
            f"precision, against {gb * whole:.1f} GB.")


def width_cell(at: Attention = START) -> None:
    """`at` in words; in JupyterLab sliders for its widths."""
    show.say(describe(at))
    ranks = [("full", 0), *((str(n), n) for n in (16, 32, 64, 128, 256, 512))]
    controls = {"q_rank": widgets.SelectionSlider(options=ranks, value=at.q_rank or 0, description="query rank"),
                "kv_rank": widgets.SelectionSlider(options=ranks, value=at.kv_rank or 0, description="latent rank"),
                "nope": widgets.IntSlider(at.nope, 0, 128, 16, description="own key"),
                "rope": widgets.IntSlider(at.rope, 16, 128, 16, description="rotary"),
                "v": widgets.IntSlider(at.v, 16, 192, 16, description="value"),
                "bias": widgets.Checkbox(at.bias, description="bias")}
    show.interactive(controls, lambda q_rank, kv_rank, **widths: describe(Attention(q_rank or None, kv_rank or None, **widths)))
