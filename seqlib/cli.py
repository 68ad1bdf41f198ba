"""The command `seqlib`. Exit codes: 0 done, 1 a run failed, 2 bad usage, 130 interrupted."""

import json
import logging
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from reprlib import repr as short

import click

from seqlib import __version__
from seqlib.errors import SeqlibError, UsageError, first_line, nearest
from seqlib.processes import signals_unwind


def parse_names(context, option, text: str | None) -> list[str] | None:
    """`lstm,rope` as its names."""
    names = None if text is None else [name.strip() for name in text.split(",") if name.strip()]
    if names == []:
        raise click.BadParameter("wants names, separated by commas")
    return names


ARMS = click.option("--arms", callback=parse_names, help="Only these arms, separated by commas.")
DEVICE = click.option(
    "--device", callback=lambda context, option, text: [f"device={text}"] if text else [],
    help="Where to train: auto, cpu, cuda, cuda:1, mps. Short for --set device=...; default: "
         "SEQLIB_DEVICE, or cpu.")
WORKERS = click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 256),
                       help="Processes at once; they share the cores.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def show(rows: list[dict], as_json: bool) -> None:
    """Print rows as JSON or as an aligned table."""
    if as_json:
        click.echo(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    import pandas as pd

    frame = pd.DataFrame(rows)
    click.echo(frame.to_string(index=False, max_colwidth=60) if rows else "nothing yet")


@click.group()
@click.version_option(__version__)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool):
    """Sequence-model comparisons with paired seeds and computed verdicts."""


@cli.command(epilog="Example: seqlib run airline --set seeds=5")
@click.argument("studies", nargs=-1)
@click.option("--profile", default="quick", show_default=True, metavar="quick|smoke",
              help="quick: the notebook's parameters; smoke: seconds, to see that everything runs.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE",
              help="Override a parameter; may be repeated.")
@click.option("--output", type=click.Path(file_okay=False),
              help="A folder for the executed notebooks, instead of the book.")
@WORKERS
@DEVICE
@click.option("--timeout", default=7200, show_default=True, type=click.IntRange(1, 10**6),
              help="Seconds a notebook may take.")
@click.option("--why", is_flag=True, help="Say what has changed since each page was made; execute "
                                          "nothing.")
@click.option("--force", is_flag=True, help="Make pages that are up to date, too.")
def run(studies, profile, settings, output, workers, device, timeout, why, force):
    """Execute the notebooks of STUDIES (default: all) into the book.

    Pages whose inputs are unchanged are kept."""
    from seqlib import pages

    planned = pages.plan(list(dict.fromkeys(studies)), profile, [*settings, *device], output)
    if why:
        for page in pages.with_others(planned):
            reasons = page.why()
            click.echo("\n  ".join([f"{page.name}: {'would be made' if reasons else 'up to date'}",
                                    *reasons]))
        return
    done = {page.name for page in pages.run(planned, workers, timeout, force=force)}
    for page in planned:
        click.echo(f"{'executed' if page.name in done else 'up to date'}: {page.output}")


def parse_seeds(text: str) -> list[int]:
    """`0-29`, `3` or `0,2,5-7` as a sorted list. Raises UsageError on anything else."""
    from seqlib.plan import seed_range

    parts = [seed_range(part) for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"--seeds {text!r}: wants numbers or ranges below 10000, "
                         "such as 0-29 or 0,2,5-7")
    return sorted({seed for part in parts for seed in part})


def parse_shard(context, option, text: str | None) -> tuple[int, int] | None:
    """`2/8` as its numbers."""
    if text is None:
        return None
    found = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    if not (found and 1 <= int(found[1]) <= int(found[2])):
        raise click.BadParameter(f"{short(text)}: wants I/N, such as 2/8, with I from 1 to N")
    return int(found[1]), int(found[2])


def parse_settings(texts: Sequence[str]) -> dict[str, list]:
    """`lr=1e-3,1e-4` as field and values in YAML. Raises UsageError on anything else."""
    from seqlib import yamls

    found: dict[str, list] = {}
    for text in texts:
        field, _, values = (part.strip() for part in text.partition("="))
        if not field or not values:
            raise UsageError(f"--set wants NAME=V1,V2, such as lr=1e-3,1e-4, got {text!r}")
        if field in ("arm", "arms", "seed", "seeds"):
            raise UsageError(f"--set {field}: use --{field.removesuffix('s')}s")
        if field in found:
            raise UsageError(f"--set {field} stands twice; write {field}=V1,V2")
        found[field] = yamls.parse(f"[{values}\n]", f"--set {field}")  # a comment ends first
    return found


