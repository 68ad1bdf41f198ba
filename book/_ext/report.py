"""What `make reports` gives nbconvert: a page of the book in plain Markdown, its figures and their
data as files beside it."""

import base64
import re
from posixpath import normpath

from nbconvert.preprocessors import Preprocessor

from seqlib.pages import OTHERS

LINK = re.compile(r"\]\(((?:\.\./)*[\w/-]+)\.(ipynb|md)(#[^)]*)?\)")
DATA = re.compile(r'<a download="([^"]+)" href="data:text/csv;base64,([^"]*)">([^<]*)</a>')
FENCE = re.compile(r"(^```.*?^```)", re.M | re.S)  # code stays as it is
SHOWN = ("text/markdown", "image/png", "text/plain")


class Report(Preprocessor):
    """Roles and links of MyST become links of Markdown; of outputs there remain figures with their
    captions, tables, sentences and what was printed."""

    def preprocess(self, notebook, resources):
        name = resources["metadata"]["name"]
        self.folder = "book" if name in OTHERS else "book/studies"  # of the page
        self.files, self.beside = resources["outputs"], f"{name}_files"
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = self.plain(cell.source)
            figure = cell.metadata.get("mystnb", {}).get("figure")
            for output in cell.get("outputs", []):
                if figure and "image/svg+xml" in output.get("data", {}):
                    alt = cell.metadata.mystnb.image.alt
                    output.data["text/markdown"] = self.drawn(output.data, alt, **figure)
                elif "text/markdown" in output.get("data", {}):
                    output.data["text/markdown"] = self.plain(output.data["text/markdown"])
            cell.outputs = [output for output in cell.get("outputs", []) if readable(output)]
        return notebook, resources

    def drawn(self, data, alt, name, caption):
        """A figure in Markdown, with its files written."""
        self.files[f"{self.beside}/{name}.svg"] = data.pop("image/svg+xml").encode()
        return f"![{alt}]({self.beside}/{name}.svg)\n\n{self.plain(caption)}"

    def plain(self, text):
        """Markdown of MyST without its roles, labels and embedded data."""
        parts = FENCE.split(text)
        parts[::2] = map(self._plain, parts[::2])
        return "".join(parts)

    def _plain(self, text):
        text = re.sub(r"^\([\w-]+\)=\n", "", text, flags=re.M)
        text = re.sub(r"\{cite\}`([^`]+)`", r"([\1](../book/references.bib))", text)
        text = re.sub(r"\{numref\}`([\w-]+)`", rf"[this figure]({self.beside}/\1.svg)", text)
        return DATA.sub(self.filed, LINK.sub(self.linked, text))

    def linked(self, found):
        """A link to a page: to its report, or to the page itself where it has none."""
        path, kind, anchor = found.groups("")
        if kind == "ipynb":
            return f"]({path.rpartition('/')[2]}.md{anchor})"
        return f"](../{normpath(f'{self.folder}/{path}')}.md{anchor})"

    def filed(self, found):
        """A link to data that are written to a file."""
        name, content, words = found.groups()
        self.files[f"{self.beside}/{name}"] = base64.b64decode(content)
        return f"[{words}]({self.beside}/{name})"


def readable(output):
    """Whether an output can be read without scripts, and is no bar or warning."""
    if output.output_type == "stream":
        return output.name == "stdout"
    data = output.get("data", {})
    of_script = "<IPython" in data.get("text/plain", "") or any("widget" in kind for kind in data)
    return "text/markdown" in data or any(map(data.get, SHOWN)) and not of_script


c = get_config()  # noqa: F821
c.MarkdownExporter.preprocessors = [Report]
c.ExtractOutputPreprocessor.extract_output_types = {"image/png"}  # comes before, and names no SVG
c.NbConvertBase.display_data_priority = list(SHOWN)
