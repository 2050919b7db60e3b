# Cells and what is made of them. snakemake --report shows what is marked as reported.


def reported(path, category):
    """An output with its caption, category and labels in Snakemake's own report."""
    name, kind = os.path.splitext(os.path.basename(path))
    return report(
        path,
        caption=f"../report/{category.lower()}.rst",
        category=category,
        labels={"what": name.replace("_", " "), "format": kind[1:]},
    )


def cell_of(wildcards):
    """The path of a cell's document."""
    return result(f"matrices/{wildcards.cell}.json")


def of_a_job(path):
    """What a cell's job is told: what the grid wants of the cell, and which seeds it trains."""
    wanted = found.wanted(path)
    cell = wanted.cell.model_dump(mode="json")
    return {"cell": cell, "code": wanted.code, "reads": wanted.reads, "seeds": found.to_train(path).seeds}


OUTDATED_FOLDER = result(OUTDATED) if grid.cells.keep_replaced else None


rule cell:
    input:
        features=lambda w: features_of([found.to_train(cell_of(w))]),
    output:
        # the seeds that are there and right stay
        update(result("matrices/{cell}.json")),
    params:
        job=lambda w: of_a_job(cell_of(w)),
        aside=OUTDATED_FOLDER,
    wildcard_constraints:
        cell=one_of(below("matrices", TO_TRAIN)),
    log:
        f"{LOGS}/cells/{{cell}}.log",
    benchmark:
        f"{LOGS}/cells/{{cell}}.tsv"
    threads: 1
    resources:
        mem_mb=growing(4000),
        runtime=growing(120),
        gpu=CELL_GPUS,
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/cell.py"


# A document that was asked for by its name and is there.
rule finished:
    output:
        update(result("matrices/{cell}.json")),
    wildcard_constraints:
        cell=one_of(below("matrices", there(CELLS, TO_TRAIN))),
    shell:
        ":"


rule card:
    input:
        lambda w: str(CARDS[result(f"backbones/{w.card}.json")]),
    output:
        result("backbones/{card}.json"),
    wildcard_constraints:
        card=one_of(below("backbones", TO_COPY)),
    shell:
        "cp {input:q} {output:q}.part && mv {output:q}.part {output:q} || {{ rm -f {output:q}.part; false; }}"


WANTED = [[found.cells[path].seeds, found.wanted(path).key] for path in CELLS]


rule runs:
    input:
        read_by("runs", list(CELLS)),
    output:
        result("runs.csv"),
    params:
        key=KEYS["runs"],
        wanted=WANTED,
        # who reports which scenario of which cell: a matter of this table, not of the cells
        members=list(MEMBERS.values()),
    log:
        f"{LOGS}/runs.log",
    benchmark:
        f"{LOGS}/runs.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/runs.py"


rule tables:
    input:
        runs=read_by("tables", result("runs.csv")),
        published=read_by("tables", PUBLISHED),
    output:
        [reported(path, "Tables") for path in TABLES],
    params:
        key=KEYS["tables"],
        studies=list(STUDIES),
        grid=grid.config_hash,
    log:
        f"{LOGS}/tables.log",
    benchmark:
        f"{LOGS}/tables.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/tables.py"


rule figures:
    input:
        runs=read_by("figures", result("runs.csv")),
        cells=read_by("figures", list(CELLS)),
    output:
        # a PNG beside an SVG is the same figure
        [reported(path, "Figures") if path.endswith(".svg") else path for path in FIGURES],
    params:
        key=KEYS["figures"],
        wanted=WANTED,
        studies={name: {"figure": study.figure, "title": study.title} for name, study in grid.studies.items()},
        grid=grid.config_hash,
    log:
        f"{LOGS}/figures.log",
    benchmark:
        f"{LOGS}/figures.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/figures.py"


rule report:
    input:
        runs=read_by("report", result("runs.csv")),
        cells=read_by("report", list(CELLS)),
        published=read_by("report", PUBLISHED),
        figures=read_by("report", FIGURES),
        cards=read_by("report", list(CARDS)),
    output:
        reported(result("report.html"), "Report"),
    params:
        key=KEYS["report"],
        wanted=WANTED,
        grid=grid.config_hash,
    log:
        f"{LOGS}/report.log",
    benchmark:
        f"{LOGS}/report.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/report.py"


# Last of all: checksums of everything above, and what it comes from.
rule provenance:
    input:
        cells=read_by("provenance", list(CELLS)),
        others=read_by("provenance", [result("runs.csv"), *TABLES, *FIGURES, result("report.html")]),
        published=read_by("provenance", PUBLISHED),
        cards=read_by("provenance", list(CARDS)),
    output:
        result(NAMES["grid"]),
    params:
        stages=KEYS,
        wanted=WANTED,
        members=list(MEMBERS.values()),
    log:
        f"{LOGS}/provenance.log",
    benchmark:
        f"{LOGS}/provenance.tsv"
    conda:
        "../../envs/sharc.yaml"
    script:
        "../scripts/provenance.py"
