"""Vega, Vega-Lite and vega-embed as text for the page; vega/README.md has their versions and source."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

from sharc_core.common.errors import UserError

FOLDER = Path(__file__).parent / "vega"
# SHA-256 of the release files, in the order in which the page needs them.
FILES = {
    "vega.min.js": "8f6a3587cf8d4f42c7e08120e3eb05d067e746d554e39d2dcf52acc0bd5ba28f",
    "vega-lite.min.js": "83e215e84e308ee8688fa6503ba0f1cf8a3c05c0d61df2841a0b92bf86809e00",
    "vega-embed.min.js": "b1455caba2fb1a72fb46025ba0ba1316e2dbc7f0dd40a3f6040172bf9c08ba91",
}


@lru_cache
def vega_script() -> str:
    """Return the three libraries as the content of one <script>, after their licence.

    Comments that name source maps are removed, because a browser's developer tools would load the maps.
    Raises UserError if a file is missing or does not have its checksum.
    """
    parts = [f"/*\n{(FOLDER / 'LICENSE').read_text(encoding='utf-8')}*/"]
    for name, checksum in FILES.items():
        path = FOLDER / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != checksum:
            raise UserError(f"{path} is missing or was changed: install SHARC-Bench again")
        parts.append(re.sub(r"(?m)^//# sourceMappingURL=.*$", "", content.decode("utf-8")).strip())
    script = "\n".join(parts)
    assert "</script" not in script.lower() and "<!--" not in script  # either would end the element early
    return script
