"""What the site takes from the program itself, so that no page can say otherwise.

```{help-pages}      what `sparring --help` prints, and `sparring VERB --help` for every verb
```{settings}        every setting, with its default and its docstring
"""

import contextlib
import io
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx import addnodes
from sphinx.application import Sphinx

from site_settings import Group, setting_groups
from sparring.cli.main import VERBS, main


class HelpPages(Directive):
    """A section for each page of help."""

    def run(self) -> list[nodes.Node]:
        """The pages, printed by the verbs themselves."""
        return [_help_section(verb) for verb in ("", *VERBS)]


class Settings(Directive):
    """A section with a table for each record of settings."""

    def run(self) -> list[nodes.Node]:
        """`TrainConfig`, then what may stand in its settings."""
        return [_settings_section(group) for group in setting_groups()]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("help-pages", HelpPages)
    app.add_directive("settings", Settings)
    app.connect("autodoc-process-docstring", keep_drawings)
    app.connect("doctree-read", group_members, priority=100)  # before contents are collected
    return {"parallel_read_safe": True}


def help_page(verb: str) -> str:
    """What `sparring VERB --help` prints; without a verb, what `sparring --help` does."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        main([*verb.split(), "--help"])
    return page.getvalue()


def keep_drawings(*about: Any) -> None:
    """In docstrings, make indented blocks literal: they are drawings, programs or tables."""
    lines: list[str] = about[-1]
    result: list[str] = []
    literal = False
    for line in lines:
        if line.strip():
            starts = line.startswith("    ") and not literal and not (result and result[-1].strip())
            if starts:
                result += ["::", ""]
            literal = line.startswith("    ") and (starts or literal)
        result.append(line.replace("[*S", r"[\*S").replace(" *S", r" \*S"))  # a shape, no emphasis
    lines[:] = result


GROUPS = {"function": "Functions", "class": "Classes", "exception": "Classes", "data": "Constants"}
"""Headings on the page of a package, in this order, by the kind of what stands below."""


def group_members(app: Sphinx, doctree: nodes.document) -> None:
    """On the page of a package, put functions before classes and these before constants."""
    if "/api/" not in f"/{app.env.docname}":
        return
    for page in list(doctree.findall(nodes.section)):
        groups: dict[str, list[nodes.Node]] = {title: [] for title in GROUPS.values()}
        for member in [node for node in page.children if isinstance(node, addnodes.desc)]:
            index = page[page.index(member) - 1]  # the entry of the general index
            for node in (index, member):
                page.remove(node)
            groups[GROUPS[member["objtype"]]] += [index, member]
        page += [_section(title, *members) for title, members in groups.items() if members]


def _help_section(verb: str) -> nodes.section:
    title = f"sparring {verb}".strip()
    return _section(title, nodes.literal_block(text=help_page(verb), language="text"))


def _settings_section(group: Group) -> nodes.section:
    columns = nodes.tgroup(cols=3)
    columns += [nodes.colspec(colwidth=width) for width in (25, 25, 50)]
    columns += nodes.thead("", _row([nodes.Text(word) for word in ("setting", "default", "what")]))
    body = nodes.tbody()
    for setting in group.settings:
        name, default = (nodes.literal(text=text) for text in (setting.name, setting.default))
        body += _row([name, default, nodes.Text(setting.about)])
    columns += body
    about = nodes.paragraph(text=group.about)
    return _section(group.title, about, nodes.table("", columns))


def _row(cells: list[nodes.Node]) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def _section(title: str, *content: nodes.Node) -> nodes.section:
    name = nodes.fully_normalize_name(title)
    return nodes.section(
        "", nodes.title(text=title), *content, ids=[nodes.make_id(title)], names=[name]
    )
