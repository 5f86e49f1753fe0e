"""The static page: the same bytes each time, no script, and in it what the text form says."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

import rangekit as rk
from rangekit.lowered import Lowering
from rangekit.view.page import page, write_page


def lowered() -> Lowering:
    @rk.kernel
    def shifted(x):
        i = rk.Range(8)
        return rk.bufferize(rk.where(i < 7, x[i + 1], 0.0), i)

    return shifted.lower(np.zeros(8, np.float32))


def text_of(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def test_a_repr_says_what_the_text_says() -> None:
    low = lowered()
    assert "for i in 0..8:" in str(low)
    assert text_of(low._repr_html_()) + "\n" == str(low)


def test_a_page_holds_every_nest_buffer_and_proof() -> None:
    low = lowered()
    shown = text_of(page("Two nests", [("First", low), ("Second <b>", low)]))
    assert shown.count(str(low).rstrip()) == 2
    assert "Second <b>" in shown
    assert "32 bytes" in shown
    assert "x[i + 1]axis 0proved by" in shown


def test_a_page_is_the_same_twice(tmp_path: Path) -> None:
    first = write_page(tmp_path / "a.html", "nests", [("one", lowered())]).read_bytes()
    second = write_page(tmp_path / "b.html", "nests", [("one", lowered())]).read_bytes()
    assert first == second


def test_a_page_is_static_and_well_formed() -> None:
    html = page("nests", [("one", lowered())])
    opened: list[str] = []
    seen: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.add(tag)
            assert not any(name.startswith("on") or name in ("src", "href", "id") for name, _ in attrs)
            if tag != "meta":
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Reader().feed(html)
    assert opened == []
    assert {"html", "pre", "table"} <= seen
    assert not seen & {"script", "iframe", "link", "style", "img", "object"}