@cli.command(epilog="Example: seqlib sweep airline published --arms lstm,rope --seeds 0-9")
@click.argument("name", metavar="STUDY")
@click.argument("experiments", nargs=-1)
@click.option("--profile", type=click.Choice(["smoke", "quick", "full"]),
              help="Short for an experiment: smoke, live, the archive.")
@ARMS
@click.option("--seeds", help="Only these seeds, such as 0-29; seeds beyond the plan's are trained "
                              "into the scratch store.")
@click.option("--set", "settings", multiple=True, metavar="NAME=V1,V2",
              help="Set a field otherwise, each value in turn.")
@WORKERS
@DEVICE
@click.option("--redo-older", is_flag=True,
              help="Train again what other code recorded, and replace it.")
@click.option("--shard", callback=parse_shard, metavar="I/N",
              help="Only the I-th of N parts, which are chosen by key: each run is in one of them.")
@click.option("--scheduler", metavar="ADDRESS",
              help="Train on the workers of this Dask cluster, such as tcp://HOST:8786.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first run that fails.")
def sweep(name, experiments, profile, arms, seeds, settings, workers, device, redo_older, shard,
          scheduler, fail_fast):
    """Train the runs of a study's EXPERIMENTS (see plan.yaml; default: the whole archive), without
    a notebook.

    Runs that the plan names go to results/, all others to .runs/. Runs that fail are listed at the
    end, with exit code 1, when all others are done."""
    from seqlib import plan
    from seqlib.processes import show_log
    from seqlib.store import Store
    from seqlib.sweep import RunsFailed
    from seqlib.sweep import sweep as run_sweep

    show_log()
    if profile and experiments:
        raise UsageError("--profile names experiments, and so does EXPERIMENTS; leave one out")
    if not experiments:
        experiments = {"smoke": ["smoke"], "quick": ["live"]}.get(profile, plan.of_archive(name))
    changes = parse_settings([*settings, *device])
    what = f"{name} {' '.join(experiments)}"

    def runs(changes: dict) -> list:
        found = [spec for one in experiments for spec in plan.overridden(name, one, changes, arms)]
        return list({spec.key: spec for spec in found}.values())

    available = [spec.arm for one in experiments for spec in plan.specs(name, one)]
    for arm in arms or ():
        if arm not in available:
            raise nearest(f"arm of {what}", arm, dict.fromkeys(available))
    specs = runs(changes)
    if seeds is not None:
        numbers = parse_seeds(seeds)
        if not {spec.seed for spec in specs}.issuperset(numbers):
            specs = runs({**changes, "seed": numbers})
        specs = [spec for spec in specs if spec.seed in numbers]
    if not specs:
        raise UsageError(f"{what}: no run has such arms and seeds (what draws nothing at random "
                         "has seed 0 alone)")
    if shard:
        number, of = shard
        specs = [spec for spec in specs if int(spec.key, 16) % of == number - 1]
        click.echo(f"{len(specs)} runs in shard {number} of {of}")
    planned = plan.recorded(name)
    failures, client = [], None
    if scheduler:
        from distributed import Client

        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # we tell in one line
        try:
            client = click.get_current_context().with_resource(Client(scheduler))
        except ValueError as error:
            raise UsageError(f"--scheduler {scheduler}: {first_line(error)}") from error
    archive = [spec for spec in specs if spec.key in planned]
    others = [spec for spec in specs if spec.key not in planned]
    for part, store, redo in (archive, Store.archive(), redo_older), (others, Store.live(), True):
        trained: list = []
        if part:
            try:
                run_sweep(part, store, workers=workers, trained=trained, redo_older=redo,
                          fail_fast=fail_fast, client=client)
            except RunsFailed as error:
                if fail_fast:
                    raise
                failures += error.failures
            click.echo(f"{sum(store.path(name, spec.key).exists() for spec in part)} records of "
                       f"{name} in {store.root / name}, {len(trained)} of them new")
    if failures:
        raise RunsFailed(failures)


