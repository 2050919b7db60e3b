# What is made from the cells. `snakemake --report` shows what is marked as reported.
# key: a hash of all that a rule's files are made from. wanted: seeds and key of every document, which jobs check.


def reported(path, category):
    """An output with its caption, category and labels in Snakemake's own report."""
    name, kind = os.path.splitext(os.path.basename(path))
    return report(
        path,
        caption=f"../report/{category.lower()}.rst",
        category=category,
        labels={"what": name.replace("_", " "), "format": kind[1:]},
    )


rule runs:
    input:
        read_by("runs", list(PLAN.cells)),
    output:
        PLAN.runs,
    params:
        key=PLAN.key("runs"),
        wanted=PLAN.wanted,
        # who reports which scenario of which cell
        members=list(PLAN.members.values()),
    log:
        f"{LOGS}/runs.log",
    benchmark:
        f"{LOGS}/runs.tsv"
    localrule: True
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/runs.py"


rule tables:
    input:
        runs=read_by("tables", PLAN.runs),
        published=read_by("tables", PLAN.published),
    output:
        [reported(path, "Tables") for path in PLAN.tables],
    params:
        key=PLAN.key("tables"),
        grid=PLAN.grid.config_hash,
    log:
        f"{LOGS}/tables.log",
    benchmark:
        f"{LOGS}/tables.tsv"
    localrule: True
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/tables.py"


rule figures:
    input:
        runs=read_by("figures", PLAN.runs),
        cells=read_by("figures", list(PLAN.cells)),
    output:
        # the PNG next to an SVG is the same figure
        [reported(path, "Figures") if path.endswith(".svg") else path for path in PLAN.figures],
    params:
        key=PLAN.key("figures"),
        wanted=PLAN.wanted,
        grid=PLAN.grid.config_hash,
    log:
        f"{LOGS}/figures.log",
    benchmark:
        f"{LOGS}/figures.tsv"
    localrule: True
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/figures.py"


rule report:
    input:
        runs=read_by("report", PLAN.runs),
        cells=read_by("report", list(PLAN.cells)),
        published=read_by("report", PLAN.published),
        figures=read_by("report", PLAN.figures),
        cards=read_by("report", list(PLAN.cards)),
        studies=read_by("report", PLAN.of_studies),
    output:
        reported(PLAN.report, "Report"),
    params:
        key=PLAN.key("report"),
        wanted=PLAN.wanted,
        studies={study.name: study.keys for study in PLAN.reported},
        grid=PLAN.grid.config_hash,
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/report.tsv"
    localrule: True
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/report.py"


# Last of all: checksums of everything above, and what it comes from.
rule provenance:
    input:
        cells=read_by("provenance", list(PLAN.cells)),
        others=read_by("provenance", [PLAN.runs, *PLAN.tables, *PLAN.figures, PLAN.report, *PLAN.of_studies]),
        published=read_by("provenance", PLAN.published),
        cards=read_by("provenance", list(PLAN.cards)),
    output:
        PLAN.record,
    params:
        stages=PLAN.stages.keys,
        wanted=PLAN.wanted,
        members=list(PLAN.members.values()),
    log:
        f"{LOGS}/provenance.log",
    benchmark:
        f"{LOGS}/provenance.tsv"
    localrule: True
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/provenance.py"
