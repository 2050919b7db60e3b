"""The direction of flow: nothing imports what lies downstream of it, and plug-ins stay short."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sharc_core"

# Lower numbers know nothing of higher ones. Modules of equal rank do not import each other, except
# within a package.
RANKS = {
    "errors": 0, "settings": 0, "pooling": 0, "templates": 0,
    "registry": 1, "files": 1, "device": 1, "determinism": 1, "differences": 1, "origin": 2, "lineage": 3,
    "call": 0, "documents": 3, "comparison": 16,
    "integrity": 2, "seeds": 2, "metrics": 1, "labels": 1, "published": 2, "render": 2,
    "encoding": 2, "cell": 2, "views": 2, "protocol": 2,
    "datasets": 3, "backbones": 3, "streams": 3, "heads": 3,
    "pretrain": 4, "features": 4, "saliency": 4, "associative": 4, "budget": 4,
    "recall_settings": 4,
    "expansion": 1, "workflow_call": 1, "filling": 1, "config_blocks": 3, "completion": 4.5, "reservoir": 5.5,
    "explain": 2, "sub_grid": 2, "memory": 5, "methods": 6, "capacity": 7, "drifting": 7, "config": 8,
    "unroll": 9, "overrides": 9,
    "inputs": 11, "learner": 9, "provenance": 9,
    "results": 9,
    "batches": 10, "pipeline": 10, "summary": 10, "pairs": 11, "figures": 12, "claims": 11,
    "tables": 12, "findings": 12, "setups": 12, "protocol_effects": 12,
    "verdicts": 13, "scorecard": 14, "report": 15, "studies": 13, "record": 14, "table_files": 15,
    "__init__": 16, "verify": 16, "__main__": 17,
}  # fmt: skip


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The module or package directly under sharc_core that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sharc_core."):
            found.add(node.module.split(".")[1])
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("sharc_core.")}
    return found


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_flow_one_way(path):
    own = unit(path)
    assert own in RANKS, f"say where {own} stands in RANKS"
    for other in imports(path) - {own}:
        assert RANKS[other] < RANKS[own], f"{own} must not import {other}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_fit_in_the_head(path):
    assert len(path.read_text().splitlines()) <= 480


@pytest.mark.parametrize(
    ("name", "lines"), [("er", 45), ("derpp", 45), ("agem", 40), ("gem", 80), ("sgd", 30)]
)
def test_methods_stay_equation_sized(name, lines):
    assert len((PACKAGE / "methods" / f"{name}.py").read_text().splitlines()) <= lines


def test_no_pickle():
    """Nothing that was downloaded is ever unpickled, but by the reader that looks up no function."""
    for path in modules():
        text = path.read_text()
        assert "import pickle" not in text, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module == "pickle":
                names = {alias.name for alias in node.names}
                own = {"_Unpickler"} if path.name == "restricted_pickle.py" else set()
                assert names <= {"UnpicklingError"} | own, path
        assert "torch.load(" not in text or "weights_only=True" in text, path
        assert "allow_pickle=True" not in text, path
