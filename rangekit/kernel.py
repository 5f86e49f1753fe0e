"""``@rk.kernel``: trace once per signature, lower, compile, cache, run. Introduces the language to the backends."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, overload

from rangekit.backends import native
from rangekit.calls import Call, Form, inlined
from rangekit.checked import Checked, check
from rangekit.direct import Records
from rangekit.errors import DeviceError, ScheduleError
from rangekit.lang import trace
from rangekit.lang.tensor import Runtime
from rangekit.lower.pipeline import Options
from rangekit.lower.step import Step
from rangekit.lowered import Lowering
from rangekit.outside import realize
from rangekit.program import device_named
from rangekit.traced import Traced

if TYPE_CHECKING:
    from rangekit.tuning.report import Report


class Kernel(native.Callable):  # type: ignore[misc]
    """A function over arrays that runs as compiled loop nests. Made by ``rk.kernel``.

    Call it with NumPy arrays, anything with DLPack or ``__array_interface__``, Tensors, pytrees of these, ints and
    floats; ``out=`` receives the result. Errors: ``ArgumentError`` for arguments that do not fit the function, any
    ``RangekitError`` while it is traced, ``BoundsError`` after a launch.

    The ``__call__`` here is for arguments of every kind. Where the interpreter's layout is known, a signature of
    plain arrays and numbers that was called before is served by a native entry instead (``native_calls`` counts).
    """

    def __init__(
        self, fn: Callable[..., Any], static: tuple[str, ...], device: str | None, options: Options | None = None
    ) -> None:
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.options = options or Options()
        self.static = frozenset((static,) if isinstance(static, str) else static)
        self.device = device_named_lazily(device)
        self._form = Form(fn, self.name, self.static)
        self.signature = self._form.signature
        self._compiled: dict[tuple[Options, Hashable], Traced] = {}
        self._tuned: dict[Hashable, Options] = {}  # by signature
        self.tuned: Report | None = None
        self._records = Records()
        self._lock = threading.RLock()

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.fn, "__name__", "kernel")

    @property
    def native_calls(self) -> int:
        """How many calls were served without running Python."""
        return self._records.hits

    def __repr__(self) -> str:
        return f"<kernel {self.name}{self.signature}>"

    def __call__(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        if trace.current() is not None:
            return inlined(self._form, args, kwargs, out)
        call = Call(self._form, args, kwargs)
        traced = self._traced(call)
        answer = call.run(traced, out)
        if not kwargs and not traced.settled:
            with self._lock:
                self._records.add(self, traced, call, len(args))
        return answer

    def lower(self, *args: Any, **kwargs: Any) -> Lowering:
        """The program for these arguments, compiled and not run: its nests, stages, kernels and proofs."""
        traced = self._traced(Call(self._form, args, kwargs))
        return Lowering(self.name, traced.program, traced.trace_seconds)

    def schedule(self, *steps: Step, kernel: str | None = None) -> Kernel:
        """A new kernel whose loops run as these steps say, from left to right, and in no other way.

        ``kernel`` is the name of one launch ("k0"), None for every launch. Without steps the loops stay as written.
        Errors: ``ScheduleError``, when it is first called or lowered, for a step that cannot apply.

        >>> import rangekit as rk, numpy as np
        >>> double = rk.kernel(lambda x: x * 2).schedule(rk.tile("i", 4))
        >>> print(double.lower(np.ones(8, np.float32)))
        for i in 0..2:
            for i.t in 0..4:
                out[i * 4 + i.t] = x[i * 4 + i.t] * 2.0
        <BLANKLINE>
        """
        options = replace(self.options, schedules=(*self.options.schedules, (kernel, steps)))
        return Kernel(self.fn, tuple(self.static), self.device, options)

    def tune(self, *args: Any, seconds: float = 30, beam: int = 4, client: Any = None) -> Kernel:
        """A new kernel with the fastest schedules found in so many seconds, for arguments of these shapes and dtypes.

        Candidates are compiled, checked against the loops as written and timed in other processes; ``beam`` schedules
        are followed at once. Ctrl-C ends the search and keeps the best so far, which is on disk from the moment it is
        found. ``tuned`` of the new kernel says what was done; for other arguments it is as this kernel. The arrays are
        not written to, and the floats in them matter only where random ones would give NaN. ``client``, of
        ``dask.distributed``, has workers that search too, those with this CPU.

        Errors: ``BoundsError`` where a call with these arguments raises it, ``DeviceError`` on a device that cannot be
        tuned or where no worker has this CPU.
        """
        from rangekit.tuning.session import Session

        call = Call(self._form, args, {})
        traced = self._traced(call)
        if traced.program.dims:
            names = ", ".join(d.arg.name for d in traced.program.dims.values())
            raise ScheduleError(
                f"a kernel over the sizes {names} is not tuned: what is fast depends on what they are",
                help="tune the function without Dims in its annotations, and give a schedule from that",
            )
        options = self._tuned.get(call.key, self.options)

        def given(name: str) -> tuple[Step, ...] | None:
            found = [steps for kernel, steps in self.options.schedules if kernel in (None, name)]
            return tuple(s for steps in found for s in steps) if found else None

        session = Session(traced.program, self.name, given, seconds, beam)
        session.run(call.arrays, client)
        new = Kernel(self.fn, tuple(self.static), self.device, self.options)
        new._tuned = dict(self._tuned)
        best = session.schedules()
        if best:
            nests = traced.program.lowered.nests
            rest = {n.name: tuple(n.schedule) for n in nests if given(n.name) is not None or call.key in self._tuned}
            chosen = {**rest, **{name: tuple(steps) for name, steps in best.items()}}
            options = replace(options, schedules=tuple(chosen.items()))
            new._tuned[call.key] = options
        new.tuned = session.report()
        return new

    def check(self, *args: Any, poison: bool = False, **kwargs: Any) -> Checked:
        """Run the call on every device, and hold it against the interpreter, which runs the loops as written.

        The arguments are not written to. Integers must be equal; floats may differ by 1024 ulps of the greatest value
        of the result (half types 4), NaN and infinities must be in the same places. With ``poison`` scratch and results
        begin as NaN, so that what is read before it is written shows. The interpreter runs about a million operations a
        second.

        Errors: ``CompileError`` naming the first element that differs, and the iteration that makes it.

        >>> import rangekit as rk, numpy as np
        >>> double = rk.kernel(lambda x: x * 2)
        >>> print(double.check(np.ones(5, np.float32), poison=True))
        <lambda> gives the same everywhere
        out on cpu: 0 ulps from the interpreter, 1024 allowed
        """
        call = Call(self._form, args, kwargs)
        return check(self.name, call, self._tuned.get(call.key, self.options), poison)

    def _traced(self, call: Call) -> Traced:
        key = self._tuned.get(call.key, self.options), call.key
        with self._lock:
            traced = self._compiled.get(key)
            if traced is None:
                traced = self._compiled[key] = call.trace(device_named(self.device), key[0])
            return traced


native.calls_natively(Kernel)
Runtime.realize = staticmethod(realize)


def device_named_lazily(device: str | None) -> str:
    """The device's name, checked; the device itself is loaded at the first call."""
    name = device or "cpu"
    if name not in ("cpu", "llvm", "python"):
        raise DeviceError(f"there is no device {name!r}", help='device= "cpu" or "python"')
    return name


