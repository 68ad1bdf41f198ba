"""The page's interactive cell: a sentence gives the probabilities of the classes by both live models."""

import html

import numpy as np
import pandas as pd

from seqlib import show
from seqlib.errors import SeqlibError
from seqlib.studies.ernie.specs import ErnieSpec
from seqlib.studies.ernie.tables import PAIR

_loaded: dict = {}
NONE = ("No weights of a live run with full or lora and seed 0 are in scratch; have one of both among arms, install Paddle, "
        "and run all cells again after `rm -r .runs/records/ernie`.")
EXAMPLE = "国足客场战平对手，小组出线仍有希望"


def models(records) -> dict:
    """The first seed's model of each arm with its vocabulary, from the weights that a live run left; {} where there are
    none."""
    from seqlib.studies.ernie import run

    wanted = {}
    for r in records:
        spec = ErnieSpec(**r.spec)
        if spec.arm in PAIR and not spec.seed and spec.protocol == "fair" and run.weights_path(spec).exists():
            wanted.setdefault(spec.arm, spec)
    state = tuple((spec.key, run.weights_path(spec).stat().st_mtime_ns) for spec in wanted.values())
    if wanted and _loaded.get("state") != state:  # other runs, or the same ones trained anew
        _loaded.clear()
        _loaded.update(state=state, text=next(iter(wanted.values())).text,
                       models={arm: run.trained_model(spec) for arm, spec in wanted.items()})
    return _loaded["models"] if wanted else {}


def probabilities(records, sentence: str) -> pd.DataFrame:
    """Probability of every class, a column an arm, most probable first. Raises UsageError on an empty sentence, SeqlibError
    where no live run has left weights."""
    from seqlib.studies.ernie import sentences
    from seqlib.studies.ernie.specs import LENGTH
    from seqlib.studies.ernie.train import logits_of

    told = {}
    for arm, (model, vocab) in models(records).items():
        logits = logits_of(model, sentences.encode(vocab, [sentence], LENGTH))[0].astype(float)
        told[arm] = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    if not told:
        raise SeqlibError(NONE)
    classes = sentences.load(_loaded["text"]).classes
    return pd.DataFrame(told, index=list(classes)).sort_values(next(iter(told)), ascending=False)


def bars(told: pd.DataFrame, most: int = 6) -> str:
    """HTML of the most probable classes with a bar an arm."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>" + "".join(
            f"<td style='min-width:11em'><span style='display:inline-block;background:currentColor;opacity:.4;height:.7em;"
            f"width:{8 * value:.2f}em'></span> {value:.0%}</td>" for value in row) + "</tr>"
        for name, row in zip(told.index[:most], told.to_numpy()))
    head = "".join(f"<th style='text-align:left'>{html.escape(arm)}</th>" for arm in told)
    return f"<table><tr><th></th>{head}</tr>{rows}</table>"


def sentence_cell(records, sentence: str = EXAMPLE) -> None:
    """Probabilities for one sentence; in JupyterLab a box for the sentence."""
    import ipywidgets as widgets
    from IPython.display import HTML, display

    found = models(records)
    if not found:
        show.say(NONE)
        return
    show.say(f"Class probabilities of “{sentence}” by the live model of {' and of '.join(found)}:")
    display(HTML(bars(probabilities(records, sentence))))
    controls = {"sentence": widgets.Textarea(sentence, description="sentence", continuous_update=False)}
    show.interactive(controls, lambda sentence: bars(probabilities(records, sentence)))
