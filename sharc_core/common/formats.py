"""Format numbers, bytes and names as text, and sort names."""

import math
import re

DASH = "–"


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Return a sort key that puts s_cifar10 before s_cifar100 and x2 before x10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", str(name))
    return tuple((not p.isdecimal(), int(p) if p.isdecimal() else 0, p) for p in parts)


def bytes_text(count: float) -> str:
    """Format bytes in decimal units: 512 B, 20.5 kB, 1.43 MB (1 kB = 1000 B). NaN becomes a dash."""
    if math.isnan(count):
        return DASH
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            break
        count /= 1000
    digits = 0 if unit == "B" or count >= 99.95 else 1 if count >= 9.995 else 2
    return f"{count:.{digits}f} {unit}"


def number_text(value: float, signed: bool = False) -> str:
    """Format a number with two decimals, never as "-0.00". NaN becomes a dash."""
    if math.isnan(value):
        return DASH
    text = f"{value:+.2f}" if signed else f"{value:.2f}"
    return text.replace("-", "+" if signed else "") if float(text) == 0 else text


def mean_text(mean: float, std: float) -> str:
    """Format mean and standard deviation as `86.70 ± 0.51`. A NaN deviation (one seed) becomes a dash.

    Returns a single dash for a NaN mean.
    """
    return DASH if math.isnan(mean) else f"{number_text(mean)} ± {number_text(std)}"


def escape_markdown(text: str) -> str:
    """Escape characters that would end a field or start markup. Underscores inside words need no escape."""
    return re.sub(r"([\\|*`]|<(?=[A-Za-z/!?])|(?<=\])\()", r"\\\1", " ".join(text.split()))
