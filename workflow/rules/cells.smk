# Cells: a job trains the seeds that a cell's document lacks. The others stay (update).


def document_of(wildcards):
    return PLAN.path(f"matrices/{wildcards.cell}.json")


rule cell:
    input:
        features=lambda w: PLAN.features_of([document_of(w)]),
        images=lambda w: PLAN.images_of([document_of(w)]),
    output:
        update(PLAN.path("matrices/{cell}.json")),
    params:
        job=lambda w: PLAN.job(document_of(w)),
        aside=PLAN.replaced,
    wildcard_constraints:
        cell=one_of(PLAN.names("matrices", PLAN.to_train)),
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


# A finished document that was asked for by its name.
rule finished:
    output:
        update(PLAN.path("matrices/{cell}.json")),
    wildcard_constraints:
        cell=one_of(PLAN.names("matrices", PLAN.call.requested(PLAN.cells, PLAN.to_train))),
    localrule: True
    shell:
        ":"


# The card of a backbone in data_dir, so that the results are complete without it. Its name carries a hash.
rule card:
    input:
        lambda w: str(PLAN.cards[PLAN.path(f"backbones/{w.card}.json")]),
    output:
        PLAN.path("backbones/{card}.json"),
    wildcard_constraints:
        card=one_of(PLAN.names("backbones", PLAN.to_copy)),
    localrule: True
    shell:
        "cp {input:q} {output:q}.part && mv {output:q}.part {output:q} || {{ rm -f {output:q}.part; false; }}"
