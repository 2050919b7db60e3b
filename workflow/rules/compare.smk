# What is on disk against what the grid wants: which cells are trained, which tables are made again. Rules offer
# to make what is missing or not the grid's, and are forced to; all else is a file that no rule makes. Snakemake's
# notes and the files' times say nothing here: see sharc_core/verification/comparison.py. Job processes, and calls that only
# look (--report, --delete-all-output ...), are offered everything.


def one_of(names):
    """A wildcard's constraint: no rule offers to make what the grid does not have."""
    return "|".join(map(re.escape, names)) or "(?!)"


def below(folder, paths):
    """Names of files below a folder of the results, without their endings: what a wildcard stands for."""
    return [str(Path(path).relative_to(result(folder)).with_suffix("")) for path in paths]


def offered(paths, is_there, *rules):
    """Those of some files that rules offer to make: not there, or to be made anew because they were asked for."""
    if not call.compares:
        return list(paths)
    names = [workflow.modifier.modify_rulename(rule) for rule in rules]
    return [path for path in paths if call.is_forced(names, path) or not is_there(path)]


def right_card(path):
    """A copy in the results of a card in data_dir, as long as that is there to compare with."""
    card = Path(CARDS[path])
    return Path(path).exists() and not (card.exists() and card.read_bytes() != Path(path).read_bytes())


def there(paths, offered):
    """Files that were asked for by name and are there: a rule of theirs has nothing to do."""
    return [path for path in paths if call.compares and call.is_target(path) and path not in offered]


found.forced.update(offered(CELLS, lambda path: True, "cell", "cells", "document") if call.compares else ())
TO_TRAIN = offered(CELLS, found.is_finished, "cell", "cells", "document")
TO_COPY = offered(CARDS, right_card, "card")
RECALL_KEYS = {path: recall_key(job, layout) for path, job in RECALL.items()}
TO_MEASURE = offered(RECALL, lambda path: is_measured(path, RECALL_KEYS[path]), "recall_memory")

# What each stage's files are made from, besides the files of the stages that it comes after. The first of
# them reads the cells' documents.
COMES_AFTER = {
    "tables": ["runs"],
    "figures": ["runs"],
    "report": ["runs", "figures"],
    "provenance": ["runs", "tables", "figures", "report"],
    "recall_provenance": ["recall_tables", "recall_figures", "recall_pictures"],
}
STAGES = {
    "runs": [
        [[found.wanted(path).key, MEMBERS[path]] for path in CELLS],
        below(".", CELLS),
        stage_hash("results.runs"),
    ],
    "tables": [list(STUDIES), grid.config_hash, stage_hash(*TABLE_CODE["grid"]), sha256_file(PUBLISHED)],
    "figures": [
        {name: [study.figure, study.title] for name, study in grid.studies.items()},
        grid.config_hash,
        stage_hash("figures", "results.runs"),
    ],
    "report": [
        grid.config_hash,
        stage_hash("report.page", "report/templates", "results.published", "results.runs"),
        sha256_file(PUBLISHED),
        sorted(map(os.path.basename, CARDS)),
    ],
    "provenance": [grid.data_dir, stage_hash("verification.record")],
}
RECALL_STAGES = {
    "recall_tables": [
        list(RECALL_KEYS.values()),
        grid.recall.model_dump(mode="json"),
        grid.config_hash,
        stage_hash(*TABLE_CODE["recall"]),
    ],
    "recall_figures": [
        list(RECALL_KEYS.values()),
        stage_hash("studies.recall_figures", "studies.recall_table"),
    ],
    "recall_pictures": [
        recall_settings(grid),
        [grid.recall.pictures, grid.recall.side],
        stage_hash("studies.recall_figures"),
        [recall_hash(memory["kind"]) for memory in recall_settings(grid).values()],
    ],
    "recall_provenance": [grid.data_dir, stage_hash("verification.record")],
}
OUTPUTS = {
    "runs": [result("runs.csv")],
    "tables": TABLES,
    "figures": FIGURES,
    "report": [result("report.html")],
    "provenance": [result(NAMES["grid"])],
    "recall_tables": RECALL_TABLES,
    "recall_figures": RECALL_FIGURES,
    "recall_pictures": RECALL_PICTURES,
    "recall_provenance": [result(NAMES["recall"])],
}


def keys_of(stages):
    scripts = {stage: script_of(f"{stage}.py") for stage in stages}
    return stage_keys({stage: [content, scripts[stage]] for stage, content in stages.items()}, COMES_AFTER)


KEYS, RECALL_STAGE_KEYS = keys_of(STAGES), keys_of(RECALL_STAGES)


OUTDATED_STAGES = set(OUTPUTS)
if call.compares:
    for line in found.notes():
        print(line, file=sys.stderr)
    for stages, keys, record, sources, making in (
        (STAGES, KEYS, NAMES["grid"], {"runs": CELLS, "report": CARDS}, TO_TRAIN),
        (
            *(RECALL_STAGES, RECALL_STAGE_KEYS, NAMES["recall"]),
            *({"recall_tables": RECALL, "recall_figures": RECALL}, TO_MEASURE),
        ),
    ):
        if not making:
            OUTDATED_STAGES -= set(stages)
            OUTDATED_STAGES |= outdated_stages(Path(result(record)), keys, COMES_AFTER, OUTPUTS, sources)
    call.force([*TO_TRAIN, *TO_MEASURE, *TO_COPY, *(path for stage in OUTDATED_STAGES for path in OUTPUTS[stage])])


ASKED_FOR = any(call.is_forced([stage], path) for stage, paths in OUTPUTS.items() for path in paths)


def read_by(stage, paths):
    """What a stage reads. Where its files are right they stay, however young the times of these are."""
    return paths if stage in OUTDATED_STAGES or ASKED_FOR else ancient(paths)
