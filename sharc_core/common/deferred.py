"""Libraries that take long to import, as objects that import them when they are first used.

Reading a grid file, planning a run and writing tables need the settings of plug-ins but no tensors. A module
that writes `from sharc_core.common.deferred import torch` for `import torch` can be imported without it.
A code hash treats both statements alike (provenance.statements).
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Collection
from functools import cached_property, partial
from importlib import metadata
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from sharc_core.common.kept import kept_file, read_kept, write_kept

TYPES = ("Tensor", "Size", "device", "dtype", "Generator")
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")


class Deferred:
    """A module that the first use of one of its attributes imports.

    names: attributes that other modules mention while they are imported. Until the module is imported, each
    of them is a DeferredName. others: further attributes, and what stands for them until then.
    """

    def __init__(self, module: str, names: Collection[str], others: dict[str, Any] | None = None):
        self.module = module
        self._stand_ins = {name: DeferredName(module, name) for name in names} | (others or {})

    def __getattr__(self, name: str) -> Any:
        module = sys.modules.get(self.module)
        if module is None:
            if name in self._stand_ins:
                return self._stand_ins[name]
            module = importlib.import_module(self.module)
        value = getattr(module, name)
        self.__dict__[name] = value  # or each use in a training step would take half a microsecond
        return value


class DeferredName:
    """A type or constant of a module that is not imported yet.

    It stands in annotations and type aliases. As an attribute of a class it is read as the module's object;
    calls and `isinstance` use that object too. It cannot be the default value of an argument.
    """

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    @cached_property
    def _value(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)

    def __get__(self, instance: object, owner: type) -> Any:
        return self._value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)

    def __call__(self, *arguments: Any, **further: Any) -> Any:
        """Call the module's object."""
        return self._value(*arguments, **further)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._value)

    def __or__(self, other: object) -> "DeferredName":  # in an annotation
        return self

    __ror__ = __or__
    __hash__ = None  # type: ignore[assignment]  # a key of a dict would not equal the module's object


class DeferredContext(contextlib.ContextDecorator):
    """A context manager of torch without arguments, such as no_grad, which a decorator may be."""

    def __init__(self, name: str):
        self._name = name

    def _recreate_cm(self) -> Any:  # ContextDecorator enters its result at each call of the function
        return getattr(importlib.import_module("torch"), self._name)()

    def __enter__(self) -> Any:
        self._entered = self._recreate_cm()
        return self._entered.__enter__()

    def __exit__(self, *error: Any) -> Any:
        return self._entered.__exit__(*error)


class KeptConstants:
    """A class of a library. Attributes that are text are kept for later processes (common.kept)."""

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def __getattr__(self, name: str) -> Any:
        path = kept_file(__file__, f"{self._module}.{self._name}")
        rules = metadata.version(self._module.split(".")[0])
        known = read_kept(path, rules)
        if name in known:
            return known[name]
        value = getattr(getattr(importlib.import_module(self._module), self._name), name)
        if isinstance(value, str):
            write_kept(path, rules, known | {name: value})
        return value


def _finfo(dtype: DeferredName) -> SimpleNamespace:
    """Return the largest value of a floating-point type, as torch.finfo does."""
    return SimpleNamespace(max=float(np.finfo(dtype.name).max))


def exports(module: str, exported: Collection[str], names: Collection[str]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package that exports names of one of its modules, imported on first use.

    exported: the package's `__all__`. names: as for Deferred.
    """
    deferred = Deferred(module, names)

    def get(name: str) -> Any:
        if name not in exported:
            raise AttributeError(f"module {module.rpartition('.')[0]!r} has no attribute {name!r}")
        return getattr(deferred, name)

    return get


if TYPE_CHECKING:
    import pandas as pandas
    import torch as torch
    import torchvision.datasets as torchvision_datasets
    from torch.nn.functional import normalize as normalize
    from torch.nn.functional import one_hot as one_hot
else:
    CONTEXTS = {name: partial(DeferredContext, name) for name in ("no_grad", "enable_grad", "inference_mode")}
    torch = Deferred("torch", (*TYPES, *DTYPES), {"finfo": _finfo, **CONTEXTS})
    pandas = Deferred("pandas", ("DataFrame", "Series"))
    CIFARS = {name: KeptConstants("torchvision.datasets", name) for name in ("CIFAR10", "CIFAR100")}
    torchvision_datasets = Deferred("torchvision.datasets", (), CIFARS)
    normalize, one_hot = (DeferredName("torch.nn.functional", name) for name in ("normalize", "one_hot"))
