"""The metrics of all tasks, by name."""

import math
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import fmean

import numpy as np
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from aerogel.errors import DataError, shown, unknown_name


@dataclass(frozen=True)
class Metric:
    """A metric of predictions.

    Attributes:
        function: of predictions and references, two arrays (predictions), or (texts, labels) for several labels;
            classes are numbers. Where a question has several right answers, its reference is a tuple of them.
        higher_is_better: its direction.
        bounds: its lowest and highest value.
        of_losses: if true, `function` takes sums of negative log-likelihoods and the numbers of predictions that they
            are of, two arrays (texts).
        of_entities: if true, `function` takes the sets of predicted and of right entities, two arrays (texts).
    """

    name: str
    function: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool
    bounds: tuple[float, float]
    of_losses: bool = False
    of_entities: bool = False


def as_metric(metric: object) -> Metric:
    """A metric by its name, as it is, or from a function, of which a higher value is taken as better.

    Raises `DataError` for anything else, and for a function without a name.
    """
    if isinstance(metric, str):
        if metric not in METRICS:
            raise DataError(unknown_name("metric", metric, METRICS))
        return METRICS[metric]
    if isinstance(metric, Metric):
        return metric
    name = getattr(metric, "__name__", "")
    if not callable(metric) or not name.isidentifier():
        raise DataError(
            f"expected a metric: a function with a name, a Metric, or a name in METRICS; found {shown(metric)}"
        )
    return Metric(name, metric, True, (-math.inf, math.inf))


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(accuracy_score(references, predictions))


def f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 of label 1."""
    return float(f1_score(references, predictions, zero_division=0))


def micro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 over all labels of all texts, two arrays (texts, labels) of 0 and 1."""
    return f1(predictions.ravel(), references.ravel())


def macro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean of the F1 of each label, of two arrays (texts, labels) of 0 and 1."""
    return float(np.mean(list(map(f1, np.atleast_2d(predictions.T), np.atleast_2d(references.T)))))


def subset_accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """The share of texts with all labels right, of two arrays (texts, labels) of 0 and 1."""
    return accuracy(predictions, references)


def combined(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean of accuracy and F1, the combined score of MRPC and QQP in GLUE."""
    return (accuracy(predictions, references) + f1(predictions, references)) / 2


def matthews(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(matthews_corrcoef(references, predictions)) if _vary(predictions, references) else 0.0


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(pearsonr(predictions, references).statistic) if _vary(predictions, references) else 0.0


def spearman(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(spearmanr(predictions, references).statistic) if _vary(predictions, references) else 0.0


def correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean of Pearson's and Spearman's correlation, the score of STS-B in GLUE."""
    return (pearson(predictions, references) + spearman(predictions, references)) / 2


def bleu(predictions: np.ndarray, references: np.ndarray) -> float:
    """BLEU of a corpus, 0 to 100, as SacreBLEU computes it by default (Papineni et al. 2002; Post 2018)."""
    from sacrebleu import corpus_bleu

    # force: without a message about texts that are tokenized already
    return float(corpus_bleu(predictions.tolist(), [references.tolist()], force=True).score)


def chrf(predictions: np.ndarray, references: np.ndarray) -> float:
    """chrF2 of a corpus, 0 to 100, as SacreBLEU computes it by default (Popović 2015)."""
    from sacrebleu import corpus_chrf

    return float(corpus_chrf(predictions.tolist(), [references.tolist()]).score)


def rouge(kind: str, predictions: np.ndarray, references: np.ndarray) -> float:
    """100 times the mean F1 of a kind of ROUGE, with stemming, of English texts (Lin 2004)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], use_stemmer=True)
    pairs = zip(references.tolist(), predictions.tolist(), strict=True)
    return 100 * float(np.mean([scorer.score(*pair)[kind].fmeasure for pair in pairs]))


def normalized_answer(text: str) -> str:
    """A text in lower case without ASCII punctuation, articles and repeated white space (Rajpurkar et al. 2016,
    arXiv:1606.05250, section 6.1).

    >>> normalized_answer("The  Great Theatre!")
    'great theatre'
    """
    plain = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def exact_match(answers: np.ndarray, references: np.ndarray) -> float:
    """The share of answers that are equal to one of the right ones after normalisation, 0 to 1."""
    return _mean_of_best(_equality, answers, references)


def squad_f1(answers: np.ndarray, references: np.ndarray) -> float:
    """The mean F1 of the words of an answer and of the most similar right one after normalisation, 0 to 1.

    Without words in one of them it is 1 if both have none.
    """
    return _mean_of_best(_word_f1, answers, references)


def _mean_of_best(similarity: Callable[[str, str], float], answers: np.ndarray, references: np.ndarray) -> float:
    pairs = zip(map(normalized_answer, answers), references, strict=True)
    return fmean(max(similarity(answer, normalized_answer(right)) for right in several) for answer, several in pairs)


