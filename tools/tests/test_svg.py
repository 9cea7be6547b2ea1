"""What an experiment's SVG may bring into the page, and how it is recoloured."""

import io
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tenfold_tools.svg import ATTRIBUTES, ELEMENTS, MAX_BYTES, SVG, inline_svg, recolour


def inline(content: str, *, prefix: str = "p", attributes: str = 'viewBox="0 0 10 10"') -> str:
    document = f'<svg xmlns="{SVG}" xmlns:xlink="http://www.w3.org/1999/xlink" {attributes}>{content}</svg>'
    return inline_svg(document, prefix=prefix, fallback_title="Name").markup


HOSTILE = {
    "a script": "<script>alert(1)</script>",
    "a script of another namespace": '<x:script xmlns:x="http://www.w3.org/1999/xhtml">alert(1)</x:script>',
    "a handler": '<rect onload="alert(1)" onclick="alert(1)"/>',
    "a foreign object": "<foreignObject><body xmlns='http://www.w3.org/1999/xhtml'>alert(1)</body></foreignObject>",
    "a link": '<a href="https://example.org/alert"><text>alert</text></a>',
    "a script in a link": '<use xlink:href="javascript:alert(1)"/>',
    "another document": '<use href="https://example.org/alert.svg#x"/>',
    "a picture from elsewhere": '<image href="https://example.org/alert.png"/>',
    "a picture with markup": '<image href="data:image/svg+xml;base64,alert"/>',
    "an animation": '<rect><set attributeName="href" to="javascript:alert(1)"/></rect>',
    "a style sheet": "<style>* { background: url(https://example.org/alert) }</style>",
    "a style from elsewhere": '<rect style="fill: url(https://example.org/alert#x); behavior: url(#alert)"/>',
    "an attribute from elsewhere": '<rect fill="url(https://example.org/alert#x)"/>',
    "a hidden address": r'<rect style="fill: u\72l(https://example.org/alert)"/>',
    "a picture set": '<rect fill="image-set(https://example.org/alert 1x)"/>',
    "two addresses": '<rect fill="url(#a) url(https://example.org/alert)"/>',
    "a class of the page": '<rect class="alert"/>',
    "a place over the page": '<rect style="position: fixed; inset: 0; z-index: 9; alert: 1"/>',
    "a comment": "<!-- alert -->",
    "an instruction": "<?alert x?>",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_content_is_dropped(what):
    markup = inline(HOSTILE[what] + '<path d="M0 0"/>')
    assert "alert" not in markup and "example.org" not in markup and "fixed" not in markup
    assert 'd="M0 0"' in markup


@given(st.recursive(st.text(max_size=5), lambda inner: st.lists(inner, max_size=3)), st.data())
def test_whatever_is_nested_only_known_names_come_out(tree, data):
    names = st.sampled_from([*sorted(ELEMENTS), "script", "a", "style", "animate", "iframe"])
    keys = st.sampled_from(["onload", "href", "fill", "style", "id", "src", "class"])

    def build(node) -> ET.Element:
        element = ET.Element(f"{{{SVG}}}{data.draw(names)}", {data.draw(keys): "x"})
        for child in node if isinstance(node, list) else []:
            element.append(build(child))
        return element

    root = ET.Element(f"{{{SVG}}}svg")
    root.append(build(tree))
    markup = inline_svg(ET.tostring(root, encoding="unicode"), prefix="p", fallback_title="t").markup
    for element in ET.fromstring(markup).iter():
        assert element.tag.removeprefix(f"{{{SVG}}}") in ELEMENTS | {"title", "desc"}
        assert set(element.attrib) <= ATTRIBUTES | {"href", "style", "role", "aria-labelledby", "viewBox"}


REFUSED = {
    "not XML": ("<svg", "not well-formed"),
    "HTML": ("<html></html>", "outermost element"),
    "entities": ('<!DOCTYPE svg [<!ENTITY a "aaaa">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>', "entities"),
    "no size": (f'<svg xmlns="{SVG}" width="0" height="5"/>', "size is 0 x 5"),
    "a size that is no number": (f'<svg xmlns="{SVG}" width="1e999" height="5"/>', "size is inf"),
    "huge": (f'<svg xmlns="{SVG}"><!--{" " * MAX_BYTES}--></svg>', "at most"),
    "empty": ("", "not well-formed"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_figure_is_refused(what):
    document, sentence = REFUSED[what]
    with pytest.raises(ValueError, match=sentence):
        inline_svg(document, prefix="p", fallback_title="t")


def test_identifiers_are_kept_apart_with_everything_that_points_at_them():
    content = (
        '<clipPath id="a"><path d=""/></clipPath><g clip-path="url(#a)" style="mask: url(#a)"/><use xlink:href="#a"/>'
    )
    markup = inline(content, prefix="q-1")
    assert 'id="q-1-a"' in markup and 'clip-path="url(#q-1-a)"' in markup
    assert 'style="mask: url(#q-1-a)"' in markup and 'href="#q-1-a"' in markup


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("#000000", "currentColor"),
        ("BLACK", "currentColor"),
        ("#fff", "var(--surface)"),
        ("#b0b0b0", "color-mix(in srgb, currentColor 31%, var(--surface))"),
        ("#FF7F0E", "var(--series-2)"),
        ("#7f7f7f", "var(--series-8)"),
        ("#123456", "#123456"),
        ("none", "none"),
        ("rgb(1, 2, 3)", "rgb(1, 2, 3)"),
    ],
)
def test_colours_follow_the_theme(before, after):
    assert recolour(before) == after
    assert f'fill="{after}"' in inline(f'<rect fill="{before}"/>')
    assert f"stroke: {after}" in inline(f'<rect style="opacity: 1; stroke: {before}"/>')


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ('width="360pt" height="216pt"', (480, 288)),
        ('width="2in" height="96px"', (192, 96)),
        ('viewBox="0 0 300 200"', (300, 200)),
        ('width="100%" height="100%" viewBox="0 0 300 200"', (300, 200)),
        ("", (480, 320)),
    ],
)
def test_the_size_is_read_in_pixels(attributes, size):
    markup = inline("", attributes=attributes)
    assert [re.search(rf'{name}="(\d+)"', markup)[1] for name in ("width", "height")] == [str(side) for side in size]
    assert "viewBox" in markup


