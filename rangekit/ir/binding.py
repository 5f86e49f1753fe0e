"""Substitution of ranges, and renaming of bound ones.

A range is a binder: only its free occurrences are replaced, and where a value would fall into the scope of a binder
of one of its own ranges, that binder is renamed first (to a range of the same size and printed name).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import overload

from rangekit.ir.spec import binding
from rangekit.ir.uop import UOp, new_range

_Env = dict[UOp, UOp]
_NONE: frozenset[UOp] = frozenset()


@overload
def substitute(roots: UOp, mapping: Mapping[UOp, UOp]) -> UOp: ...
@overload
def substitute(roots: Sequence[UOp], mapping: Mapping[UOp, UOp]) -> tuple[UOp, ...]: ...
def substitute(roots: UOp | Sequence[UOp], mapping: Mapping[UOp, UOp]) -> UOp | tuple[UOp, ...]:
    """The graph with the free occurrences of each RANGE in ``mapping`` replaced by its value.

    What mentions none of them is returned as it is. Capture is avoided: substituting ``j`` for ``i`` in
    ``sum(x[i, j], j)`` gives ``sum(x[j, j'], j')``.
    """
    work = _Substitution()
    env = {r: v for r, v in mapping.items() if r is not v}
    if isinstance(roots, UOp):
        return work.run(roots, env)
    return tuple(work.run(r, env) for r in roots)


def rename_bound(node: UOp, old: UOp, new: UOp) -> UOp:
    """A node that binds ``old``, binding ``new`` of the same size instead.

    ``ValueError`` if it does not bind ``old``, or if ``new`` means something in its scope already.
    """
    scope = binding(node)
    if scope is None or old not in node.src[scope[1] :]:
        raise ValueError(f"{node} does not bind {old}")
    a, b = scope
    if new is old:
        return node
    if new in node.src[b:] or any(new in s.ranges for s in node.src[a:b]) or new.size is not old.size:
        raise ValueError(f"{new} cannot stand for {old} in {node}")
    body = substitute(node.src[a:b], {old: new})
    return node.replace((*node.src[:a], *body, *(new if r is old else r for r in node.src[b:])))


class _Substitution:
    """One substitution: ``made`` is keyed by node and the environment its scope has, ``fresh`` keeps new names."""

    def __init__(self) -> None:
        self.made: dict[tuple[UOp, int], UOp] = {}
        self.fresh: dict[UOp, UOp] = {}
        self.envs: dict[frozenset[tuple[UOp, UOp]], _Env] = {}

    def run(self, root: UOp, mapping: _Env) -> UOp:
        env = self.shared(mapping)
        stack = [(root, env)]
        while stack:
            node, env = stack[-1]
            if self.result(node, env) is not None:
                stack.pop()
                continue
            inputs = self.inputs(node, env)
            missing = [(s, e) for s, e in inputs if self.result(s, e) is None]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            self.made[node, id(env)] = node.replace(tuple(self.known(s, e) for s, e in inputs))
        return self.known(root, self.shared(mapping))

    def known(self, node: UOp, env: _Env) -> UOp:
        found = self.result(node, env)
        assert found is not None
        return found

    def result(self, node: UOp, env: _Env) -> UOp | None:
        """What a node becomes, if it is known without a look at its sources."""
        if env.keys().isdisjoint(node.ranges):
            return node
        found = self.made.get((node, id(env)))
        if found is None and node in env:
            found = self.made[node, id(env)] = env[node]
        return found

    def inputs(self, node: UOp, env: _Env) -> list[tuple[UOp, _Env]]:
        """Each source with the environment that holds in it."""
        scope = binding(node)
        if scope is None:
            return [(s, env) for s in node.src]
        a, b = scope
        bound = node.src[b:]
        free = _NONE.union(*(s.ranges for s in node.src[a:b])) - frozenset(bound)
        inner = {r: v for r, v in env.items() if r in free}
        brought = _NONE.union(*(v.ranges for v in inner.values()))
        renamed: _Env = {r: self.rename(r) for r in bound if r in brought}
        inside, tail = self.shared({**inner, **renamed}), self.shared(renamed)
        return [(s, env) for s in node.src[:a]] + [(s, inside) for s in node.src[a:b]] + [(r, tail) for r in bound]

    def rename(self, r: UOp) -> UOp:
        """One new name per range, so that reductions over it that shared their body still do."""
        if r not in self.fresh:
            self.fresh[r] = new_range(r.length, r.arg.name)
        return self.fresh[r]

    def shared(self, env: _Env) -> _Env:
        """The one environment of these contents (and alive as long as its id is in use)."""
        return self.envs.setdefault(frozenset(env.items()), env)
