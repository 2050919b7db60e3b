"""Studies: experiments next to the grid's own cells, one file or folder each; see base.py."""

from sharc_core.studies.base import STUDIES, Job, Results, Stage, Study

__all__ = ["STUDIES", "Job", "Results", "Stage", "Study"]
