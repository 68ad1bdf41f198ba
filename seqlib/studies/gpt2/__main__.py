"""Fine-tune one base on one text: `accelerate launch -m seqlib.studies.gpt2 --base ... --arm ...`,
on one machine or several.

The same loop as the study's; every process takes its share of each batch, the first writes the
weights.
"""

import sys
from pathlib import Path

import click
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from seqlib.errors import SeqlibError, UsageError, first_problem
from seqlib.studies.gpt2 import bases, books, tune
from seqlib.studies.gpt2.arms import ARMS
from seqlib.studies.gpt2.specs import ALPHA, FILE, SHAKESPEARE, TuneSpec

TRAINED = [name for name, arm in ARMS.items() if arm.trains]


@click.command()
@click.option("--base", required=True,
              help="gpt2, smollm2-135m, a folder with a saved model, or a name on the hub.")
@click.option("--arm", type=click.Choice(TRAINED), default="lora", show_default=True)
@click.option("--book", "book_path", help="A UTF-8 text file; without it, Shakespeare's plays.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="Folder for adapter or model.")
@click.option("--steps", default=60, show_default=True)
@click.option("--batch", default=8, show_default=True,
              help="Windows a step, of all processes together.")
@click.option("--context", default=128, show_default=True)
@click.option("--lr", type=float,
              help="Learning rate; without it 3e-5 for full fine-tuning, 3e-4 for adapters.")
@click.option("--rank", "r", type=int, help="Of an adapter; without it 8.")
@click.option("--alpha", type=float, help="Of an adapter, whatever its rank; without it 16.")
@click.option("--dropout", type=float, help="Of an adapter; without it 0.05.")
@click.option("--target", "targets", multiple=True, help="A layer to adapt; may be repeated.")
@click.option("--seed", default=0, show_default=True)
def main(out: Path, arm: str, book_path: str | None, lr: float | None, **settings):
    """Fine-tune, then write the weights and their losses to OUT."""
    own = {name: value for name, value in settings.items() if value not in (None, ())}
    if ARMS[arm].adapter is not None:
        own = {"alpha": ALPHA} | own
    elif own.keys() & {"r", "alpha", "dropout", "targets"}:
        raise UsageError(f"--arm {arm} has no adapter; leave --rank, --alpha, --dropout and "
                         "--target out")
    own["lr"] = lr if lr is not None else 3e-5 if ARMS[arm].whole else 3e-4
    own |= {"text": SHAKESPEARE} if book_path is None else {"text": FILE, "book_path": book_path}
    try:
        spec = TuneSpec(arm=arm, stage="grid", **own)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    bases.check(spec)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made ({error.strerror}); name a folder") from None
    accelerator = Accelerator(
        cpu=not torch.cuda.is_available(),  # without it several processes look for a GPU each
        mixed_precision="no")  # the losses of all arms and machines are to be comparable
    base = bases.locate(spec.base)
    texts, state = books.texts_of(spec, base), tune.start(spec, base, accelerator)
    tune.train_on(texts, state, spec, accelerator=accelerator)
    if accelerator.is_main_process:
        tune.save(state.scored.model, base, out, processes=accelerator.num_processes,
                  gradient_norm=state.gradient_norm, train_loss=state.curves["train_loss"],
                  **{name: state.curves[name] for name in ("val_steps", "val_loss")})
        bases.tokenizer(base).save_pretrained(out)
        click.echo(f"{spec.arm}: validation loss {state.curves['val_loss'][-1]:.4f} nats after "
                   f"{state.step} steps; weights in {out}")
    accelerator.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except (click.ClickException, SeqlibError, FloatingPointError) as problem:
        shown = problem.format_message() if isinstance(problem, click.ClickException) else problem
        click.echo(f"seqlib: {shown}", err=True)
        sys.exit(2 if isinstance(problem, (click.ClickException, UsageError)) else 1)
    except click.Abort:
        sys.exit(130)
