"""The table of tasks agrees with GLUE and with the metrics that there are."""

from aerogel.tasks import METRICS, TASKS

GLUE = {"cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli"}


def test_the_glue_tasks_go_by_their_own_names() -> None:
    assert {task.hub[1] for task in TASKS.values() if task.hub and task.hub[0] == "nyu-mll/glue"} == GLUE
    assert all(TASKS[name].hub == ("nyu-mll/glue", name) for name in GLUE)
    assert {name for name in GLUE if TASKS[name].hub_validation != "validation"} == {"mnli"}


def test_every_task_has_what_its_kind_needs() -> None:
    for name, task in TASKS.items():
        assert task.name == name
        assert set(task.metrics) <= set(METRICS)
        if task.kind_name == "language_modelling":
            assert not task.labels
            assert task.head.kind == "language-modelling"
            continue
        assert task.metrics
        assert set(task.columns) <= {role.name for role in task.kind.roles}
        assert (task.kind_name == "sentence_regression") == (name == "stsb") == ("correlation" in task.metrics)
        assert task.head.labels == task.labels
        if "f1" in task.metrics or "combined" in task.metrics:
            assert len(task.labels) == 2


def test_questions_of_xquad_have_one_split_on_the_hub() -> None:
    assert [name for name, task in TASKS.items() if task.hub_train is None] == ["xquad"]
    assert {TASKS[name].hub for name in ("squad", "squad_v2")} == {
        ("rajpurkar/squad", "plain_text"),
        ("rajpurkar/squad_v2", "squad_v2"),
    }


def test_labels_stand_in_the_order_of_the_hubs_numbers() -> None:
    assert TASKS["rte"].labels == TASKS["qnli"].labels == ("entailment", "not_entailment")
    assert TASKS["wnli"].labels == ("not_entailment", "entailment")
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")
    assert TASKS["mrpc"].labels[1] == "equivalent"
    assert TASKS["qqp"].labels[1] == "duplicate"
    types = "corporation", "creative-work", "group", "location", "person", "product"
    for name, kinds in (("wnut17", types), ("conll2003", ("PER", "ORG", "LOC", "MISC"))):
        assert TASKS[name].labels == ("O", *(f"{letter}-{kind}" for kind in kinds for letter in "BI"))
