"""Figures, one file per kind: SVG and PNG with reproducible bits, and a JSON file with their captions."""

from sharc_core.figures.captions import alt_text
from sharc_core.figures.curves import curves_of
from sharc_core.figures.first_task import first_task_of
from sharc_core.figures.memory_bytes import pareto_front
from sharc_core.figures.style import COLOURS, FURTHER, STYLE, look, save
from sharc_core.figures.write import write_figures

__all__ = [
    "COLOURS",
    "FURTHER",
    "STYLE",
    "alt_text",
    "curves_of",
    "first_task_of",
    "look",
    "pareto_front",
    "save",
    "write_figures",
]
