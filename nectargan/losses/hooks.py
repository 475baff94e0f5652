"""`LossHooks`: the functions that a `LossManager` calls for every weighted loss."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterable

from torch.utils.hooks import RemovableHandle

from nectargan.losses.lm_data import LossEvent

LossHook = Callable[[LossEvent], object]


class LossHooks:
    """Hooks in the order of registration; false in a condition if there are none."""

    def __init__(self) -> None:
        self._hooks: OrderedDict[int, LossHook] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._hooks)

    def register(self, fn: LossHook, query: Iterable[str] | None = None) -> RemovableHandle:
        """See `LossManager.register_hook`."""
        hook = fn if query is None else functools.partial(_call_if_tagged, fn, tag_set(query))
        handle = RemovableHandle(self._hooks)
        self._hooks[handle.id] = hook
        return handle

    def fire(self, event: LossEvent) -> None:
        """Calls every hook. An exception propagates, with the name of the hook as a note."""
        for hook in tuple(self._hooks.values()):
            try:
                hook(event)
            except Exception as error:
                error.add_note(f"raised in loss hook '{_name_of(hook)}' for loss '{event.name}'")
                raise


def tag_set(query: Iterable[str]) -> frozenset[str]:
    """The tags of a query, which is one tag or several."""
    return frozenset((query,) if isinstance(query, str) else query)


def _call_if_tagged(fn: LossHook, wanted: frozenset[str], event: LossEvent) -> None:
    if not wanted.isdisjoint(event.tags):
        fn(event)


def _name_of(hook: LossHook) -> str:
    fn = hook.args[0] if isinstance(hook, functools.partial) and hook.args else hook
    return getattr(fn, "__qualname__", None) or type(fn).__qualname__
