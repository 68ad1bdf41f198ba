"""The page's interactive cell: a prompt and a temperature give text, and the attention under it."""

import pandas as pd
import torch

from seqlib import show
from seqlib.studies.shakespeare import corpus, evaluate, figures
from seqlib.studies.shakespeare.run import trained_model, weights_path
from seqlib.studies.shakespeare.specs import ShakespeareSpec

SHOWN = 28  # characters of an attention picture


def models(records) -> dict:
    """The first seed's model of every arm, from the weights that its run left in scratch; {} where there are none."""
    first: dict[str, ShakespeareSpec] = {}
    for r in records:
        if r.spec["seed"] == 0:
            first.setdefault(r.spec["arm"], ShakespeareSpec(**r.spec))
    return {arm: trained_model(spec, corpus.load(spec.corpus)) for arm, spec in first.items() if weights_path(spec).exists()}


@torch.no_grad()
def respond(records, prompt: str, temperature: float, length: int = 160, seed: int = 0) -> tuple[dict, dict]:
    """Text by arm, and for arms with attention the text's last SHOWN characters and the weights (SHOWN, SHOWN) over them,
    averaged over layers and heads. Raises UsageError on a prompt with characters outside the vocabulary."""
    spec = records[0].spec
    text = corpus.load(spec["corpus"])
    start, written, looks = text.encode(prompt), {}, {}
    for arm, model in models(records).items():
        drawn = evaluate.generate(model, start, length, temperature, seed, spec["context"])[0]
        written[arm] = text.decode(drawn)
        keep: dict = {}
        end = torch.cat((start, drawn))[-min(SHOWN, spec["context"]) :]
        model(end.unsqueeze(0), keep)
        if "weights" in keep:
            looks[arm] = (text.decode(end), keep["weights"][0].mean(0).numpy())
    return written, looks


def prompt_cell(records, prompt: str = "First Citizen:\nBefore we proceed any fur", temperature: float = 0.8) -> None:
    """Texts and attention for one prompt; in JupyterLab a box for the prompt and a slider for the temperature."""
    import ipywidgets as widgets

    written, looks = respond(records, prompt, temperature)
    if not written:
        show.say("No weights are in scratch: they stay where a model was trained. The `quick` profile trains some.")
        return
    show.table(pd.DataFrame({"arm": list(written), "text": [t.replace("\n", " / ") for t in written.values()]}),
               f"Written by the live models behind {prompt!r} at temperature {temperature}", wide="text", width="80%")
    if looks:
        told = ", ".join(f"{arm} {weights[-1, -8:].sum():.0%}" for arm, (_, weights) in looks.items())
        show.figure(lambda: figures.attention(looks), name="shakespeare-attention",
                    data=pd.concat([pd.DataFrame(weights).assign(arm=arm) for arm, (_, weights) in looks.items()]),
                    alt="Attention weights over the end of each text, one panel an arm.",
                    caption="Attention under the end of each text (root of the weight, mean over layers and heads; ¶ ends a "
                            f"line). What the last row gives to its eight latest characters: {told}.")
    controls = {"prompt": widgets.Textarea(prompt, description="prompt"),
                "temperature": widgets.FloatSlider(temperature, min=0, max=2, step=0.1, description="temperature")}

    def redraw(prompt, temperature):
        texts, under = respond(records, prompt, temperature)
        return show.texts(texts) + (show.pictures(lambda: figures.attention(under), "Attention weights.") if under else "")

    show.interactive(controls, redraw)
