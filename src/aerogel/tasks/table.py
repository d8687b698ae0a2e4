"""The table of tasks: their kinds, their data sets on the hub, columns, labels and metrics."""

from aerogel.tasks.kind import Task

GUESSED_KINDS = ("sentence_regression", "sentence_classification", "language_modelling")
"""The kinds that a user's own data may be of, in the order in which they are tried."""


def _glue(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str, validation: str = "validation"
) -> Task:
    kind = "sentence_classification" if len(labels) > 1 else "sentence_regression"
    roles = dict(zip(("text", "text_pair"), columns, strict=False))
    return Task(name, kind, roles, labels, metrics, ("nyu-mll/glue", name), validation)


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")
TASKS = {
    task.name: task
    for task in (
        _glue("sst2", ("sentence",), ("negative", "positive"), "accuracy"),
        _glue("mrpc", PAIR, ("not_equivalent", "equivalent"), "combined", "accuracy", "f1"),
        _glue("cola", ("sentence",), ("unacceptable", "acceptable"), "matthews"),
        _glue("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), "combined", "accuracy", "f1"),
        _glue("stsb", PAIR, ("similarity",), "correlation", "pearson", "spearman"),
        _glue("mnli", ("premise", "hypothesis"), INFERENCE, "accuracy", validation="validation_matched"),
        _glue("qnli", ("question", "sentence"), ENTAILMENT, "accuracy"),
        _glue("rte", PAIR, ENTAILMENT, "accuracy"),
        _glue("wnli", PAIR, ("not_entailment", "entailment"), "accuracy"),
        Task("movie-reviews", "sentence_classification", labels=("negative", "positive"), metrics=("accuracy",)),
        Task("wikitext-2", "language_modelling", hub=("Salesforce/wikitext", "wikitext-2-raw-v1")),
        Task("python-reference", "language_modelling"),
    )
}
