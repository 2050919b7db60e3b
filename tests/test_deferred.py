"""Libraries that are imported on first use, and what stands for their names until then."""

import subprocess
import sys

import pytest
import torch

from sharc_core.common import deferred
from sharc_core.common.deferred import Deferred, DeferredName, KeptConstants, exports
from sharc_core.provenance.statements import _parsed

STAND_INS = """
import sys
from collections.abc import Callable
from sharc_core.common.deferred import torch

def f(x: torch.Tensor, where: str | torch.device, y: torch.Tensor | None = None) -> list[torch.Tensor]:
    return [x]

Alias = Callable[[torch.Tensor], None] | None

class Stored:
    dtype = torch.float16
    largest = torch.finfo(torch.float16).max * 2

@torch.enable_grad()
def slope():
    return torch.is_grad_enabled()

assert "torch" not in sys.modules
try:
    {torch.float16: 1}
except TypeError:
    pass
else:
    raise AssertionError("a stand-in as a key")
dtype = Stored().dtype
assert "torch" in sys.modules
import torch as real
assert dtype is Stored.dtype is real.float16
assert Stored.largest == real.finfo(real.float16).max * 2
with real.no_grad():
    assert slope() and not torch.is_grad_enabled()
    assert slope()  # entered again
assert torch.Tensor is real.Tensor and torch.__version__ == real.__version__
"""
# The first use is that of a stand-in, which imports torch.
USES = [
    "assert not isinstance(5, torch.Tensor)",
    "assert str(torch.device('cpu')) == 'cpu'",
    "assert torch.float32.itemsize == 4",
    "assert torch.zeros(2).tolist() == [0, 0]",
    "with torch.no_grad(): assert not torch.is_grad_enabled()",
    "t = torch.no_grad(); t.__enter__(); t.__exit__(None, None, None); assert torch.is_grad_enabled()",
    "from sharc_core.common.deferred import one_hot; import numpy; assert 'torch' not in sys.modules",
]


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_modules_that_mention_torch_are_imported_without_it():
    run(STAND_INS)


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
def test_first_uses(use):
    run(f"import sys\nfrom sharc_core.common.deferred import torch\n{use}")


def test_an_imported_library_is_itself():
    assert deferred.torch.Tensor is torch.Tensor and deferred.torch.float16 is torch.float16
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = deferred.torch.no_such_name


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_limits_of_types_are_those_of_torch(name):
    found = deferred._finfo(DeferredName("torch", name)).max
    assert type(found) is float and found == torch.finfo(getattr(torch, name)).max


def test_constants_are_kept_for_later_processes(tmp_path, monkeypatch):
    file = tmp_path / "__pycache__/kept.json"
    monkeypatch.setattr(deferred, "kept_file", lambda module, name: file)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    published = KeptConstants("torchvision.datasets", "CIFAR10")
    url = published.url
    assert url.startswith("https://") and published.train_list[0][0] == "data_batch_1"
    assert "train_list" not in file.read_text()  # only text is kept
    monkeypatch.setattr(deferred.importlib, "import_module", lambda name: pytest.fail("imported again"))
    assert published.url == url
    monkeypatch.setattr(deferred.metadata, "version", lambda name: "another")
    with pytest.raises(pytest.fail.Exception):
        _ = published.url


PACKAGE = """
import sys
from sharc_core.backbones import Backbone, BackboneConfig
assert "sharc_core.backbones.model" not in sys.modules
from sharc_core.backbones import load_backbone
from sharc_core.backbones.model import Backbone as real, load_backbone as loads
import sharc_core.backbones as package
assert package.Backbone is real and load_backbone is loads
"""


@pytest.mark.slow
def test_a_package_exports_names_of_a_module_on_first_use():
    run(PACKAGE)


def test_other_names_of_a_package_are_unknown():
    get = exports("json.decoder", ["JSONDecoder"], [])
    assert get("JSONDecoder").__module__ == "json.decoder"
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'scanner'"):
        get("scanner")


def test_a_deferred_module_is_imported_on_first_use(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    colours = Deferred("colorsys", ["ONE_THIRD"])
    assert isinstance(colours.ONE_THIRD, DeferredName) and "colorsys" not in sys.modules
    assert colours.rgb_to_hsv(0, 0, 0) == (0, 0, 0)
    assert colours.ONE_THIRD == 1 / 3


# --- code hashes -----------------------------------------------------------------------------------------

SAME = [
    ("from sharc_core.common.deferred import torch", "import torch", "x = torch.ones(1)"),
    ("from sharc_core.common.deferred import torch", "import torch", "x = 1"),
    ("from sharc_core.common.deferred import pandas as pd", "import pandas as pd", "x = pd.DataFrame()"),
    (
        "from sharc_core.common.deferred import torchvision_datasets as datasets",
        "from torchvision import datasets",
        "x = datasets.CIFAR10",
    ),
    (
        "from sharc_core.common.deferred import normalize, one_hot",
        "from torch.nn.functional import normalize, one_hot",
        "x = normalize(one_hot(1))",
    ),
]


@pytest.mark.parametrize(("deferred_form", "plain", "code"), SAME)
def test_a_deferred_import_is_hashed_as_the_import_it_stands_for(deferred_form, plain, code):
    assert _parsed(f"{deferred_form}\n{code}\n") == _parsed(f"{plain}\n{code}\n")
    assert _parsed(f"{deferred_form}\n{code}\n") != _parsed(f"import numpy\n{code}\n")


EAGER = """
from sharc_core.backbones.config import Config
from sharc_core.backbones.model import Backbone
__all__ = ["Backbone", "Config"]
"""
ON_FIRST_USE = """
from typing import TYPE_CHECKING
from sharc_core.backbones.config import Config
from sharc_core.common.deferred import exports
if TYPE_CHECKING:
    from sharc_core.backbones.model import Backbone
__all__ = ["Backbone", "Config"]
__getattr__ = exports("sharc_core.backbones.model", __all__, ["Backbone"])
"""


def test_a_package_that_exports_on_first_use_is_hashed_as_one_that_imports():
    eager, lazy = _parsed(EAGER), _parsed(ON_FIRST_USE)
    assert lazy.digest == eager.digest
    assert set(eager.imports) <= set(lazy.imports)
    assert [item for item in lazy.imports if item.is_used] == [i for i in eager.imports if i.is_used]
    assert _parsed(ON_FIRST_USE.replace('["Backbone", "Config"]', '["Config"]')).digest != lazy.digest


def test_blocks_for_type_checkers_count_in_other_modules():
    code = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json\nx = 1\n"
    assert _parsed(code).digest != _parsed("x = 1\n").digest
