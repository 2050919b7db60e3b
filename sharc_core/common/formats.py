"""How numbers, bytes and names are written as text, and the order in which names are listed."""

import math
import re

DASH = "–"


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key that puts s_cifar10 before s_cifar100 and x2 before x10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", str(name))
    return tuple((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)


def bytes_text(count: float) -> str:
    """Bytes in decimal units: 512 B, 20.5 kB, 1.43 MB (1 kB = 1000 B). A dash for NaN."""
    if math.isnan(count):
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    digits = 0 if unit == "B" or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {unit}"


def number_text(value: float, signed: bool = False) -> str:
    """Two decimals, a dash for NaN; never "-0.00"."""
    if math.isnan(value):
        return DASH
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("-", "+" if signed else "") if float(text) == 0 else text


def mean_text(mean: float, std: float) -> str:
    """`86.70 ± 0.51`; the deviation is a dash for a single seed, the whole is one for NaN."""
    return DASH if math.isnan(mean) else f"{number_text(mean)} ± {number_text(std)}"


def escape_markdown(text: str) -> str:
    """Escape what would end a field or start markup; underscores inside words are harmless."""
    return re.sub(r"([\\|*`]|<(?=[A-Za-z/!?])|(?<=\])\()", r"\\\1", " ".join(text.split()))
