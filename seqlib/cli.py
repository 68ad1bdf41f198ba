"""The command `seqlib`. Exit codes: 0 done, 1 a run failed, 2 bad usage, 130 interrupted."""

import json
import re
import sys
import traceback
import warnings

import click

from seqlib import __version__, study
from seqlib.errors import SeqlibError, UsageError, nearest

PROFILE = click.option("--profile", default="quick", show_default=True, metavar="|".join(study.PROFILES),
                       help="How much to run; see notebooks/profiles.")
WORKERS = click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256),
                       help="Processes at once; they share the cores.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def example(text: str):
    """Put an example at the end of a command's help."""
    def wrap(function):
        function.__doc__ = f"{function.__doc__}\n\n    \b\n    Example:\n      {text}\n    "
        return function
    return wrap


def show(rows: list[dict], as_json: bool) -> None:
    """Print rows as JSON or as an aligned table."""
    if as_json:
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    import pandas as pd

    with pd.option_context("display.width", 200, "display.max_colwidth", 60, "display.max_rows", None,
                           "display.max_columns", None):
        click.echo(pd.DataFrame(rows).to_string(index=False) if rows else "nothing yet")


@click.group()
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool):
    """Sequence-model comparisons with paired seeds and computed verdicts."""


@cli.command()
@click.argument("studies", nargs=-1)
@PROFILE
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a parameter; may be repeated.")
@WORKERS
@click.option("--timeout", default=7200.0, show_default=True, type=click.FloatRange(0, 10**6, min_open=True),
              help="Seconds a notebook may take.")
@example("seqlib run airline --profile quick --set seeds=5")
def run(studies, profile, settings, workers, timeout):
    """Execute the notebooks of STUDIES (default: all) into the book. Pages whose inputs are unchanged are kept."""
    from seqlib import pages

    planned = pages.plan(list(studies), profile, list(settings))
    done = {page.name for page in pages.run(planned, workers, timeout)}
    for page in [*planned, pages.Page(pages.LEDGER, {})]:
        click.echo(f"{'executed' if page.name in done else 'up to date'}: {page.output}")


def parse_seeds(text: str) -> list[int]:
    """`0-29`, `3` or `0,2,5-7` as a sorted list."""
    seeds = set()
    for part in text.split(","):
        found = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part.strip())
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if low > high:
            raise UsageError(f"--seeds {text!r}: wants numbers or ranges below 10000, such as 0-29 or 0,2,5-7")
        seeds |= set(range(low, high + 1))
    return sorted(seeds)


@cli.command()
@click.argument("name", metavar="STUDY")
@PROFILE
@click.option("--arms", help="Only these arms, separated by commas.")
@click.option("--seeds", help="Only these seeds, such as 0-29.")
@WORKERS
@click.option("--redo-older", is_flag=True, help="Train again what other code recorded, and replace it.")
@example("seqlib sweep airline --profile full --arms lstm,rope --seeds 0-9")
def sweep(name, profile, arms, seeds, workers, redo_older):
    """Fill the store with a study's runs, without a notebook. `full` fills results/, the others .runs/."""
    from seqlib.store import Store
    from seqlib.sweep import show_log
    from seqlib.sweep import sweep as run_sweep

    show_log()
    chosen = study.get(name)
    numbers = parse_seeds(seeds) if seeds is not None else []
    specs = chosen.specs(chosen.parameters(profile))
    if not {spec.seed for spec in specs}.issuperset(numbers):
        specs = chosen.specs(chosen.parameters(profile, seeds=max(numbers) + 1))
    if arms is not None:
        wanted = arms.split(",")
        available = list(dict.fromkeys(spec.arm for spec in specs))
        for arm in wanted:
            if arm not in available:
                raise nearest(f"arm in profile {profile}:", arm, available)
        specs = [spec for spec in specs if spec.arm in wanted]
    if seeds is not None:
        specs = [spec for spec in specs if spec.seed in numbers]
        if not specs:
            raise UsageError(f"--seeds {seeds}: the chosen arms have no such seed (a classical forecast has seed 0 alone)")
    store, trained = Store.of_profile(profile), []
    redo_older = redo_older or profile != "full"  # live runs show what this code does
    records = run_sweep(specs, store, workers=workers, trained=trained, redo_older=redo_older)
    click.echo(f"{len(records)} records of {name} in {store.root / name}, {len(trained)} of them new")


@cli.command("claims")
@click.option("--study", "name", help="Only this study.")
@JSON
@example("seqlib claims --study airline --json")
def show_claims(name, as_json):
    """The verdict on every claim, computed from the archive."""
    from seqlib import claims, ledger

    rows = ledger.as_rows(claims.ledger([name] if name else None))
    if not as_json:
        rows = [{"id": r["id"], "verdict": r["verdict"], "seeds": r["seeds"], "p (Holm)": r["p_holm"],
                 "claim": r["says"][:90], "why": r["reason"][:80]} for r in rows]
    show(rows, as_json)


@cli.command()
@click.argument("name", metavar="STUDY")
@JSON
@example("seqlib params airline --json")
def params(name, as_json):
    """Trainable and total parameters of every arm of STUDY."""
    counts = {arm: count() for arm, count in study.get(name).arms.items()}
    if as_json:
        click.echo(json.dumps(counts, indent=1))
    else:
        show([{"arm": arm, **count} for arm, count in counts.items()], False)


@cli.command()
@click.argument("name", required=False)
@JSON
@example("seqlib bench airline --json")
def bench(name, as_json):
    """Time ours against a reference implementation, alternating; ratio = reference seconds / our seconds."""
    from seqlib.bench import run_benches

    show(run_benches(name), as_json)


@cli.command()
@click.argument("name", required=False)
@JSON
@example("seqlib data airline")
def data(name, as_json):
    """Where each data set was found, and its sha256. One that is named is fetched if absent."""
    from seqlib.data import rows

    show(rows(name), as_json)


@cli.command()
@JSON
@example("seqlib status")
def status(as_json):
    """Records in the archive and in scratch, by study; how many the archive lacks, and which are of older code."""
    from seqlib.store import Store

    rows = []
    for name in study.NAMES:
        s = study.get(name)
        planned = s.planned()
        for label, store in (("archive", Store.archive()), ("live", Store.live())):
            records = list(store.records(name))
            rows.append({"study": name, "store": label, "records": len(records),
                         "missing": len(planned - {r.key for r in records}) if label == "archive" else "",
                         "older_code": sum(not s.current(r) for r in records),
                         "damaged": len(list((store.root / name).glob("*.damaged"))), "path": str(store.root / name)})
    show(rows, as_json)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every expected failure is one clear message; `--debug` adds the traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    warnings.formatwarning = lambda message, *_: f"seqlib: {message}\n"
    try:
        cli.main(args=[a for a in arguments if a != "--debug"], prog_name="seqlib", standalone_mode=False)
    except (click.ClickException, SeqlibError, OSError) as error:
        if debug:
            traceback.print_exc()
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        click.echo(f"seqlib: {text}", err=True)
        sys.exit(2 if isinstance(error, (click.ClickException, UsageError)) else 1)
    except (KeyboardInterrupt, click.Abort):
        if debug:
            traceback.print_exc()
        click.echo("seqlib: interrupted; finished records are kept, run the same command again to resume", err=True)
        sys.exit(130)