@overload
def kernel(fn: Callable[..., Any], /) -> Kernel: ...
@overload
def kernel(
    *,
    static: str | tuple[str, ...] = (),
    device: str | None = None,
    schedule: Sequence[Step] | None = None,
    strict: bool = False,
) -> Callable[[Callable[..., Any]], Kernel]: ...
@overload
def kernel(
    fn: Callable[..., Any],
    /,
    *,
    static: str | tuple[str, ...] = (),
    device: str | None = None,
    schedule: Sequence[Step] | None = None,
    strict: bool = False,
) -> Kernel: ...
def kernel(
    fn: Callable[..., Any] | None = None,
    /,
    *,
    static: str | tuple[str, ...] = (),
    device: str | None = None,
    schedule: Sequence[Step] | None = None,
    strict: bool = False,
) -> Any:
    """Compile a function over Tensors into kernels: a decorator, with or without arguments, or a call.

    ``static`` names arguments that are compile-time values, part of the signature. ``device`` is "cpu" (LLVM, the
    default) or "python" (the interpreter). ``schedule`` is the order and place of its loops, as steps; without one a
    cost model chooses. ``strict`` keeps sums of floats in the order written, and products apart from them.

    >>> import rangekit as rk, numpy as np
    >>> @rk.kernel
    ... def row_sum(x):
    ...     i, j = rk.ranges(*x.shape)
    ...     return rk.bufferize(rk.sum(x[i, j], j), i)
    >>> row_sum(np.ones((2, 3), np.float32))
    array([3., 3.], dtype=float32)
    >>> print(row_sum.lower(np.ones((2, 3), np.float32)))
    for i in 0..2:
        acc = 0.0
        for j in 0..3:
            acc += x[i, j]
        out[i] = acc
    <BLANKLINE>
    """
    names = (static,) if isinstance(static, str) else tuple(static)
    schedules = () if schedule is None else ((None, tuple(schedule)),)
    options = Options(schedules=schedules, strict=strict)
    if fn is None:
        return lambda f: Kernel(f, names, device, options)
    return Kernel(fn, names, device, options)
