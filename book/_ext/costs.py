"""From the archive's records, a row a study. {costs}: what they have taken. {seeds}: what one more
seed of each arm takes. {provenance}: on which processors and with which versions they were made."""

from collections import Counter, defaultdict
from statistics import median

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from seqlib import index, plan, progress, study
from seqlib.store import Store

HEAD = ("Study", "runs", "core hours", "longest run, minutes", "memory of a run, GiB",
        "records, MiB")


MADE = ("Study", "records", "processors", "Python", "torch", "with uncommitted changes")
PAGE = "book/operate"


def setup(app):
    app.add_directive("costs", Costs)
    app.add_directive("seeds", Seeds)
    app.add_directive("provenance", Provenance)
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


def seeds(store):
    """Core seconds of a run by study, experiment and arm, as Markdown: the median over seeds, the
    lowest and highest of them where an experiment has an arm in several settings."""
    lines = ["| Study | experiment | core seconds of one more seed |", "|---|---|---|"]
    for name in study.names():
        planned, found = plan.archived(name), defaultdict(lambda: defaultdict(list))
        for record in index.heads(store, name, planned):
            if (took := progress.took(record)) is not None:
                run = record.spec["arm"], progress.settings(record.spec)
                for experiment in planned[record.key]:
                    found[experiment][run].append(took * record.provenance["threads"])
        for experiment in filter(found.get, plan.of_archive(name)):
            arms = defaultdict(list)
            for (arm, _), cost in found[experiment].items():
                arms[arm].append(median(cost))
            texts = (f"{arm} {' to '.join(dict.fromkeys(map(_figure, (min(c), max(c)))))}"
                     for arm, c in sorted(arms.items(), key=lambda one: min(one[1])))
            lines.append(f"| {name} | {experiment} | {', '.join(texts)} |")
    return lines if len(lines) > 2 else ["*There are no records here.*"]


def _figure(seconds):
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


def origins(store):
    """Where the records of all studies come from, as Markdown."""
    lines = [f"| {' | '.join(MADE)} |", "|---|---:|---|---|---|---:|"]
    for name in study.names():
        sources = [record.provenance for record in store.records(name)]
        counts = [Counter(source["machine"]["cpu"] for source in sources),
                  Counter(source["machine"]["python"] for source in sources),
                  Counter(source["versions"]["torch"] for source in sources)]
        cells = [", ".join(f"{what} ({n:,})" if len(count) > 1 else what
                           for what, n in count.most_common()) for count in counts]
        dirty = sum(bool(source["git"]["dirty"]) for source in sources)
        if sources:
            lines.append(f"| {name} | {len(sources):,} | {' | '.join(cells)} | {dirty:,} |")
    return lines if len(lines) > 2 else ["*There are no records here.*"]


class Costs(SphinxDirective):
    lines = staticmethod(table)

    def run(self):
        lines = StringList(self.lines(Store.archive()), self.name)
        whole = nodes.container()
        self.state.nested_parse(lines, self.content_offset, whole)
        return whole.children


class Seeds(Costs):
    lines = staticmethod(seeds)


class Provenance(Costs):
    lines = staticmethod(origins)
