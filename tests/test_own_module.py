"""A network by import path: imports, output, weights, what identifies it, and a real run."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from snake import copy_project, sharc_core, snakemake
from test_config import changed

from sharc_core.backbones import BackboneConfig
from sharc_core.backbones.networks import network_of
from sharc_core.backbones.own_module import OwnModule, source_hash
from sharc_core.common.errors import UserError
from sharc_core.common.files import read_json, sha256_file
from sharc_core.grid.loading import load_grid
from sharc_core.stages.layout import Layout
from sharc_core.stages.preflight import check_inputs

torch.set_num_threads(1)
NETS = """
import torch
from torch import nn

from own_blocks import block

torch.zeros(1)
not_callable = 3


class Maps(nn.Module):
    def __init__(self, channels=4, returned="maps"):
        super().__init__()
        self.layers = block(channels)
        self.returned = returned

    def forward(self, images):
        maps = self.layers(images)
        shapes = {"maps": maps, "vectors": maps.mean((2, 3)), "tokens": maps.flatten(2), "pair": (maps, maps)}
        return shapes | {"integers": maps.long(), "one": maps[:1]} [self.returned]


instance = Maps()


def crashes():
    raise RuntimeError("no weights\\nanywhere")


def number():
    return 3
""".replace("shapes | {", "(shapes | {").replace("} [", "})[")
BLOCKS = """
from torch import nn


