"""The page's interactive cell: a prompt and a temperature give the text of the base and of both arms, side by side."""

import torch
from IPython.display import HTML, display

from seqlib import show
from seqlib.errors import SeqlibError, UsageError, first_line
from seqlib.studies.gpt2.specs import TuneSpec

_loaded: dict = {}


def models(records) -> dict:
    """The base and the first seed's model of each arm, from the weights that a live run left; {} where there are none."""
    from safetensors import SafetensorError

    from seqlib.studies.gpt2 import bases, run

    def trained(spec):
        try:
            return run.trained_model(spec)
        except (SafetensorError, ValueError, RuntimeError, OSError) as error:
            raise SeqlibError(f"the weights of {spec.arm} in {run.weights_path(spec)} are damaged ({first_line(error)}); "
                              "delete that folder and run all cells again") from error

    wanted: dict[str, TuneSpec] = {}
    for r in records:
        spec = TuneSpec(**r.spec)
        if spec.seed == 0 and spec.protocol == "fair" and spec.arm != "frozen" and run.weights_path(spec).exists():
            wanted.setdefault(spec.arm, spec)
    if not wanted:
        return {}
    state = tuple((spec.key, run.weights_path(spec).stat().st_mtime_ns) for spec in wanted.values())
    if _loaded.get("state") != state:  # other runs, or the same ones trained anew: what was loaded before is let go
        _loaded.clear()
        one = next(iter(wanted.values()))
        base = bases.locate(one.base)
        _loaded.update(state=state, tokenizer=bases.tokenizer(base), models={"base": bases.model(base).eval()} | {
            arm: trained(spec) for arm, spec in wanted.items()})
    return _loaded["models"]


def respond(records, prompt: str, temperature: float, length: int = 40, seed: int = 0) -> dict[str, str]:
    """What each model writes behind the prompt. Raises UsageError on an empty prompt."""
    from seqlib.studies.gpt2 import run

    if not prompt.strip():
        raise UsageError("the prompt is empty; type some words")
    with torch.random.fork_rng(devices=[]):
        return {name: run.write(model, _loaded["tokenizer"], prompt, seed, temperature, length)
                for name, model in models(records).items()}


def prompt_cell(records, prompt: str = "ROMEO:\nWhat shall I do?", temperature: float = 0.8) -> None:
    """Texts for one prompt; in JupyterLab a box for the prompt and a slider for the temperature."""
    import ipywidgets as widgets

    written = respond(records, prompt, temperature) if records else {}
    if not written:
        show.say("No weights of a live run are in scratch; empty it and run all cells again to train some.")
        return
    show.say(f"Written behind {prompt!r} at temperature {temperature}:")
    display(HTML(show.texts(written)))
    controls = {"prompt": widgets.Textarea(prompt, description="prompt", continuous_update=False),
                "temperature": widgets.FloatSlider(temperature, min=0, max=2, step=0.1, description="temperature",
                                                   continuous_update=False)}
    show.interactive(controls, lambda prompt, temperature: show.texts(respond(records, prompt, temperature)))
