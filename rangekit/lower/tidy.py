"""Make a nest read well: names used once go where they are used, and everything is named in order of appearance.

Nothing moves across a store to what it reads, so a tidy nest computes what the untidy one did.
"""

from __future__ import annotations

from dataclasses import replace

from rangekit.ir.nest import Let, Loop, Nest, Scratch, Stmt, Store, operands, walk
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp
from rangekit.lower.loops import mapped, rebuilt

MAX_TREE = 12  # operations in one printed expression before a Let cuts it


def tidy(nest: Nest) -> Nest:
    """The same nest with fewer and better names."""
    uses: dict[UOp, int] = {}
    for s in walk(nest.body):
        for n in operands(s):
            for v in _vars(n):
                uses[v] = uses.get(v, 0) + 1
    written = {s.buffer for s in walk(nest.body) if isinstance(s, Store)}
    body = _inlined(nest.body, uses, written, {})
    return named(replace(nest, body=body))


def _vars(n: UOp) -> list[UOp]:
    if n.op is Op.VAR:
        return [n]
    return [v for s in n.src for v in _vars(s)]


def _reads(n: UOp, written: set[UOp]) -> set[UOp]:
    if n.op is Op.INDEX and n.src[0] in written:
        return {n.src[0]}.union(*(_reads(s, written) for s in n.src[1:]))
    return set().union(*(_reads(s, written) for s in n.src)) if n.src else set()


def _size(n: UOp) -> int:
    return 0 if n.op in (Op.VAR, Op.CONST, Op.PARAM, Op.BUFFER, Op.INVALID) else 1 + sum(map(_size, n.src))


def _inlined(
    body: tuple[Stmt, ...], uses: dict[UOp, int], written: set[UOp], known: dict[UOp, UOp]
) -> tuple[Stmt, ...]:
    out: list[Stmt] = []
    waiting: dict[UOp, Let] = {}  # names of this block that are used once, not yet seen
    for s in body:
        here = {v for n in operands(s) for v in _vars(n) if v in waiting}
        for v in here:
            known[v] = waiting.pop(v).value
        changed = {s.buffer} if isinstance(s, Store) else _stored(s.body) if isinstance(s, Loop) else set()
        for v in [v for v, let in waiting.items() if changed & _reads(let.value, written)
                  or (isinstance(s, Loop) and _mentions(s, v))]:  # fmt: skip
            out.append(waiting.pop(v))
        s = _mapped(s, known)
        if isinstance(s, Loop):
            s = replace(s, body=_inlined(s.body, uses, written, known))
        if isinstance(s, Let) and uses.get(s.var, 0) <= 1:
            if uses.get(s.var, 0) == 1 and _size(s.value) <= MAX_TREE:
                waiting[s.var] = s
                continue
            if not uses.get(s.var, 0):
                continue
        out.append(s)
    out.extend(waiting.values())
    return tuple(out)


def without_idle(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
    """The statements without names that nothing uses."""
    wanted: set[UOp] = set()

    def kept(stmts: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for s in reversed(stmts):  # what uses a name comes after it
            if isinstance(s, Let) and s.var not in wanted:
                continue
            if isinstance(s, Loop):
                s = replace(s, body=kept(s.body))
            wanted.update(v for n in operands(s) for v in _vars(n))
            out.append(s)
        return tuple(reversed(out))

    return kept(body)


def _stored(body: tuple[Stmt, ...]) -> set[UOp]:
    return {s.buffer for s in walk(body) if isinstance(s, Store)}


def _mentions(loop: Loop, v: UOp) -> bool:
    return any(v in _vars(n) for s in walk(loop.body) for n in operands(s))


def _mapped(s: Stmt, known: dict[UOp, UOp]) -> Stmt:
    """The statement with names replaced by what they stand for."""

    def sub(n: UOp) -> UOp:
        if n in known:
            return known[n]
        src = tuple(sub(c) for c in n.src)
        return n if src == n.src else n.replace(src=src)

    return rebuilt(s, sub)


def named(nest: Nest) -> Nest:
    """Every variable and scratch array under a name of its own, numbered as they appear."""
    names: dict[UOp, UOp] = {}
    used = {p.arg.name for p in nest.params}
    body = nest.body

    def fresh(base: str, scope: set[str]) -> str:
        name, count = base, 1
        while name in used or name in scope:
            name, count = f"{base}{count}", count + 1
        return name

    def visit(stmts: tuple[Stmt, ...], loops: set[str]) -> None:
        for s in stmts:
            if isinstance(s, Scratch):
                name = fresh(s.buffer.arg.name, loops | all_loops)
                used.add(name)
                names[s.buffer] = s.buffer.replace(arg=replace(s.buffer.arg, name=name))
            elif isinstance(s, Let):
                name = fresh(s.var.arg[-1], loops | all_loops)
                used.add(name)
                names[s.var] = s.var.replace(arg=(*s.var.arg[:-1], name))
            elif isinstance(s, Loop):
                name = fresh(s.var.arg[-1], loops)
                names[s.var] = s.var.replace(arg=(*s.var.arg[:-1], name))
                visit(s.body, loops | {name})

    all_loops = {s.var.arg[-1] for s in walk(body) if isinstance(s, Loop)}
    visit(body, set())

    def sub(n: UOp) -> UOp:
        if n in names:
            return names[n]
        src = tuple(sub(c) for c in n.src)
        return n if src == n.src else n.replace(src=src)

    return replace(nest, body=mapped(body, sub))
