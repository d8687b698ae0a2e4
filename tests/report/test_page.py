from __future__ import annotations

import json
import re
import sqlite3
import tomllib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path

import pytest

from aerogel.charts import PALETTE
from aerogel.errors import StudyError
from aerogel.report import build_report
from aerogel.report.build import render, sections, toml
from aerogel.report.estimate import Estimate, megabytes, significant, with_interval
from aerogel.report.findings import Findings
from aerogel.report.lines import ChartStyle
from aerogel.report.names import metric_digits, metric_name, point_name
from aerogel.report.opening import Opening
from aerogel.report.verdicts import choices, options
from aerogel.study import Store, parse_spec
from aerogel.study.results import Failed
from aerogel.tasks.kinds.language_modelling import PERPLEXITIES
from builders import times_as_fast

VOID = {"meta", "link", "br", "img", "input", "hr"}
Changed = Callable[..., Path]


class Page(HTMLParser):
    """The page's elements and its text; fails for an element that is closed in the wrong place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> repeats an attribute"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself only inside svg"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & {*self.open}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def parsed(page: str) -> Page:
    return Page(page)


def test_it_is_one_file_that_asks_for_nothing(page: str, parsed: Page) -> None:
    for _, attributes in parsed.elements:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:text/csv"))
    assert "://" not in page
    assert "@import" not in page
    assert parsed.all("script") == [{}]
    assert not [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]


def test_ids_are_unique_and_references_lead_somewhere(page: str, parsed: Page) -> None:
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(r"url\(#([^)]*)\)", page)
    targets += [str(of["href"])[1:] for _, of in parsed.elements if str(of.get("href", "")).startswith("#")]
    assert set(targets) <= set(ids)


def test_it_can_be_read_by_machine_and_by_ear(parsed: Page) -> None:
    assert parsed.all("html") == [{"lang": "en"}]
    assert len(parsed.all("title")) - len(parsed.all("circle")) == len(parsed.all("h1")) == len(parsed.all("main")) == 1
    levels = [int(tag[1]) for tag, _ in parsed.elements if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    summaries = [index for index, (tag, _) in enumerate(parsed.elements) if tag == "summary"]
    assert summaries
    assert all(parsed.elements[index + 1][0] == "h2" for index in summaries)
    charts = [of for of in parsed.all("svg") if of.get("class") == "chart"]
    assert len(charts) > 10
    assert all(of["role"] == "img" and of["aria-label"] for of in charts)
    assert len({of["aria-label"] for of in charts}) == len(charts)
    assert all("scope" in of for of in parsed.all("th"))


def test_charts_take_their_colours_and_style_from_the_page(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.S)
    assert drawings
    for drawing in drawings:
        assert "<style" not in drawing
        assert "font-family" not in drawing
        assert not [colour for colour in PALETTE if colour.lower() in drawing.lower()]
    used = set(re.findall(r"var\((--[\w-]+)\)", page)) - {"--panels"}
    light, dark = page.split("prefers-color-scheme: dark")
    assert all(f"{name}:" in light for name in used)
    assert all(f"{name}:" in dark for name in used if name.startswith("--series"))


def test_it_is_small_enough_to_mail(page: str) -> None:
    assert len(page.encode()) < 1_000_000


def test_the_same_store_makes_the_same_page(finished: Path, page: str) -> None:
    assert build_report(finished).read_text(encoding="utf-8") == page


def test_it_opens_with_the_study_and_its_answer(parsed: Page, findings: Findings) -> None:
    text = parsed.text
    assert f"{findings.total} of {findings.total}" in text
    assert "Missing trials" not in [of.get("aria-label") for of in parsed.all("section")]
    judged = choices(options(findings))
    assert [of["id"] for of in parsed.all("section") if "id" in of] == (["answer"] if judged else []) + ["models"]
    for name in (*findings.spec.models, *findings.spec.tasks):
        assert name in text


def test_every_score_stands_in_the_page(parsed: Page, findings: Findings) -> None:
    for row in findings.scores:
        assert significant(row.value.mean, metric_digits(row.value.mean)) in parsed.text


def test_what_compressing_saves_stands_in_the_page(parsed: Page, findings: Findings) -> None:
    for cost in findings.compressed:
        assert megabytes(cost.own.file_bytes) in parsed.text
        assert f"{cost.speedup:.2f}" in parsed.text


def test_every_chart_has_the_numbers_of_its_points_in_a_table(page: str, findings: Findings) -> None:
    """What is drawn is said by a title of its point, and the tables have the same numbers."""
    for section in sections(findings, options(findings), ChartStyle(findings.spec.models)):
        assert section.tables, section.title
        assert all(chart.caption.endswith(".") for chart in section.charts)
    titles = re.findall(r"<title>([^<]*)</title></circle>", page)
    for row in findings.scores:
        name = f"{row.model}, {point_name(findings.spec, row.variant, row.sparsity)}: "
        assert any(title.startswith(name) and with_interval(row.value, 4) in title for title in titles)


def learned(findings: Findings) -> Findings:
    """The same with scores that a model has learned, of which the lowest sparsity keeps 99.5%, twice as fast."""
    rows = []
    for row in findings.scores:
        lost = {0.5: 0.995, 0.9: 0.6}.get(row.sparsity)
        kept = Estimate.of([lost, lost]) if lost else None
        rows.append(replace(row, kept=kept, one_answer=0, majority=0.0))
    return replace(findings, scores=rows, compressed=[times_as_fast(cost, 2) for cost in findings.compressed])


def test_it_opens_with_score_against_speed_and_tiles(findings: Findings) -> None:
    findings = learned(findings)
    page = Page(render(findings))
    opening = Opening(findings, choices(options(findings)), ChartStyle(findings.spec.models))
    hero = opening.hero()
    assert hero is not None
    assert len(hero.drawings) == len(findings.spec.tasks)
    assert set(opening.choices) == set(product(findings.spec.tasks, findings.spec.models))
    assert {(card.task, card.model) for card in opening.cards()} == set(opening.choices)
    for card in opening.cards():
        choice = opening.choices[card.task, card.model]
        assert (choice.row.sparsity, choice.keeps) == (0.5, True)
        assert choice.cost is not None
        assert choice.cost.dense is not None
        assert f"{card.model} {choice.speed:.1f} times" in hero.caption
        assert len(card.tiles) == 4
        values = [text for tile in card.tiles for text in (tile.dense, tile.sparse)]
        for cost in (choice.cost.own, choice.cost.dense):
            assert megabytes(cost.file_bytes) in values
            assert megabytes(cost.inference_memory) in values
            assert significant(cost.median) in values
        assert significant(choice.row.value.mean, metric_digits(choice.row.value.mean)) in values
        assert all(text in page.text for text in values)


def test_without_times_scores_are_drawn_against_sparsity(findings: Findings) -> None:
    findings = learned(replace(findings, costs=[], compressed=[]))
    opening = Opening(findings, choices(options(findings)), ChartStyle(findings.spec.models))
    hero = opening.hero()
    assert hero is not None
    assert "sparsity" in hero.title
    assert {len(card.tiles) for card in opening.cards()} == {1}
    assert "times" not in hero.caption


def test_a_model_that_has_not_learned_its_task_is_said_to_have_not(findings: Findings) -> None:
    rows = [replace(row, one_answer=len(row.seeds)) for row in findings.scores]
    findings = replace(findings, scores=rows)
    opening = Opening(findings, choices(options(findings)), ChartStyle(findings.spec.models))
    assert opening.hero() is None
    for card in opening.cards():
        assert card.tiles == ()
        assert len(card.remarks) == 1


def test_models_with_too_few_zeros_to_compress_are_reported(changed: Changed) -> None:
    folder = changed(
        lambda connection: connection.execute(
            """update trials set result = json_set(result, '$.result.compressed', null)
            where trial ->> 'kind' = 'benchmark'"""
        )
    )
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert "compressed" not in text.lower()


def test_each_kind_of_perplexity_has_a_chart_of_its_own(parsed: Page) -> None:
    titles = [str(of["aria-label"]) for of in parsed.all("svg") if of.get("class") == "chart"]
    for kind in ("decoder", "encoder-decoder"):
        assert any(title.startswith(f"python-reference: {metric_name(PERPLEXITIES[kind])}. ") for title in titles)


def test_specification_machine_and_sources_are_in_the_page(parsed: Page, findings: Findings) -> None:
    assert 'name = "small"' in parsed.text
    assert parse_spec(tomllib.loads(toml(findings.spec))) == findings.spec
    for machine, _ in findings.machines:
        assert machine.versions["torch"] in parsed.text
    for sources in findings.sources.values():
        assert all(source in parsed.text for source in sources)


@pytest.mark.parametrize("kept", [0, 1, 3, 9, 20])
def test_an_unfinished_study_is_reported_as_such(changed: Changed, kept: int) -> None:
    folder = changed(
        lambda connection: connection.execute(
            "update trials set status = 'open', result = null where place >= ?", [kept]
        )
    )
    page = Page(build_report(folder).read_text(encoding="utf-8"))
    total = Store.open(folder).count()
    assert f"{kept} of {total}" in page.text
    assert f"{total - kept} are" in page.text
    assert "Missing trials" in [of.get("aria-label") for of in page.all("section")]
    assert Store.open(folder).open_trials()[0].label in page.text


def test_failed_trials_are_named_with_their_error(changed: Changed) -> None:
    def fail(connection: sqlite3.Connection) -> None:
        outcome = {"error": "it went <wrong> & stopped", "seconds": 1.0}
        connection.execute(
            "update trials set status = 'failed', result = ? where place in (3, 4)", [json.dumps(outcome)]
        )

    folder = changed(fail)
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert "2 failed" in text
    assert "it went <wrong> & stopped" in text
    failed = [trial.label for trial, outcome in Store.open(folder).outcomes() if isinstance(outcome, Failed)]
    assert len(failed) == 2
    assert all(label in text for label in failed)


def test_a_study_whose_trials_all_failed_is_reported(changed: Changed) -> None:
    outcome = {"error": "no memory", "seconds": 1.0}
    folder = changed(
        lambda connection: connection.execute("update trials set status = 'failed', result = ?", [json.dumps(outcome)])
    )
    text = Page(build_report(folder).read_text(encoding="utf-8")).text
    assert "0 of" in text
    assert "no memory" in text


def test_a_metric_that_is_no_number_does_not_stop_it(changed: Changed) -> None:
    def spoil(connection: sqlite3.Connection) -> None:
        rows = connection.execute("select key, result from trials where place between 3 and 12").fetchall()
        for (key, text), value in zip(rows, [float("nan"), 1e304, 0.0] * 4, strict=False):
            outcome = json.loads(text)
            metrics = outcome["result"]["score"]["metrics"]
            metrics.update(dict.fromkeys(metrics, value))
            connection.execute("update trials set result = ? where key = ?", [json.dumps(outcome), key])

    Page(build_report(changed(spoil)).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        'dir/<b>"$x_1$" & é',
        "</script><script>alert(1)</script>",
        "'onload='alert(1)' x=\"",
        "]]> --> </style></title> {{ 7 * 7 }} {% raw %} &lt;",
        '#0072B2 <g id="x" 1.23456',
    ],
)
def test_names_are_text_wherever_they_stand(changed: Changed, name: str) -> None:
    written = json.dumps(name)[1:-1]

    def rename(connection: sqlite3.Connection) -> None:
        connection.execute("update study set spec = replace(spec, 'tiny-gpt2', ?)", [written])
        connection.execute(
            "update trials set trial = replace(trial, 'tiny-gpt2', ?), result = replace(result, 'tiny-gpt2', ?)",
            [written, written],
        )

    page = Page(build_report(changed(rename)).read_text(encoding="utf-8"))
    assert name in page.text
    assert page.all("script") == [{}]
    labels = [str(of.get("aria-label")) for of in page.all("svg")]
    assert any(label.startswith(f"Prunable weights, layer by layer, {name}. ") for label in labels)


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"has no study\.sqlite"):
        build_report(tmp_path)
    assert not list(tmp_path.iterdir())
