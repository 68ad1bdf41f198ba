"""Fine-tune one base on one text: `accelerate launch -m seqlib.studies.gpt2 --base ... --arm ...`, on one machine or several.

The same loop as the study's; every process takes its share of each batch, the first writes the weights.
"""

import json
import sys
from pathlib import Path

import click
import torch
from accelerate import Accelerator
from pydantic import ValidationError

from seqlib.errors import SeqlibError, UsageError, first_problem
from seqlib.studies.gpt2 import run
from seqlib.studies.gpt2.specs import ARMS, FILE, LORA, SHAKESPEARE, TuneSpec


@click.command()
@click.option("--base", required=True, help="gpt2, smollm2-135m, a folder with a saved model, or a name on the hub.")
@click.option("--arm", type=click.Choice(ARMS[:-1]), default="lora", show_default=True)
@click.option("--book", "book_path", default="", help="A UTF-8 text file; without it, Shakespeare's plays.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder for the adapter or the model.")
@click.option("--steps", default=60, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Windows a step, of all processes together.")
@click.option("--context", default=128, show_default=True)
@click.option("--lr", default=3e-4, show_default=True)
@click.option("--rank", "r", default=8, show_default=True)
@click.option("--alpha", default=16.0, show_default=True)
@click.option("--dropout", default=0.05, show_default=True)
@click.option("--target", "targets", multiple=True, help="A layer to adapt; may be repeated.")
@click.option("--seed", default=0, show_default=True)
def tune(out: Path, book_path: str, arm: str, r: int, alpha: float, dropout: float, targets: tuple[str, ...], **settings):
    """Fine-tune, then write the weights and their losses to OUT."""
    adapter = {"r": r, "alpha": alpha, "dropout": dropout, "targets": targets} if arm in LORA else {}
    try:
        spec = TuneSpec(arm=arm, text=FILE if book_path else SHAKESPEARE, book_path=book_path, stage="grid", **adapter,
                        **settings)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from None
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # several processes on processors alone have to be told
    base = run.bases.locate(spec.base)
    state, _, _ = run.tuned(spec, base, run.texts_of(spec, base), accelerator)
    if accelerator.is_main_process:
        state.scored.model.save_pretrained(out, safe_serialization=True)
        told = {"base": base.name, "sha256": base.sha256, "processes": accelerator.num_processes,
                "train_loss": state.train_loss, "val_steps": state.val_steps, "val_loss": state.val_loss}
        (out / run.ABOUT).write_text(json.dumps(told, indent=1))
        click.echo(f"{spec.arm}: validation loss {state.val_loss[-1]:.4f} nats after {state.step} steps; weights in {out}")
    accelerator.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        tune(standalone_mode=False)
    except (click.ClickException, SeqlibError) as problem:
        click.echo(f"seqlib: {problem.format_message() if isinstance(problem, click.ClickException) else problem}", err=True)
        sys.exit(2)
