"""The table of tasks: their kinds, their data sets on the hub, columns, labels and metrics."""

from aerogel.tasks.kind import Task

GUESSED_KINDS = (
    "question_answering",
    "token_classification",
    "multiple_choice",
    "sequence_to_sequence",
    "multi_label",
    "sentence_regression",
    "sentence_classification",
    "language_modelling",
    "sentence_embedding",
    "image_classification",
)
"""The kinds that a user's own data may be of, in the order in which they are tried."""


def _glue(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...], *metrics: str, validation: str = "validation"
) -> Task:
    kind = "sentence_classification" if len(labels) > 1 else "sentence_regression"
    roles = dict(zip(("text", "text_pair"), columns, strict=False))
    return Task(name, kind, roles, labels, metrics, ("nyu-mll/glue", name), validation)


def _texts(name: str, columns: tuple[str, str], hub: tuple[str, str], *metrics: str) -> Task:
    roles = dict(zip(("source", "target"), columns, strict=True))
    return Task(name, "sequence_to_sequence", roles, metrics=metrics, hub=hub)


ROUGE = ("rougeL", "rouge1", "rouge2")


def _embedding(name: str, hub: str, configuration: str, *metrics: str, validation: str = "validation") -> Task:
    return Task(name, "sentence_embedding", metrics=metrics, hub=(hub, configuration), hub_validation=validation)


RETRIEVAL = ("ndcg_at_10", "recall_at_10")


def _entities(name: str, hub: tuple[str, str | None], *types: str) -> Task:
    labels = ("O", *(f"{letter}-{entity}" for entity in types for letter in "BI"))
    metrics = ("entity_f1", "entity_precision", "entity_recall", "accuracy")
    return Task(name, "token_classification", {"tokens": "tokens", "tags": "ner_tags"}, labels, metrics, hub)


WNUT_TYPES = ("corporation", "creative-work", "group", "location", "person", "product")


def _squad(name: str, repository: str, configuration: str, train: str | None = "train") -> Task:
    hub, metrics = (repository, configuration), ("squad_f1", "exact_match")
    return Task(name, "question_answering", metrics=metrics, hub=hub, hub_train=train)


PAIR = ("sentence1", "sentence2")
ENTAILMENT = ("entailment", "not_entailment")
INFERENCE = ("entailment", "neutral", "contradiction")
SEVERAL = ("micro_f1", "macro_f1", "subset_accuracy")
EMOTIONS = (
    *("admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire"),
    *("disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy"),
    *("love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral"),
)
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
        _texts("multi30k", ("en", "de"), ("bentrevett/multi30k", "default"), "bleu", "chrf"),
        _texts("xsum", ("document", "summary"), ("EdinburghNLP/xsum", "default"), *ROUGE),
        _texts("cnn_dailymail", ("article", "highlights"), ("abisee/cnn_dailymail", "3.0.0"), *ROUGE),
        _texts("samsum", ("dialogue", "summary"), ("knkarthick/samsum", "default"), *ROUGE),
        Task(
            "go_emotions",
            "multi_label",
            labels=EMOTIONS,
            metrics=SEVERAL,
            hub=("google-research-datasets/go_emotions", "simplified"),
        ),
        Task("swag", "multiple_choice", metrics=("accuracy",), hub=("allenai/swag", "regular")),
        Task("commonsense_qa", "multiple_choice", metrics=("accuracy",), hub=("tau/commonsense_qa", "default")),
        _entities("wnut17", ("manu/wnut_17", None), *WNUT_TYPES),
        _entities("conll2003", ("lhoestq/conll2003", None), "PER", "ORG", "LOC", "MISC"),
        Task("movie-reviews", "sentence_classification", labels=("negative", "positive"), metrics=("accuracy",)),
        Task("digits", "image_classification", labels=tuple("0123456789"), metrics=("accuracy",)),
        _embedding("sts-benchmark", "sentence-transformers/stsb", "default", "cosine_spearman", "cosine_pearson"),
        _embedding("all-nli", "sentence-transformers/all-nli", "triplet", *RETRIEVAL, validation="dev"),
        _squad("squad", "rajpurkar/squad", "plain_text"),
        _squad("squad_v2", "rajpurkar/squad_v2", "squad_v2"),
        _squad("xquad", "google/xquad", "xquad.en", train=None),
        Task("wikitext-2", "language_modelling", hub=("Salesforce/wikitext", "wikitext-2-raw-v1")),
        Task("python-reference", "language_modelling"),
    )
}
"""The tasks with a name."""
