"""Data in memory and saved data sets are read as files are."""

from pathlib import Path
from typing import Any

import pandas
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Translation, Value

from aerogel.errors import DataError
from aerogel.tasks import Examples, load_task
from aerogel.tasks.tables import chosen_splits, is_table

ROWS = [{"id": 0, "text": "fine", "label": "good"}, {"id": 1, "text": "poor", "label": "bad"}]
EXAMPLES = Examples([("fine",), ("poor",)], [1, 0])
TABLES = {
    "list": ROWS,
    "tuple": tuple(ROWS),
    "Dataset": Dataset.from_list(ROWS),
    "formatted": Dataset.from_list(ROWS).with_format("numpy"),
    "DataFrame": pandas.DataFrame(ROWS, index=[7, 7]),
    "categories": pandas.DataFrame(ROWS).astype({"label": "category"}),
}


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_tables_of_all_types_are_the_same_data(table: Any) -> None:
    assert is_table(table)
    data = load_task(table)
    assert data.split("train") == EXAMPLES
    assert data.task.labels == ("bad", "good")
    assert data.columns == {"text": "text", "label": "label"}
    assert load_task({"train": table, "dev": table}).splits == {"train": EXAMPLES, "validation": EXAMPLES}


def test_a_dictionary_of_data_sets(tmp_path: Path) -> None:
    splits = {"train": ROWS, "test": ROWS[:1], "unsupervised": [{"text": "x"}]}
    saved = DatasetDict({name: Dataset.from_list(rows) for name, rows in splits.items()})
    data = load_task(saved)
    assert (len(data.split("train")), len(data.split("validation"))) == (2, 1)
    assert "test as validation" in data.source
    saved.save_to_disk(tmp_path / "saved")
    again = load_task(tmp_path / "saved")
    assert again.splits == data.splits
    assert again.source == f"{tmp_path / 'saved'} (test as validation)"
    assert again.task.name == "saved"


def test_translations_of_the_hub_have_a_column_for_each_language() -> None:
    texts = [{"en": f"text {number}", "de": f"Text {number}"} for number in range(8)]
    features = Features({"id": Value("string"), "translation": Translation(languages=("de", "en"))})
    hub = Dataset.from_dict({"id": list("01234567"), "translation": texts}, features)
    data = load_task(hub)
    assert data.task.kind_name == "sequence_to_sequence"
    assert data.columns == {"source": "translation.en", "target": "translation.de"}
    assert data.split("train").sources == [row["en"] for row in texts]
    back = load_task(hub, columns={"source": "translation.de", "target": "translation.en"})
    assert back.split("train").sources == [row["de"] for row in texts]


def test_a_saved_data_set(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "tasks" / "own")
    assert load_task(tmp_path / "tasks" / "own").splits == load_task("own", tmp_path / "tasks").splits
    assert load_task("own", tmp_path / "tasks").split("train") == EXAMPLES


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_damaged_data_sets_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "own"
    Dataset.from_list(ROWS).save_to_disk(folder)
    (folder / name).write_bytes(b"{")
    with pytest.raises(DataError, match="own") as raised:
        load_task(folder)
    assert "\n" not in str(raised.value)


def test_declared_classes_keep_their_names_and_order() -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["sad", "so-so", "glad"])})
    data = load_task(Dataset.from_dict({"text": ["a", "b"], "label": [2, 0]}, features))
    assert data.task.labels == ("sad", "so-so", "glad")
    assert data.split("train").labels == [2, 0]
    with pytest.raises(DataError, match="row 2, column label"):
        load_task(Dataset.from_dict({"text": ["a", "b"], "label": [2, -1]}, features))


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ([], "list"),
        (["a text"], "list"),
        ({}, "dict"),
        ({"text": ["a"], "label": [1]}, "dict"),
        (pandas.Series([1]), "Series"),
        (None, "NoneType"),
        (pandas.DataFrame({"text": [], "label": []}), "no rows"),
        (Dataset.from_dict({"text": [], "label": []}), "no rows"),
        (pandas.DataFrame([["a", 1, 2]], columns=["text", "label", "label"]), "'label'"),
        (pandas.DataFrame({"text": ["a", "b"], "label": [1, None]}), "row 2, column label"),
        (pandas.DataFrame({"text": ["a", pandas.NA], "label": [1, 0]}), "row 2, column text"),
        ([{"text": "a", "label": 1}, {1: 2}], "row 2"),
        ({"pages": ROWS, "books": ROWS}, "pages, books"),
        (DatasetDict(a=Dataset.from_list(ROWS), b=Dataset.from_list(ROWS)), "a, b"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": "x"}], "row 2, column label"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": 1}], "'1'"),
    ],
)
def test_tables_that_are_no_data_are_refused(table: Any, named: str) -> None:
    with pytest.raises(DataError, match=named) as raised:
        load_task(table)
    assert "\n" not in str(raised.value)


def test_a_class_that_only_validation_has_is_refused_with_its_row() -> None:
    validation = [*ROWS, {"text": "odd", "label": "odd"}]
    with pytest.raises(DataError, match=r"split validation, row 3, column label: .*'odd'"):
        load_task({"train": ROWS, "validation": validation})


def test_which_splits_serve() -> None:
    assert chosen_splits(["train", "test", "dev"], "x") == {"train": "train", "validation": "dev"}
    assert chosen_splits(["test"], "x") == {"validation": "test"}
    assert chosen_splits(["everything"], "x") == {"train": "everything"}
