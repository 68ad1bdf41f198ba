"""{costs}: what the archive of each study has taken, a row a study, from its records."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from seqlib import study
from seqlib.store import Store

HEAD = ("Study", "runs", "core hours", "longest run, minutes", "memory of a run, GiB",
        "records, MiB")


PAGE = "book/operate"


def setup(app):
    app.add_directive("costs", Costs)
    app.connect("env-get-outdated", page_to_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def page_to_read(app, env, *changes):
    """The page, where records came or went since it was read."""
    folders = [Store.archive().root / name for name in study.names()]
    before = getattr(env, "costs", None)
    env.costs = [folder.stat().st_mtime_ns for folder in folders if folder.exists()]
    return [] if before == env.costs or PAGE not in env.found_docs else [PAGE]


def row(name, store):
    """Title, number of runs, core hours, minutes, GiB and MiB of a study's records.

    Core hours are time by the clock times threads; seeds that train as one share both."""
    hours, longest, memory, size, runs = 0.0, 0.0, 0.0, 0, 0
    for record in store.records(name):
        source = record.provenance
        wall = source.get("wall_seconds", 0)
        runs += 1
        hours += wall * source["threads"] / source.get("seeds_at_once", 1) / 3600
        longest = max(longest, wall / 60)
        peaks = [value for metric, value in record.metrics.items()
                 if "peak" in metric and metric.endswith("_mb")]
        memory = max(memory, *(peak / 1024 for peak in peaks), 0)
        size += store.path(name, record.key).stat().st_size / 2**20
    return name, runs, hours, longest, memory, size


def table(store):
    """The rows of all studies that have records, as Markdown."""
    rows = [row(name, store) for name in study.names()]
    lines = [f"| {' | '.join(HEAD)} |", "|---" + "|---:" * 5 + "|"]
    lines += [f"| {name} | {runs:,} | {hours:.1f} | {longest:.0f} | {memory:.1f} | {size:.1f} |"
              for name, runs, hours, longest, memory, size in rows if runs]
    return lines if len(lines) > 2 else ["*There are no records here.*"]


class Costs(SphinxDirective):
    def run(self):
        lines = StringList(table(Store.archive()), "costs")
        whole = nodes.container()
        self.state.nested_parse(lines, self.content_offset, whole)
        return whole.children
