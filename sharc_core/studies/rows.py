"""Files of a study's jobs: where they lie, what they are made from, and their rows as CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharc_core.common.deferred import pandas as pd
from sharc_core.common.errors import UserError
from sharc_core.common.files import digest, write_text
from sharc_core.learning.documents import features_name
from sharc_core.provenance.code_hashes import job_hash
from sharc_core.provenance.lineage import FIELDS, origin_fields
from sharc_core.stages.layout import Layout
from sharc_core.studies.base import Job, Study, code_of

KEY = "key"  # column of job_key


def job_file(study: Study, job: Job) -> str:
    """Return the path of a job's rows below results_dir."""
    return f"{study.name}/{job.dataset}/{job.backbone}/{job.name}.csv"


def job_key(study: Study, job: Job, layout: Layout) -> str:
    """Return a hash of all that a job's rows are a function of: settings, code and features."""
    code = job_hash(*(code_of(study) if job.code is None else job.code))
    features = features_name(layout.features(job.dataset, job.backbone))
    return digest([job.dataset, job.backbone, job.name, dict(job.settings), code, features], 16)


def is_measured(path: Path | str, key: str) -> bool:
    """Whether a file has rows and all of them have this key."""
    try:
        with open(path, encoding="utf-8", newline="") as lines:
            keys = {row.get(KEY) for row in csv.DictReader(lines)}
    except (OSError, ValueError, csv.Error):
        return False
    return keys == {key}


def write_rows(frame: pd.DataFrame, path: Path | str, made_by: Mapping[str, Any], key: str) -> None:
    """Write one job's rows as CSV at full precision. made_by: has `origin` and `versions`. key: job_key."""
    rows = frame.assign(**origin_fields(made_by), **{KEY: key})[[*frame.columns, *FIELDS, KEY]]
    write_text(path, rows.to_csv(index=False, lineterminator="\n"))


def read_rows(study: Study, paths: Sequence[Path | str], keys: Sequence[str]) -> pd.DataFrame:
    """Return the rows of all jobs in one frame, in the order of the files. keys: wanted of each file.

    Raises UserError for a damaged file and for one that was made with other settings, code or features.
    """
    if not paths:
        raise UserError(study.no_jobs)
    own = [*FIELDS, KEY]
    types = {**study.columns, **FIELDS, KEY: "str"}
    frames = []
    for path, key in zip(paths, keys, strict=True):
        try:
            frame = pd.read_csv(path, dtype=types)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): delete it and run again") from None
        expected = [*(study.columns or frame.columns[: -len(own)]), *own]
        if list(frame.columns) != expected:
            raise UserError(f"{path} has other columns than study {study.name}: delete it and run again")
        if set(frame[KEY]) != {key}:
            raise UserError(
                f"{path} is not this grid's (it was measured with other settings, code or features): run "
                "snakemake again, or delete it"
            )
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)