def test_a_figure_of_matplotlib_keeps_its_words_and_loses_its_colours():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none"}):
        figure, axes = plt.subplots()
        axes.plot([0, 1], label="ours & theirs")
        axes.imshow([[0.0, 1.0]])
        axes.legend()
        axes.grid(True)
        file = io.StringIO()
        words = {"Title": "A <b>title</b>", "Description": "What is seen", "Date": None}
        figure.savefig(file, format="svg", transparent=True, metadata=words)
        plt.close(figure)
    figure = inline_svg(file.getvalue(), prefix="m", fallback_title="file name")
    assert (figure.title, figure.description) == ("A <b>title</b>", "What is seen")
    assert "ours &amp; theirs" in figure.markup and "data:image/png" in figure.markup
    assert 'aria-labelledby="m-title m-desc"' in figure.markup and "A &lt;b&gt;title" in figure.markup
    assert not re.search("#000000|#1f77b4|<style|<script|<metadata", figure.markup)


def test_a_figure_without_words_gets_its_file_name():
    assert '<title id="p-title">Name</title>' in inline("")
    creator = (
        '<metadata><r:RDF xmlns:r="urn:r" xmlns:c="http://creativecommons.org/ns#" '
        'xmlns:d="http://purl.org/dc/elements/1.1/"><c:Work><d:creator><c:Agent><d:title>Matplotlib</d:title>'
        "</c:Agent></d:creator></c:Work></r:RDF></metadata>"
    )
    assert '<title id="p-title">Name</title>' in inline(creator), "the creator's title is not the figure's"
