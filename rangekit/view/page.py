"""A static HTML page of lowered kernels: no script, no style sheet, no timing, so that saved copies stay equal."""

from __future__ import annotations

from html import escape
from pathlib import Path

from rangekit.lowered import KernelInfo, Lowering


def page(title: str, parts: list[tuple[str, Lowering]]) -> str:
    """One HTML document: for each (heading, lowering) its loop nests, buffers, operations and proofs."""
    body = "".join(f"<h2>{escape(heading)}</h2>" + "".join(map(_kernel, low.kernels)) for heading, low in parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title></head>'
        f'<body style="font-family:sans-serif;max-width:60rem;margin:2rem auto"><h1>{escape(title)}</h1>{body}'
        "</body></html>\n"
    )


def write_page(path: Path, title: str, parts: list[tuple[str, Lowering]]) -> Path:
    """``page`` written to a file; returns the path."""
    path.write_text(page(title, parts), encoding="utf-8")
    return path


def _kernel(kernel: KernelInfo) -> str:
    from rangekit.ir.show import nest_html

    rows = "".join(
        f"<tr><td>{escape(b.name)}</td><td>{' x '.join(map(str, b.shape)) or 'scalar'}</td><td>{b.dtype}</td>"
        f"<td>{b.nbytes:,} bytes</td><td>{b.memory}</td></tr>"
        for b in kernel.buffers
    )
    proofs = "".join(
        f"<tr><td><code>{escape(p.access)}</code></td><td>axis {p.axis}</td><td>{p.status}"
        f"{f' by {p.by}' if p.by else ''}</td></tr>"
        for p in kernel.proofs
    )
    return (
        nest_html(kernel.nest)
        + f"<p>{kernel.flops:,} floating-point operations, {kernel.bytes:,} bytes of memory touched</p>"
        + f"<table>{rows}</table><h3>Every access</h3><table>{proofs}</table>"
    )
