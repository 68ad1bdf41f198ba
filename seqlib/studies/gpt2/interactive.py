"""The page's interactive cell: a prompt and a temperature give the text of the base and of both arms, side by side."""

import pandas as pd
import torch

from seqlib import show
from seqlib.errors import UsageError
from seqlib.studies.gpt2.specs import TuneSpec

_loaded: dict = {}


def models(records) -> dict:
    """The base and the first seed's model of each arm, from the weights that a live run left; {} where there are none."""
    from seqlib.studies.gpt2 import run

    wanted = {}
    for r in records:
        spec = TuneSpec(**r.spec)
        if spec.seed == 0 and spec.protocol == "fair" and spec.arm != "frozen" and run.weights_path(spec).exists():
            wanted.setdefault(spec.arm, spec)
    if wanted and not set(_loaded) >= {s.key for s in wanted.values()}:
        one = next(iter(wanted.values()))
        frozen = TuneSpec(arm="frozen", steps=0, base=one.base, text=one.text, book_path=one.book_path, context=one.context)
        _loaded.update({"base": run.trained_model(frozen)} | {spec.key: run.trained_model(spec) for spec in wanted.values()})
    return {"base": _loaded["base"]} | {arm: _loaded[spec.key] for arm, spec in wanted.items()} if wanted else {}


def respond(records, prompt: str, temperature: float, length: int = 40, seed: int = 0) -> dict[str, str]:
    """What each model writes behind the prompt. Raises UsageError on an empty prompt."""
    from seqlib.studies.gpt2 import bases, run

    if not prompt.strip():
        raise UsageError("the prompt is empty; type some words")
    tokenizer = bases.tokenizer(bases.locate(records[0].spec["base"]))
    with torch.random.fork_rng(devices=[]):
        return {name: run.write(model, tokenizer, prompt, seed, temperature, length) for name, model in models(records).items()}


def prompt_cell(records, prompt: str = "ROMEO:\nWhat shall I do?", temperature: float = 0.8) -> None:
    """Texts for one prompt; in JupyterLab a box for the prompt and a slider for the temperature."""
    import ipywidgets as widgets

    written = respond(records, prompt, temperature) if records else {}
    if not written:
        show.say("No weights are in scratch: they stay where a model was trained. The `quick` profile trains some.")
        return
    show.table(pd.DataFrame({"by": list(written), "text": [t.replace("\n", " / ") for t in written.values()]}),
               f"Written behind {prompt!r} at temperature {temperature}", wide="text", width="80%")
    controls = {"prompt": widgets.Textarea(prompt, description="prompt", continuous_update=False),
                "temperature": widgets.FloatSlider(temperature, min=0, max=2, step=0.1, description="temperature",
                                                   continuous_update=False)}
    show.interactive(controls, lambda prompt, temperature: show.texts(respond(records, prompt, temperature)))