@cli.command(epilog="Example: seqlib merge shard-1/results shard-2/results")
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...",
                type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--into", type=click.Path(file_okay=False, path_type=Path),
              help="A folder of records, instead of the archive.")
@JSON
def merge(folders, into, as_json):
    """Copy the records below each FOLDER into the archive: what shards and other machines made.

    Nothing that is recorded there is replaced. Records that differ from it and such as cannot be
    trusted are named, with exit code 1."""
    from seqlib import merge as merging
    from seqlib.store import Store

    rows = merging.merge(folders, Store(into) if into else None)
    if as_json:
        show(rows, True)
    else:
        for row in rows:
            if "why" in row:
                click.echo(f"{row['outcome']}: {row['path']} {row['why']}")
        counts = Counter(row["outcome"] for row in rows)
        click.echo(", ".join(f"{counts[name]} {name}" for name in merging.OUTCOMES))
    if any("why" in row for row in rows):
        sys.exit(1)


@cli.command(epilog="Example: seqlib verify airline --arms lstm --sample 2")
@click.argument("names", metavar="STUDY...", nargs=-1)
@click.option("--all-studies", is_flag=True, help="Every study, instead of STUDY.")
@ARMS
@click.option("--sample", default=1, show_default=True, type=click.IntRange(1, 1000),
              help="Archived runs of every arm.")
@click.option("--accept", is_flag=True,
              help="Compare with the code of --against, and let its records count as current.")
@click.option("--experiment", help="The runs of this experiment instead of a sample; with --accept "
                                   "also one that is not archived, such as check.")
@click.option("--against", metavar="COMMIT", help="Train them with the code of this commit too; "
                                                   "with --accept by default HEAD.")
@JSON
def verify(names, all_studies, arms, sample, experiment, accept, against, as_json):
    """Train archived runs again with today's code, and show every figure that differs. On another
    kind of processor last bits differ: --against tells that from a change of code.

    With --accept the code of an older commit and today's train the same runs here; where all agree
    to the bit, records of the older code count as current, with this evidence in
    results/STUDY/accepted.json."""
    from seqlib import plan, provenance, study
    from seqlib import verify as checks

    if "" in (experiment, against):
        raise UsageError("--experiment and --against want a name")
    if bool(names) == all_studies:
        raise UsageError("verify wants a STUDY, or --all-studies")
    if all_studies and (arms or experiment):
        raise UsageError("--arms and --experiment belong to one study; name it")
    commit = checks.commit_of(against or "HEAD") if accept or against else ""
    rows = []
    for name in study.names() if all_studies else dict.fromkeys(names):
        if experiment and not accept and experiment not in plan.of_archive(name):
            raise UsageError(f"--experiment {experiment}: {name} has no archived runs of that name "
                             "to compare with; with --accept any experiment goes")
        specs = checks.sample(name, arms, sample, experiment)
        if accept:
            found = checks.compare_code(name, specs, commit)
            counted = checks.accept(name, found, commit, provenance.machine())
            click.echo(f"accepted: {counted['runs']} runs of {counted['arms']} arms agree to the "
                       "bit", err=True)
        else:
            found = checks.check(name, specs, commit)
            path = checks.keep(name, found, provenance.machine(), provenance.threads())
            click.echo(f"kept for the claims page: {path}", err=True)
        rows += [{"study": name, **row} for row in found]
    show(rows, as_json)
    if any(row["outcome"] == "off" for row in rows):
        sys.exit(1)


@cli.command(epilog="Example: seqlib new copying")
@click.argument("name", metavar="NAME")
def new(name):
    """Write a new study: seqlib/studies/NAME with its plan and claims, and notebooks/NAME.ipynb,
    which runs at once."""
    from seqlib import template

    for path in template.write(name):
        click.echo(f"wrote {path}")
    click.echo(f"add `- file: book/studies/{name}` to _toc.yml, then: seqlib sweep {name} && "
               f"seqlib run {name}")


