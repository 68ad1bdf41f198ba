"""The command `seqlib`. Exit codes: 0 done, 1 a run failed, 2 bad usage, 130 interrupted."""

import json
import math
import re
import sys
import traceback
import warnings

import click

from seqlib import __version__
from seqlib.errors import SeqlibError, UsageError, nearest

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
@click.option("--profile", default="quick", show_default=True, metavar="quick|smoke",
              help="quick: the notebook's parameters; smoke: seconds, to see that everything runs.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Override a parameter; may be repeated.")
@click.option("--output", type=click.Path(file_okay=False), help="A folder for the executed notebooks, instead of the book.")
@WORKERS
@click.option("--timeout", default=7200.0, show_default=True, type=click.FloatRange(0, 10**6, min_open=True),
              help="Seconds a notebook may take.")
@example("seqlib run airline --set seeds=5")
def run(studies, profile, settings, output, workers, timeout):
    """Execute the notebooks of STUDIES (default: all) into the book. Pages whose inputs are unchanged are kept."""
    from seqlib import pages

    if not math.isfinite(timeout):
        raise UsageError(f"--timeout is {timeout}; name a number of seconds")
    planned = pages.plan(list(dict.fromkeys(studies)), profile, list(settings), output)
    done = {page.name for page in pages.run(planned, workers, timeout)}
    for page in planned:
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
@click.argument("experiments", nargs=-1)
@click.option("--profile", type=click.Choice(["smoke", "quick", "full"]), help="Short for an experiment: smoke, live, the archive.")
@click.option("--arms", help="Only these arms, separated by commas.")
@click.option("--seeds", help="Only these seeds, such as 0-29; seeds beyond the plan's are trained into the scratch store.")
@click.option("--set", "settings", multiple=True, metavar="NAME=V1,V2", help="Set a field otherwise, each value in turn.")
@WORKERS
@click.option("--redo-older", is_flag=True, help="Train again what other code recorded, and replace it.")
@example("seqlib sweep airline published --arms lstm,rope --seeds 0-9")
def sweep(name, experiments, profile, arms, seeds, settings, workers, redo_older):
    """Train the runs of a study's EXPERIMENTS (see plan.yaml; default: the whole archive), without a notebook.

    Runs that the plan names go to results/, all others to .runs/."""
    from seqlib import plan, study
    from seqlib.store import Store
    from seqlib.processes import show_log
    from seqlib.sweep import sweep as run_sweep

    show_log()
    archived = plan.archived(name)
    every = [experiment for experiment in plan.experiments(name) if experiment not in plan.NOT_ARCHIVED]
    if profile and experiments:
        raise UsageError("--profile names experiments, and so does EXPERIMENTS; leave one out")
    experiments = list(experiments) or {"smoke": ["smoke"], "quick": ["live"]}.get(profile, every)
    changed = dict(parse_setting(text) for text in settings)
    specs = [spec for one in experiments for spec in plan.overridden(name, one, changed)]
    if seeds is not None:
        numbers = parse_seeds(seeds)
        if not {spec.seed for spec in specs}.issuperset(numbers):
            specs = [spec for one in experiments for spec in plan.overridden(name, one, {**changed, "seed": numbers})]
        specs = [spec for spec in specs if spec.seed in numbers]
    if arms is not None:
        wanted, available = arms.split(","), list(dict.fromkeys(spec.arm for spec in specs))
        for arm in wanted:
            if arm not in study.get(name).arms:
                raise nearest(f"arm of {name}", arm, available or study.get(name).arms)
        specs = [spec for spec in specs if spec.arm in wanted]
    specs = list({spec.key: spec for spec in specs}.values())
    if not specs:
        raise UsageError(f"{name} {' '.join(experiments)}: no run has such arms and seeds (what draws nothing at random "
                         "has seed 0 alone)")
    for store, redo, wanted in ((Store.archive(), redo_older, [s for s in specs if s.key in archived]),
                                (Store.live(), True, [s for s in specs if s.key not in archived])):
        trained: list = []
        if wanted:
            records = run_sweep(wanted, store, workers=workers, trained=trained, redo_older=redo)
            click.echo(f"{len(records)} records of {name} in {store.root / name}, {len(trained)} of them new")


def parse_setting(text: str) -> tuple[str, list]:
    """`lr=1e-3,1e-4` as the field and its values."""
    from seqlib import yamls

    field, equals, values = text.partition("=")
    if not equals or not field.strip():
        raise UsageError(f"--set wants NAME=V1,V2, got {text!r}; for example --set lr=1e-3,1e-4")
    if field.strip() in ("arm", "seed", "study"):
        raise UsageError(f"--set {field.strip()}: use --arms and --seeds")
    return field.strip(), [yamls.parse(value, f"--set {field.strip()}") for value in values.split(",")]


@cli.command()
@click.argument("name", metavar="STUDY")
@click.option("--arms", help="Only these arms, separated by commas.")
@click.option("--sample", default=1, show_default=True, type=click.IntRange(1, 1000), help="Archived runs of every arm.")
@click.option("--experiment", help="Runs of this experiment, such as check, instead of archived ones (with --accept).")
@click.option("--accept", is_flag=True, help="Compare with the code of --against, and let its records count as current.")
@click.option("--against", default="HEAD", show_default=True, metavar="COMMIT", help="The older code, for --accept.")
@JSON
@example("seqlib verify airline --arms lstm --sample 2")
def verify(name, arms, sample, experiment, accept, against, as_json):
    """Train archived runs again with today's code, and show every figure that differs.

    With --accept the code of an older commit and today's train the same runs here; where all agree to the bit, records of
    the older code count as current, with this evidence in results/STUDY/accepted.json."""
    from seqlib import plan, provenance
    from seqlib import verify as checks

    wanted = arms.split(",") if arms else None
    if not accept:
        rows = checks.check(name, checks.sample(name, wanted, sample))
        checks.keep(name, rows, provenance.machine())
    else:
        commit = checks.commit_of(against)
        specs = plan.specs(name, experiment) if experiment else checks.sample(name, wanted, sample)
        specs = [spec for spec in specs if wanted is None or spec.arm in wanted]
        rows = checks.compare_code(name, specs, commit)
        counted = checks.accept(name, rows, commit, provenance.machine())
        click.echo(f"accepted: {counted['runs']} runs of {counted['arms']} arms agree to the bit", err=True)
    show(rows, as_json)
    if any(row["outcome"] == "off" for row in rows):
        sys.exit(1)


@cli.command()
@click.argument("name", metavar="NAME")
@example("seqlib new copying")
def new(name):
    """Write a new study: seqlib/studies/NAME with its plan and claims, and notebooks/NAME.ipynb, which runs at once."""
    from seqlib import template

    for path in template.write(name):
        click.echo(f"wrote {path}")
    click.echo("add `- file: book/studies/" + name + "` to _toc.yml, then: seqlib run " + name)


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
    from seqlib import study

    counts = study.get(name).parameters()
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
    """Records in the archive and in scratch, by study: how many the plan's archive lacks, which are of older code, and which
    no plan names."""
    from seqlib import plan, study
    from seqlib.store import Store

    rows = []
    for name in study.names():
        kind, planned = study.get(name), plan.archived(name)
        for label, store in (("archive", Store.archive()), ("live", Store.live())):
            records = list(store.records(name))
            archive = label == "archive"
            rows.append({"study": name, "store": label, "records": len(records),
                         "missing": len(planned.keys() - {r.key for r in records}) if archive else "",
                         "unplanned": sum(r.key not in planned for r in records) if archive else "",
                         "older_code": sum(not kind.current(r) for r in records),
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
