"""How the report names metrics, recoveries and variants."""

from aerogel.report.estimate import percent
from aerogel.study import StudySpec
from aerogel.study.parts import NO_STRUCTURE
from aerogel.study.variant import Variant
from aerogel.tasks import METRICS
from aerogel.tasks.metrics import perplexity

METRIC_NAMES = {
    "f1": "F1",
    "micro_f1": "micro F1",
    "macro_f1": "macro F1",
    "subset_accuracy": "subset accuracy",
    "cosine_spearman": "Spearman correlation of cosines",
    "cosine_pearson": "Pearson correlation of cosines",
    "ndcg_at_10": "nDCG@10",
    "recall_at_10": "recall@10",
    "combined": "combined score",
    "squad_f1": "F1 of words",
    "exact_match": "exact match",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
    "bleu": "BLEU",
    "chrf": "chrF",
    **{f"rouge{kind}": f"ROUGE-{kind}" for kind in ("1", "2", "L")},
    "entity_f1": "entity F1",
    "entity_precision": "entity precision",
    "entity_recall": "entity recall",
    "masked_lm_perplexity": "masked-LM perplexity",
    "denoising_perplexity": "denoising perplexity",
}
RECOVERY_NAMES = {"none": "no recovery", "finetune": "fine-tuning", "gradual": "gradual + distillation"}


def metric_name(metric: str) -> str:
    return METRIC_NAMES.get(metric, metric)


def metric_digits(value: float) -> int:
    """Significant digits: four from 1 on, as for a perplexity, three below 1."""
    return 4 if abs(value) >= 1 else 3


def variant_name(spec: StudySpec, variant: Variant) -> str:
    """What distinguishes it from the study's other variants; empty if it is the only one."""
    method = variant.method if len(spec.methods) > 1 else None
    values = values_name(variant) if len(spec.values) > 1 else None
    pattern = variant.pattern if len({known.pattern for known in spec.scored_variants}) > 1 else None
    parts = (variant.structure, method, RECOVERY_NAMES.get(variant.recovery or ""), values, pattern)
    return ", ".join(part for part in parts if part)


def point_name(spec: StudySpec, variant: Variant, sparsity: float) -> str:
    """A variant at one sparsity: `90% magnitude, fine-tuning`, or `dense, int8`."""
    if not sparsity:
        variant = variant.unpruned
    amount = percent(sparsity) if sparsity else "dense" if not variant.structure else ""
    return ", ".join(filter(None, (amount, variant_name(spec, variant))))


def direction(metric: str) -> str:
    if METRICS[metric].higher_is_better:
        return "Higher is better."
    if METRICS[metric].function is perplexity:
        return "Lower is better; counted in the model's own tokens, so do not compare models."
    return "Lower is better."


def structure_name(variant: Variant) -> str:
    return variant.structure or NO_STRUCTURE


def values_name(variant: Variant) -> str:
    return variant.values or "float32"