@cli.command("claims", epilog="Example: seqlib claims --study airline --json")
@click.option("--study", "name", help="Only this study.")
@JSON
def show_claims(name, as_json):
    """The verdict on every claim, computed from the archive."""
    from seqlib import ledger

    rows = ledger.kept_rows(None if name is None else [name])
    if not as_json:
        rows = [{"id": row["id"], "verdict": row["verdict"], "seeds": row["seeds"],
                 "p (Holm)": row["p_holm"], "claim": row["says"][:90], "why": row["reason"][:80]}
                for row in rows]
    show(rows, as_json)


@cli.command(epilog="Example: seqlib export airline --output results-of-mine")
@click.argument("studies", nargs=-1)
@click.option("--output", default="reports", show_default=True, help="Folder of the files.",
              type=click.Path(file_okay=False))
def export(studies, output):
    """Write the results of STUDIES (default: all) as CSV and JSON: NAME-runs has a row an archived
    run of an experiment, with settings and metrics, NAME-claims a row a claim with its verdict."""
    from seqlib import api, study
    from seqlib.store import write_atomically

    for name in studies or study.names():
        for what, frame in (("runs", api.load(name, "all")), ("claims", api.verdicts(name))):
            path = Path(output, f"{name}-{what}.json")
            rows = frame.astype(object).where(frame.notna(), None)
            text = json.dumps(rows.to_dict("records"), indent=1, ensure_ascii=False)
            write_atomically(path, text.encode())
            rows = rows.map(lambda x: json.dumps(x) if isinstance(x, (dict, list)) else x)
            write_atomically(path.with_suffix(".csv"), rows.to_csv(index=False).encode())
            click.echo(f"wrote {path} and {path.stem}.csv: {len(frame)} rows")


@cli.command(epilog="Example: seqlib params airline --json")
@click.argument("name", metavar="STUDY")
@JSON
def params(name, as_json):
    """Trainable and total parameters of every arm of STUDY."""
    from seqlib import study

    counts = study.get(name).parameters()
    if as_json:
        click.echo(json.dumps(counts, indent=1))
    else:
        show([{"arm": arm, **count} for arm, count in counts.items()], False)


@cli.command(epilog="Example: seqlib bench airline --json")
@click.argument("name", required=False)
@JSON
def bench(name, as_json):
    """Time ours against a reference implementation, alternating.

    ratio = reference seconds / our seconds."""
    from seqlib.bench import run_benches

    show(run_benches(name), as_json)


@cli.command(epilog="Example: seqlib data airline")
@click.argument("name", required=False)
@JSON
def data(name, as_json):
    """Where each data set was found, and its sha256. One that is named is fetched if absent."""
    from seqlib.data import rows

    show(rows(name), as_json)


@cli.command(epilog="Example: seqlib status")
@JSON
def status(as_json):
    """Records in the archive and in scratch, by study: how many the plan's archive lacks, how many
    runs of experiments underway are left, which are of older code, which no plan names, and how
    many runs failed when they were last tried.

    Below are what runs now and where, what failed and its log, and how long what is left will take:
    as runs with the same settings and other seeds have."""
    from seqlib import status as states

    rows = states.rows()
    show(rows if as_json else [{name: value for name, value in row.items()
                                if name not in states.LISTS} for row in rows], as_json)
    if not as_json and (lists := states.text(rows)):
        click.echo(f"\n{lists}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point: every expected failure is one clear message; `--debug` adds the traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    warnings.formatwarning = lambda message, *_: f"seqlib: {message}\n"
    try:
        arguments = [argument for argument in arguments if argument != "--debug"]
        with signals_unwind():
            cli.main(args=arguments, prog_name="seqlib", standalone_mode=False)
    except (click.ClickException, SeqlibError, OSError) as error:
        if debug:
            traceback.print_exc()
        text = error.format_message() if isinstance(error, click.ClickException) else str(error)
        usage = isinstance(error, (click.ClickException, UsageError))
        if usage:  # what was typed may have several lines, and the message has one
            text = "\\n".join(text.splitlines())
        click.echo(f"seqlib: {text}", err=True)
        sys.exit(2 if usage else 1)
    except (KeyboardInterrupt, click.Abort):
        if debug:
            traceback.print_exc()
        click.echo("seqlib: interrupted; finished records are kept, run the same command again to "
                   "resume", err=True)
        sys.exit(130)