def block(channels):
    return nn.Sequential(nn.Conv2d(3, channels, 3, 2), nn.BatchNorm2d(channels), nn.ReLU())
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Two modules next to each other in the working folder, of which one imports the other."""
    (tmp_path / "own_nets.py").write_text(NETS)
    (tmp_path / "own_blocks.py").write_text(BLOCKS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def network(arch="own_nets:Maps", weights="module", **settings) -> OwnModule:
    config = BackboneConfig(**{"arch": arch, "weights": str(weights), "image_size": 16} | settings)
    made = network_of(config)
    assert isinstance(made, OwnModule)
    return made


def line_on(made) -> str:
    """Return the error for a network that the check refuses."""
    with pytest.raises(UserError) as error:
        made.check()
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(("returned", "shape"), [("maps", (4, 7, 7)), ("vectors", (4, 1, 1))])
def test_maps_and_vectors(nets, returned, shape):
    made = network(arch_settings={"returned": returned})
    assert made.check() == shape and made.has_batch_norm()
    backbone = made.load(None, "cpu")
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        expected = made.skeleton()(images)
        assert torch.allclose(backbone(images), expected.reshape(2, *shape), atol=1e-6)
    described = backbone.describe()
    assert described["sha256"] == made.weights_identity
    assert described["source"] == made.source and described["arch_settings"] == {"returned": returned}


def test_random_weights_are_the_same_every_time(nets):
    before = torch.get_rng_state()
    assert network().weights_identity == network().weights_identity
    assert torch.equal(before, torch.get_rng_state())
    assert network(arch_settings={"channels": 5}).weights_identity != network().weights_identity


def test_weights_of_a_file(nets):
    tensors = network(arch_settings={"channels": 4}).skeleton().state_dict()
    tensors = {name: torch.ones_like(tensor) for name, tensor in tensors.items()}
    torch.save({"state_dict": {f"model.{name}": tensor for name, tensor in tensors.items()}}, "mine.ckpt")
    made = network(weights="mine.ckpt")
    made.check()
    loaded = made.load(None, "cpu").body.network.network
    assert all(bool((tensor == 1).all()) for tensor in loaded.state_dict().values())
    torch.save({name: tensor for name, tensor in tensors.items() if "0" not in name}, "mine.ckpt")
    assert "tensor layers.0.weight is missing" in line_on(made)


@pytest.mark.reliability("own-module")
@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("own_netz:Maps", "there is no module 'own_netz' in "),
        ("own_nets.inner:Maps", "there is no module 'own_nets.inner' in "),
        ("own nets:Maps", "there is no module 'own nets' in "),
        (":Maps", "there is no module '' in "),
        ("own_nets:Map", r"own_nets has no 'Map' (did you mean 'Maps'?)"),
        ("own_nets:", "own_nets has no ''"),
        ("own_nets:not_callable", "not_callable is no class or function"),
        ("own_nets:instance", "instance is no class or function"),
        ("own_nets:number", "returns int, not a torch.nn.Module"),
        ("own_nets:crashes", "cannot be built (RuntimeError: no weights)"),
        ("own_broken:Maps", "importing own_broken fails (ZeroDivisionError: division by zero)"),
        ("own_exits:Maps", "importing own_exits fails (SystemExit: 3)"),
        ("own_needs:Maps", "importing own_needs fails (ModuleNotFoundError: No module named 'own_absent')"),
        ("own_text:Maps", "importing own_text fails (SyntaxError: "),
    ],
)
def test_what_cannot_be_imported_or_built(nets, arch, message):
    (nets / "own_broken.py").write_text("1 / 0")
    (nets / "own_exits.py").write_text("raise SystemExit(3)")
    (nets / "own_needs.py").write_text("import own_absent")
    (nets / "own_text.py").write_text("no python")
    assert message in line_on(network(arch))


@pytest.mark.reliability("own-module")
@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("subprocess:getoutput", "subprocess is a module of Python's standard library"),
        ("os.path:join", "os.path is a module of Python's standard library"),
        (
            "own_calls:getoutput",
            "getoutput is neither a subclass of torch.nn.Module nor a function defined in",
        ),
        ("own_calls:Popen", "Popen is neither a subclass of torch.nn.Module nor a function defined in"),
        ("own_calls:run_it", "run_it is neither a subclass of torch.nn.Module nor a function defined in"),
    ],
)
def test_an_import_path_calls_nothing_but_networks(nets, monkeypatch, arch, message):
    def called(*_, **__):
        raise AssertionError("called")

    monkeypatch.setattr(subprocess.Popen, "__init__", called)
    (nets / "own_calls.py").write_text(
        "import functools\nfrom subprocess import Popen, getoutput\nrun_it = functools.partial(getoutput)\n"
    )
    assert message in line_on(network(arch, arch_settings={"cmd": "true"}))


def test_functions_of_the_package_make_networks(nets):
    (nets / "own_package").mkdir()
    (nets / "own_package/__init__.py").write_text("from own_package.inner import make\n")
    (nets / "own_package/inner.py").write_text(
        "from own_nets import Maps\n\n\ndef make():\n    return Maps()\n"
    )
    for arch in ("own_package:make", "own_package.inner:make", "own_package.inner:Maps"):
        assert network(arch).check() == (4, 7, 7)


def test_random_weights_of_python_and_numpy_are_the_same_every_time(nets):
    (nets / "own_random.py").write_text(
        "import random\nimport numpy as np\nfrom torch import nn\n\n\n"
        "def make():\n    layer = nn.Conv2d(3, 2, 1)\n"
        "    nn.init.constant_(layer.bias, random.random())\n"
        "    nn.init.constant_(layer.weight, np.random.rand())\n    return layer\n"
    )
    hashes = set()
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        before, drawn = random.getstate(), np.random.get_state()[1].copy()
        hashes.add(network("own_random:make").weights_identity)
        assert random.getstate() == before and np.array_equal(np.random.get_state()[1], drawn)
    assert len(hashes) == 1


@pytest.mark.reliability("own-module")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"arch_settings": {"returned": "tokens"}},
            "float32 of shape [2, 4, 49] for 2 images: it",
        ),
        (
            {"arch_settings": {"returned": "pair"}},
            "returns tuple for images: it must return maps",
        ),
        ({"arch_settings": {"returned": "integers"}}, "returns torch.int64 of shape [2, 4, 7, 7]"),
        ({"arch_settings": {"returned": "one"}}, "of shape [1, 4, 7, 7] for 2 images"),
        ({"arch_settings": {"depth": 3}}, "cannot be built (TypeError: "),
        ({"image_size": 1}, "fails on images of [2, 3, 1, 1] (RuntimeError: "),
        ({"tokens": "cls"}, "tokens cls: a module returns its maps itself"),
    ],
)
def test_output_that_is_no_maps(nets, settings, message):
    assert message in line_on(network(**settings))


@pytest.mark.reliability("own-module")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": "pretrain"}, r"arch own_nets:Maps takes module .* or the path of a file"),
        ({"weights": "imagenet1k_v1"}, "weights 'imagenet1k_v1': arch own_nets:Maps takes module"),
        ({"arch": "resnet18"}, "weights module needs the import path of a module as arch"),
        ({"image_size": None}, "image_size is missing"),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        network(**settings)


def test_a_grid_is_refused_in_one_line(nets):
    block = {"arch": "own_nets:Map", "weights": "module", "image_size": 32}
    with pytest.raises(UserError, match=r"^config: backbone: arch own_nets:Map: own_nets has no 'Map'"):
        check_inputs(load_grid(changed("backbone", block) | {"data_dir": str(nets)}))


def test_the_source_identifies_the_features(nets):
    """Of the module, of modules next to it that it imports, and of its package."""
    first = source_hash("own_nets")
    (nets / "unused.py").write_text("x = 1")
    assert source_hash("own_nets") == first
    (nets / "own_blocks.py").write_text(BLOCKS + "# changed")
    second = source_hash("own_nets")
    (nets / "own_nets.py").write_text(NETS + "# changed")
    assert len({first, second, source_hash("own_nets")}) == 3
    (nets / "own_package").mkdir()
    for name in ("__init__", "nets", "other"):
        (nets / f"own_package/{name}.py").write_text("x = 1")
    before = source_hash("own_package.nets")
    (nets / "own_package/other.py").write_text("x = 2")
    assert source_hash("own_package.nets") != before
    (nets / "own_package").rename(nets / "elsewhere")
    with pytest.raises(UserError, match="there is no module"):
        source_hash("own_package.nets")


def test_features_have_other_names_after_a_change(nets):
    block = {"arch": "own_nets:Maps", "weights": "module", "image_size": 32, "name": "own"}
    names = set()
    for text, settings in ((NETS, {}), (NETS + "# changed", {}), (NETS, {"channels": 5})):
        (nets / "own_nets.py").write_text(text)
        grid = load_grid(changed("backbone", block | {"arch_settings": settings}))
        names.add(Layout(grid).features("s_digits", "own"))
    assert len(names) == 3


@pytest.mark.pipeline
def test_a_real_run(tmp_path):
    """Maps of one's own module, with a checkpoint of a training script, by Snakemake."""
    copy_project(tmp_path)
    (tmp_path / "own_nets.py").write_text(NETS)
    (tmp_path / "own_blocks.py").write_text(BLOCKS)
    torch.manual_seed(0)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, 2), torch.nn.BatchNorm2d(6))
    tensors = {f"module.layers.{name}": tensor for name, tensor in layers.state_dict().items()}
    torch.save({"state_dict": tensors}, tmp_path / "own.pth")
    own = {"arch": "own_nets:Maps", "image_size": 16, "arch_settings": {"channels": 6}}
    grid = {
        "datasets": {"s_glyphs": {"source": "glyphs", "classes": 4, "tasks": 2, "train_per_class": 8}},
        "backbone": [own | {"weights": "own.pth"}, own | {"weights": "module", "name": "untrained"}],
        "methods": ["sgd"],
        "seeds": [0],
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(grid))
    names = ("own_nets_Maps-own", "untrained")
    targets = [f"results/matrices/s_glyphs/{name}/sgd.json" for name in names]
    run = snakemake(tmp_path, *targets, "--configfile", "own.yaml")
    assert run.returncode == 0, run.stdout + run.stderr
    documents = [read_json(tmp_path / target)["trainings"][0] for target in targets]
    assert documents[0]["origin"]["weights"] == sha256_file(tmp_path / "own.pth")
    assert documents[0]["origin"]["features"] != documents[1]["origin"]["features"]
    (tmp_path / "own_blocks.py").write_text("from torch import nn")
    refused = sharc_core(tmp_path, "check", "--config", "own.yaml")
    assert refused.returncode == 1 and "importing own_nets fails (ImportError: " in refused.stdout
