"""A drawing's SVG as an element of a page: in the page's colours and type, and much smaller."""

import re
from xml.etree import ElementTree

from sparring.report.ink import HUES, INK, QUIET, RULE

COLOURS = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    RULE: "var(--rule)",
    **{hue: f"var(--hue-{number})" for number, hue in enumerate(HUES)},
}
"""What the page's style sheet has for the colours of a drawing."""

_SVG = "http://www.w3.org/2000/svg"
_WORDS = {f"{{{_SVG}}}{name}" for name in ("metadata", "title", "desc")}
_LINK = "{http://www.w3.org/1999/xlink}href"
_LONG = re.compile(r"-?\d+\.\d{3,}")
_TYPE = re.compile(r"font-family:[^;]*;?\s*")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


def element(svg: bytes, key: str, words: str) -> str:
    """An SVG file as an element that a page may hold, with words for those who do not see it.

    Its own style sheet and metadata go; colours become variables of the page. `key` is put before
    identifiers, so that those of two drawings differ.
    """
    root = ElementTree.fromstring(svg)
    for child in list(root):
        if child.tag in _WORDS or child.find(f"{{{_SVG}}}style") is not None:
            root.remove(child)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": words}
    nodes = list(root.iter())
    wanted = {name for node in nodes for name in _references(node)}
    for node in nodes:
        node.text, node.tail = _kept(node.text), None
        _adapt(node, wanted, key)
    _flatten(root)
    ElementTree.register_namespace("", _SVG)
    text = ElementTree.tostring(root, encoding="unicode")
    return text.replace(f' xmlns="{_SVG}"', "", 1)  # HTML knows what an svg is


def _references(node: ElementTree.Element) -> list[str]:
    link = node.attrib.get(_LINK, "")
    links = [link[1:]] if link.startswith("#") else []
    return links + [name for value in node.attrib.values() for name in _REFERENCE.findall(value)]


def _kept(text: str | None) -> str | None:
    return text if text and text.strip() else None


def _adapt(node: ElementTree.Element, wanted: set[str], key: str) -> None:
    attributes = node.attrib
    if (name := attributes.pop("id", None)) in wanted:
        attributes["id"] = f"{key}-{name}"
    if (link := attributes.pop(_LINK, None)) is not None:
        within = link.startswith("#")
        attributes["href"] = f"#{key}-{link[1:]}" if within else "".join(link.split("\n"))
    if "clip-path" in attributes:
        attributes["clip-path"] = _REFERENCE.sub(rf"url(#{key}-\1)", attributes["clip-path"])
    if "style" in attributes:
        style = _TYPE.sub("", attributes["style"])
        attributes["style"] = _COLOUR.sub(lambda hue: COLOURS.get(hue[0], hue[0]), style)
    for name in ("d", "transform", "x", "y"):
        if name in attributes:
            rounded = _LONG.sub(lambda number: f"{float(number[0]):.2f}", attributes[name])
            attributes[name] = " ".join(rounded.split())


def _flatten(node: ElementTree.Element) -> None:
    """Take out groups that say nothing."""
    children: list[ElementTree.Element] = []
    for child in node:
        _flatten(child)
        bare = child.tag == f"{{{_SVG}}}g" and not child.attrib
        children.extend(child if bare else [child])
    node[:] = children
