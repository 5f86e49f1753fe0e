"""The one driver of every rewrite: sources before users (or users first), each node once, to a fixpoint.

What a rewrite gives is itself rewritten until nothing applies. A node whose rule answers NOT_READY waits, with
all that use it, on a stack of its own, which is visited when the main one is empty. Stacks are explicit, so the
depth of a graph does not matter. A graph that makes no progress ends with the name of the rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import overload

from rangekit.ir.pattern import NOT_READY, Answer, NotReady, Rule, Table, rule, rules
from rangekit.ir.uop import UOp

__all__ = ["NOT_READY", "Answer", "RewriteError", "Rule", "Table", "rewrite", "rule", "rules"]

Visit = Callable[[UOp], "Answer | tuple[str, UOp | NotReady]"]
Moved = Callable[[UOp, UOp], None]

_Frame = tuple[UOp, int, UOp, int]
_ENTER, _LEAVE, _AWAIT = range(3)

LIMIT = 50_000  # rewrites that may follow from one another; a chain of 10 000 nodes stays far below


class RewriteError(AssertionError):
    """A table makes no progress: a bug in its rules, never in the user's program. The message names the rule."""


@overload
def rewrite(
    roots: UOp,
    how: Table | Visit,
    *,
    bottom_up: bool = ...,
    counts: Counter[str] | None = ...,
    moved: Moved | None = ...,
    stop: Callable[[UOp], bool] | None = ...,
) -> UOp: ...
@overload
def rewrite(
    roots: Sequence[UOp],
    how: Table | Visit,
    *,
    bottom_up: bool = ...,
    counts: Counter[str] | None = ...,
    moved: Moved | None = ...,
    stop: Callable[[UOp], bool] | None = ...,
) -> tuple[UOp, ...]: ...
def rewrite(
    roots: UOp | Sequence[UOp],
    how: Table | Visit,
    *,
    bottom_up: bool = True,
    counts: Counter[str] | None = None,
    moved: Moved | None = None,
    stop: Callable[[UOp], bool] | None = None,
) -> UOp | tuple[UOp, ...]:
    """The graph after every rule that applies.

    ``how`` is a table, or a function of a node that answers None (leave it), another node, ``NOT_READY``, or a pair
    of a rule's name and one of these. ``bottom_up`` offers a node after its sources, otherwise before them.
    ``counts`` gets the rewrites per rule, ``moved(old, new)`` is told of every replacement, ``stop(node)`` True
    leaves a node and all below it alone. ``RewriteError`` where rules cycle or only wait for one another.
    """
    driver = _Driver(how.apply if isinstance(how, Table) else how, bottom_up, counts, moved, stop)
    if isinstance(roots, UOp):
        return driver.run((roots,))[0]
    return driver.run(tuple(roots))


class _Driver:
    """``done`` maps each finished node to its final form; ``open`` are those begun, ``parked`` those that wait.

    A frame is (node, stage, form, steps). Stage ENTER: look at the node. LEAVE: its sources have been visited.
    AWAIT: it becomes whatever ``form``, the answer of a rule, becomes. ``steps`` counts the rewrites above it.
    """

    def __init__(
        self,
        visit: Visit,
        bottom_up: bool,
        counts: Counter[str] | None,
        moved: Moved | None,
        stop: Callable[[UOp], bool] | None,
    ) -> None:
        self.visit, self.bottom_up, self.counts, self.moved, self.stop = visit, bottom_up, counts, moved, stop
        self.done: dict[UOp, UOp] = {}
        self.open: set[UOp] = set()
        self.parked: set[UOp] = set()
        self.stack: list[_Frame] = []
        self.waiting: list[_Frame] = []
        self.progress = 0
        self.last = ""

    def run(self, roots: tuple[UOp, ...]) -> tuple[UOp, ...]:
        self.stack.extend((r, _ENTER, r, 0) for r in reversed(roots))
        before = -1
        while self.stack or self.waiting:
            if not self.stack:
                if self.progress == before:
                    raise RewriteError(f"no progress: {self.last} is not ready, and nothing else is left")
                before = self.progress
                self.stack, self.waiting = self.waiting[::-1], []
            node, stage, form, steps = self.stack.pop()
            if self.parked:
                self.parked.discard(node)
            if stage == _LEAVE:
                self.leave(node, steps)
            elif stage == _ENTER:
                self.enter(node, steps)
            elif form in self.done:
                self.finish(node, self.done[form])
            else:
                self.park(node, _AWAIT, form, steps)
        return tuple(self.done[r] for r in roots)

    def enter(self, node: UOp, steps: int) -> None:
        if node in self.done or node in self.parked:
            return
        if self.stop is not None and self.stop(node):
            self.done[node] = node
            return
        if node in self.open:
            raise self.cycle(node)
        if not self.bottom_up and self.offer(node, node, steps):
            return
        self.open.add(node)
        self.stack.append((node, _LEAVE, node, steps))
        self.stack.extend([(s, _ENTER, s, steps) for s in reversed(node.src) if s not in self.done])

    def leave(self, node: UOp, steps: int) -> None:
        src = []
        for s in node.src:
            final = self.done.get(s)
            if final is None:
                self.park(node, _LEAVE, node, steps)
                return
            src.append(final)
        new_src = tuple(src)
        if new_src == node.src:
            form = node
        else:
            form = UOp(node.op, node.dtype, new_src, node.arg)
            if self.moved is not None:
                self.moved(node, form)
            if form in self.done:
                self.finish(node, self.done[form])
                return
            if form in self.parked:
                self.park(node, _AWAIT, form, steps)
                return
            if form in self.open:
                raise self.cycle(form)
        if not self.bottom_up or not self.offer(node, form, steps):
            self.finish(form, form)
            self.finish(node, form)

    def offer(self, node: UOp, form: UOp, steps: int) -> bool:
        """Ask the rules about the form a node has now; True if the node awaits something."""
        answer = self.visit(form)
        name = ""
        if isinstance(answer, tuple):
            name, answer = answer
        if answer is None or answer is form:
            return False
        self.last = f"rule {name}" if name else "a rule"
        if isinstance(answer, NotReady):
            self.open.add(node)
            self.park(node, _LEAVE if self.bottom_up else _ENTER, node, steps)
            return True
        if steps >= LIMIT:
            raise RewriteError(f"no progress: {self.last} still applies after {LIMIT} rewrites")
        self.progress += 1
        if self.counts is not None and name:
            self.counts[name] += 1
        if self.moved is not None:
            self.moved(form, answer)
        self.open.update((node, form))
        self.stack.append((node, _AWAIT, answer, steps))
        if form is not node:
            self.stack.append((form, _AWAIT, answer, steps))
        self.stack.append((answer, _ENTER, answer, steps + 1))
        return True

    def park(self, node: UOp, stage: int, form: UOp, steps: int) -> None:
        """Have a node wait until the main stack is empty."""
        if stage == _ENTER:
            self.open.discard(node)
        self.parked.add(node)
        self.waiting.append((node, stage, form, steps))

    def finish(self, node: UOp, final: UOp) -> None:
        self.done[node] = final
        self.open.discard(node)
        self.progress += 1

    def cycle(self, node: UOp) -> RewriteError:
        return RewriteError(f"no progress: {self.last} leads back to {node}")
