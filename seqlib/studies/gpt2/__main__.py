"""Fine-tune one base on one text: `accelerate launch -m seqlib.studies.gpt2 --base ... --arm ...`, on one machine or several.

The same loop as the study's; every process takes its share of each batch, the first writes the weights.
"""

import json
import sys
from pathlib import Path

import click
import torch
from accelerate import Accelerator

from seqlib.errors import SeqlibError, UsageError
from seqlib.studies.gpt2 import bases, check, run, sensible
from seqlib.studies.gpt2.specs import ALPHA, ARMS, DROPOUT, FILE, LORA, RANK, SHAKESPEARE, TuneSpec


@click.command()
@click.option("--base", required=True, help="gpt2, smollm2-135m, a folder with a saved model, or a name on the hub.")
@click.option("--arm", type=click.Choice(ARMS[:-1]), default="lora", show_default=True)
@click.option("--book", "book_path", help="A UTF-8 text file; without it, Shakespeare's plays.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for adapter or model.")
@click.option("--steps", default=60, show_default=True)
@click.option("--batch", default=8, show_default=True, help="Windows a step, of all processes together.")
@click.option("--context", default=128, show_default=True)
@click.option("--lr", type=float, help="Learning rate; without it 3e-5 for full fine-tuning, 3e-4 for adapters.")
@click.option("--rank", "r", type=int, help="Of an adapter; without it 8.")
@click.option("--alpha", type=float, help="Of an adapter, whatever its rank; without it 16.")
@click.option("--dropout", type=float, help="Of an adapter; without it 0.05.")
@click.option("--target", "targets", multiple=True, help="A layer to adapt; may be repeated.")
@click.option("--seed", default=0, show_default=True)
def tune(out: Path, base: str, book_path: str | None, arm: str, lr: float | None, targets: tuple[str, ...], **settings):
    """Fine-tune, then write the weights and their losses to OUT."""
    given = {name: settings.pop(name) for name in ("r", "alpha", "dropout")}
    adapter = {name: value for name, value in given.items() if value is not None}
    if arm not in LORA and (adapter or targets):
        raise UsageError(f"--arm {arm} has no adapter; leave --rank, --alpha, --dropout and --target out")
    if arm == "lora-all" and targets:
        raise UsageError("--arm lora-all adapts all linear layers; leave --target out, or take --arm lora")
    if arm in LORA:
        adapter = {"r": RANK, "alpha": ALPHA, "dropout": DROPOUT, "targets": targets} | adapter
    with sensible(base, book_path or "", adapter.get("alpha", ALPHA)):
        spec = TuneSpec(arm=arm, base=base, text=SHAKESPEARE if book_path is None else FILE, book_path=book_path or "",
                        stage="grid", lr=lr if lr is not None else 3e-5 if arm == "full" else 3e-4, **adapter, **settings)
    check.inputs(spec)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {out} cannot be made ({error.strerror}); name a folder") from None
    accelerator = Accelerator(cpu=not torch.cuda.is_available(),  # several processes on processors alone have to be told
                              mixed_precision="no")  # the losses of all arms and machines are to be comparable
    found = bases.locate(spec.base)
    state, _, _ = run.tuned(spec, found, run.texts_of(spec, found), accelerator)
    if accelerator.is_main_process:
        state.scored.model.save_pretrained(out, safe_serialization=True)
        bases.tokenizer(found).save_pretrained(out)
        told = {"base": found.name, "sha256": found.sha256, "processes": accelerator.num_processes,
                "gradient_norm": state.gradient_norm, "train_loss": state.train_loss, "val_steps": state.val_steps,
                "val_loss": state.val_loss}
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
        sys.exit(2 if isinstance(problem, (click.ClickException, UsageError)) else 1)
    except click.Abort:
        sys.exit(130)
