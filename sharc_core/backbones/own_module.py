"""A network given as the import path of a callable that returns an nn.Module. Using one runs its code."""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from sharc_core.backbones.checkpoints import fitting, read
from sharc_core.backbones.model import Backbone
from sharc_core.backbones.network import Network, as_graph
from sharc_core.backbones.preprocess import InputFormat
from sharc_core.backbones.weights import sha256_tensors
from sharc_core.common.errors import UserError
from sharc_core.common.files import sha256_file
from sharc_core.common.registry import nearest
from sharc_core.common.seeds import derived_seed

PACKAGE = "sharc_core"  # its own code has hashes of its own
INSTALLED = {"site-packages", "dist-packages"}


class OwnMaps(nn.Module):
    """A module from images (B, 3, S, S) to maps (B, K, h, w); its vectors (B, K) become maps (B, K, 1, 1)."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the maps."""
        output = self.network(images)
        return output[:, :, None, None] if output.dim() == 2 else output


class OwnModule(Network):
    """A module of the user, imported from the working folder or the installed packages."""

    @property
    def further(self) -> dict[str, Any]:
        """Arguments and source code of the module."""
        return super().further | {"arch_settings": self.config.arch_settings, "source": self.source}

    @property
    def source(self) -> str:
        """The hex SHA-256 of the module's source code. Raises UserError if the module does not exist."""
        return source_hash(self.config.arch.partition(":")[0])

    @property
    def code(self) -> tuple[str | Path, ...]:
        """The code here; `further` identifies the module itself."""
        return ("backbones.own_module",)

    @property
    def weights_identity(self) -> Any:
        """The hash of the tensors that the module has when it is built."""
        return sha256_tensors(self.skeleton().state_dict())

    def skeleton(self) -> nn.Module:
        """Build the module, with the same random numbers every time. Raises UserError for what it raises.

        It is built on the CPU, with its weights.
        """
        config = self.config
        with _own_random_numbers():
            make = imported(config.arch)
            _seed(derived_seed(0, "module"))
            with _reported(f"arch {config.arch} cannot be built"):
                network = make(**config.arch_settings)
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise UserError(f"arch {config.arch} returns {kind}, not a torch.nn.Module: return the network")
        return network.eval().requires_grad_(False)

    def body(self) -> fx.GraphModule:
        """Return the module; see Network.body."""
        return as_graph(OwnMaps(self.skeleton()))

    def check(self) -> tuple[int, int, int]:
        """Import and build the module, run it on two images, and check its weights; see Network.check."""
        if self.config.tokens != "map":
            raise UserError(
                f"tokens {self.config.tokens}: a module returns its maps itself: leave tokens out"
            )
        network = self.skeleton()
        shape = self._shape(network, self.side)
        if self.config.is_local_file:
            fitting(Path(self.config.weights), network, self.config.arch)
        return shape

    def _shape(self, network: nn.Module, side: int) -> tuple[int, int, int]:
        """Return the shape (K, h, w) of the maps of random images. Raises UserError for other output."""
        arch, images = self.config.arch, torch.randn(2, 3, side, side, generator=torch.Generator())
        with _reported(f"arch {arch} fails on images of {list(images.shape)}"), torch.inference_mode():
            output = network(images)
        expected = "it must return maps (B, K, h, w) or vectors (B, K)"
        if not isinstance(output, torch.Tensor):
            raise UserError(f"arch {arch} returns {type(output).__name__} for images: {expected}")
        shape = list(output.shape)
        if output.dim() not in (2, 4) or shape[0] != 2 or 0 in shape or not output.is_floating_point():
            raise UserError(f"arch {arch} returns {output.dtype} of shape {shape} for 2 images: {expected}")
        channels, height, width = (*shape[1:], 1, 1)[:3]
        return channels, height, width

    def load(
        self,
        weights: Path | None,
        device: torch.device | str,
        mirror: Path | None = None,
        form: InputFormat | None = None,
        fuse: bool = True,
    ) -> Backbone:
        """Load the backbone; see Network.load. Batch norms are not fused."""
        form, network = form or self.form, self.skeleton()
        shape = self._shape(network, form.image_size)
        if weights is None and self.config.is_local_file:
            weights = Path(self.config.weights)
        if weights is None:
            sha256 = sha256_tensors(network.state_dict())
        else:
            tensors = read(weights, network, self.config.arch)
            network.load_state_dict(network.state_dict() | tensors)
            sha256 = sha256_file(weights)
        return self.backbone(as_graph(OwnMaps(network)), shape, sha256, form, fuse=False).to(device)

    def fetch(self, mirror: Path | None = None) -> None:
        """Do nothing: the module has its weights, or gets them itself."""


