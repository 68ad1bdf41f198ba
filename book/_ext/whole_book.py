"""What the book adds to Sphinx: every page follows the table of contents, loads MathJax only where
it has mathematics, and links to the repository's files."""

import hashlib
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx import addnodes
from sphinx.util.docutils import SphinxRole


def setup(app):
    app.add_config_value("whole_book_toc", "", "env")  # pages are read again where it differs
    app.connect("config-inited", read_toc)
    app.connect("env-get-updated", pages_to_write)
    app.connect("html-page-context", drop_mathjax, priority=900)  # behind those that add it
    app.add_role("repo", InRepository())
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def read_toc(app, config):
    """Sphinx knows where the table of contents is, and not when a line of it has changed."""
    config.whole_book_toc = Path(app.srcdir, config.external_toc_path).read_text()


def pages_to_write(app, env):
    """All pages where something changed that each shows: a title in the sidebar, or a style. Sphinx
    itself writes only pages whose own text has changed."""
    found = hashlib.sha256()
    for folder in app.config.html_static_path:
        for path in sorted(Path(app.srcdir, folder).rglob("*")):
            found.update(path.read_bytes() if path.is_file() else b"")
    for name in sorted(env.titles):
        found.update(f"{name} {env.titles[name].astext()}\n".encode())
    before = getattr(env, "whole_book", None)
    env.whole_book = found.hexdigest()
    return [] if before == env.whole_book else sorted(env.found_docs)


def drop_mathjax(app, pagename, templatename, context, doctree):
    """Sphinx counts the equations of all pages for the first one, and loads MathJax there."""
    if app.env.get_domain("math").data["has_equations"].get(pagename):
        return
    scripts = context["script_files"]
    scripts[:] = [script for script in scripts
                  if "mathjax" not in f"{script.filename} {script.attributes.get('body')}".lower()]


class InRepository(SphinxRole):
    """{repo}`words <path>` or {repo}`path`: a link to a file or folder of the repository.

    With an address under `repository` in _config.yml it leads there. Without one a file is copied
    into the site, and a folder is named and not linked."""

    def run(self):
        words, _, path = self.text.rstrip(">").partition(" <")
        named = nodes.inline("", words) if path else nodes.literal("", words)
        path = path or words
        options = self.config.html_theme_options
        if address := options.get("repository_url", "").rstrip("/"):
            inside = f"{address}/blob/{options.get('repository_branch') or 'HEAD'}/{quote(path)}"
            target = address if path == "." else inside
            return [nodes.reference("", "", named, refuri=target, internal=False)], []
        if Path(self.env.srcdir, path).is_dir():
            return [named], []
        where = {"reftarget": f"/{path}", "refdoc": self.env.docname}
        return [addnodes.download_reference("", "", named, **where)], []