def _equality(answer: str, right: str) -> float:
    return float(answer == right)


def _word_f1(answer: str, right: str) -> float:
    words = Counter(answer.split()), Counter(right.split())
    if not (words[0] and words[1]):
        return _equality(answer, right)
    return 2 * (words[0] & words[1]).total() / (words[0].total() + words[1].total())


def loss(losses: np.ndarray, counts: np.ndarray) -> float:
    """The mean negative log-likelihood of a prediction, in nats."""
    return sum(losses.tolist()) / float(counts.sum())


def perplexity(losses: np.ndarray, counts: np.ndarray) -> float:
    """exp of the mean negative log-likelihood; finite, so that JSON can hold it."""
    return math.exp(min(loss(losses, counts), 700.0))


def share_of_ideal(gains: np.ndarray, ideal: np.ndarray) -> float:
    """The mean over queries of what a ranking gains, as a share of the most that it could gain."""
    return float(np.divide(gains, ideal, out=np.zeros(len(gains)), where=ideal > 0).mean())


def uniformity(kernels: np.ndarray, counts: np.ndarray) -> float:
    """The logarithm of the mean Gaussian kernel exp(−2‖a − b‖²) of two embeddings (Wang & Isola 2020,
    arXiv:2005.10242, section 4.1.2): 0 if all are equal, and lower, the more evenly they cover the sphere.
    """
    return max(-8.0, math.log(max(sum(kernels.tolist()) / float(counts.sum()), 1e-9)))


def entity_precision(predictions: np.ndarray, references: np.ndarray) -> float:
    """The share of the predicted entities that are right: the same words and the same type."""
    right, predicted, _ = _entity_counts(predictions, references)
    return right / max(predicted, 1)


def entity_recall(predictions: np.ndarray, references: np.ndarray) -> float:
    """The share of the entities that are found: the same words and the same type."""
    right, _, expected = _entity_counts(predictions, references)
    return right / max(expected, 1)


def entity_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """The harmonic mean of entity precision and recall, the score of the CoNLL shared tasks."""
    right, predicted, expected = _entity_counts(predictions, references)
    return 2 * right / max(predicted + expected, 1)


def _entity_counts(predictions: np.ndarray, references: np.ndarray) -> tuple[int, int, int]:
    """How many entities are right, predicted, and expected."""
    pairs = list(zip(predictions, references, strict=True))
    return sum(len(ours & right) for ours, right in pairs), sum(map(len, predictions)), sum(map(len, references))


def _vary(predictions: np.ndarray, references: np.ndarray) -> bool:
    """Without variation on one side a correlation is undefined; it counts as 0."""
    return bool(np.ptp(predictions) and np.ptp(references))


SHARE, PERCENT, CORRELATION, PERPLEXITY = (0.0, 1.0), (0.0, 100.0), (-1.0, 1.0), (1.0, math.inf)
METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, True, SHARE),
        Metric("f1", f1, True, SHARE),
        Metric("micro_f1", micro_f1, True, SHARE),
        Metric("macro_f1", macro_f1, True, SHARE),
        Metric("subset_accuracy", subset_accuracy, True, SHARE),
        Metric("combined", combined, True, SHARE),
        Metric("matthews", matthews, True, CORRELATION),
        Metric("pearson", pearson, True, CORRELATION),
        Metric("spearman", spearman, True, CORRELATION),
        Metric("correlation", correlation, True, CORRELATION),
        Metric("bleu", bleu, True, PERCENT),
        Metric("chrf", chrf, True, PERCENT),
        *(Metric(kind, partial(rouge, kind), True, PERCENT) for kind in ("rouge1", "rouge2", "rougeL")),
        Metric("cosine_spearman", spearman, True, CORRELATION),
        Metric("cosine_pearson", pearson, True, CORRELATION),
        Metric("ndcg_at_10", share_of_ideal, True, SHARE),
        Metric("recall_at_10", share_of_ideal, True, SHARE),
        Metric("uniformity", uniformity, False, (-8.0, 0.0), of_losses=True),
        Metric("entity_f1", entity_f1, True, SHARE, of_entities=True),
        Metric("entity_precision", entity_precision, True, SHARE, of_entities=True),
        Metric("entity_recall", entity_recall, True, SHARE, of_entities=True),
        Metric("squad_f1", squad_f1, True, SHARE),
        Metric("exact_match", exact_match, True, SHARE),
        Metric("perplexity", perplexity, False, PERPLEXITY, of_losses=True),
        Metric("masked_lm_perplexity", perplexity, False, PERPLEXITY, of_losses=True),
        Metric("denoising_perplexity", perplexity, False, PERPLEXITY, of_losses=True),
        Metric("loss", loss, False, (0.0, math.inf), of_losses=True),
    )
}
"""The metrics by name."""