def imported(arch: str) -> Callable[..., Any]:
    """Return the callable of an import path `package.module:name`. Raises UserError in one line.

    It is a subclass of nn.Module, or a function of the module or of its top-level package: an import path
    alone must not call whatever a module happens to import.
    """
    module_name, _, attribute = arch.partition(":")
    source_hash(module_name)  # names what is missing
    with _working_folder(), _reported(f"arch {arch}: importing {module_name} fails"):
        module = importlib.import_module(module_name)
    made = getattr(module, attribute, None)
    if made is None:
        names = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise UserError(f"arch {arch}: {module_name} has no {attribute!r}{nearest(attribute, names)}")
    if isinstance(made, nn.Module) or not callable(made):
        raise UserError(
            f"arch {arch}: {attribute} is no class or function: name one that returns the network"
        )
    if not (isinstance(made, type) and issubclass(made, nn.Module)) and not _is_function_of(
        module_name, made
    ):
        raise UserError(
            f"arch {arch}: {attribute} is neither a subclass of torch.nn.Module nor a function defined in "
            f"{module_name} or its package: define a function there that returns the network"
        )
    return made


def _is_function_of(module_name: str, made: object) -> bool:
    home = getattr(made, "__module__", None) or ""
    return inspect.isfunction(made) and home.split(".")[0] == module_name.split(".")[0]


def source_hash(module_name: str) -> str:
    """Return the hex SHA-256 of a module's Python files, wherever they are.

    The module itself is not run. For `package.module`, the import system runs the package's __init__.py to
    find it.

    Hashed are the file of the module, or all .py files of its package, and likewise of the modules next to
    them that they import. Raises UserError if there is no such module, and for Python's standard library.
    """
    if module_name.split(".")[0] in sys.stdlib_module_names:
        raise UserError(
            f"arch: {module_name} is a module of Python's standard library, which has no networks: "
            "write package.module:name of another"
        )
    hashed: dict[str, str] = {}
    pending, folder = [module_name.split(".")[0]], None
    while pending:
        name = pending.pop()
        if name in hashed or name == PACKAGE:
            continue
        files = dict(_files(name))
        if not files and folder is None:
            break
        state = hashlib.sha256()
        for relative, path in sorted(files.items()):
            content = path.read_bytes()
            state.update(f"{relative} {len(content)}\n".encode() + content)
            folder = folder or path.parents[len(Path(relative).parts) - 1]
            if not INSTALLED & set(folder.parts):
                pending += [other for other in _imports(content) if _is_in(folder, other)]
        hashed[name] = state.hexdigest()
    with _working_folder():
        is_there = hashed and _spec(module_name) is not None
    if not is_there:
        raise UserError(
            f"arch: there is no module {module_name!r} in {os.getcwd()} or among the installed packages: "
            "write package.module:name"
        )
    return hashlib.sha256(repr(sorted(hashed.items())).encode()).hexdigest()


def _spec(name: str) -> Any:
    """Return the import system's specification of a module; None if there is no such module."""
    with _reported(f"arch: importing {name} fails"):
        try:
            return importlib.util.find_spec(name)
        except ModuleNotFoundError as error:
            if error.name and (name == error.name or name.startswith(f"{error.name}.")):
                return None
            raise
        except ValueError:  # a module without a specification
            return None


def _files(name: str) -> Iterator[tuple[str, Path]]:
    """Yield the Python files of a top-level module or package, with their paths below the folder it is in."""
    with _working_folder():
        spec = _spec(name) if name.isidentifier() else None
    for place in map(Path, (spec.submodule_search_locations or []) if spec else []):
        for path in place.rglob("*.py"):
            yield path.relative_to(place.parent).as_posix(), path
    if spec and not spec.submodule_search_locations and spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin).name, Path(spec.origin)


def _imports(content: bytes) -> set[str]:
    """Return the top-level names of the modules that a file imports."""
    try:
        nodes = list(ast.walk(ast.parse(content)))
    except (SyntaxError, ValueError):
        return set()  # its import reports this
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level]
    return {name.split(".")[0] for name in names if name}


def _is_in(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """Find modules in the working folder too, after all others. Snakemake's scripts start without it."""
    folder = os.getcwd()
    is_new = folder not in sys.path and "" not in sys.path
    try:
        if is_new:
            sys.path.append(folder)
        importlib.invalidate_caches()
        yield
    finally:
        if is_new:
            sys.path.remove(folder)


@contextlib.contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Restore the states of the global generators of PyTorch (CPU), Python and NumPy afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextlib.contextmanager
def _reported(what: str) -> Iterator[None]:
    """Turn what the user's code raises into a UserError of one line."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        raise UserError(f"{what} ({type(error).__name__}{': ' if reason else ''}{reason})") from None
