"""Names lead to files, folders, tasks and the hub, without reading any data."""

import json
import os
from pathlib import Path

import pytest

from aerogel.errors import DataError
from aerogel.tasks import check_task, load_task
from aerogel.tasks.sources import Location
from builders import sentences, write_tsv


def test_where_a_name_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tsv(tmp_path / "own.tsv", sentences(4))
    write_tsv(tmp_path / "folder" / "train.tsv", sentences(4))
    assert check_task("sst2") == Location("sst2", None, None)
    assert check_task("own.tsv") == Location("own", None, Path("own.tsv"))
    assert check_task("folder") == Location("folder", None, Path("folder"))
    assert check_task("./folder/") == Location("folder", None, Path("folder"))
    assert check_task("folder/../folder") == Location("folder", None, Path("folder/../folder"))
    assert check_task("sentence-regression:own.tsv") == Location("own", "sentence_regression", Path("own.tsv"))
    assert check_task("user/name") == Location("user/name", None, None)
    assert check_task("sentence_regression:user/name:de") == Location("user/name:de", "sentence_regression", None)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "folder").rename(tmp_path / "tasks" / "sst2")
    assert check_task("sst2", "tasks") == Location("sst2", None, Path("tasks/sst2"))


@pytest.mark.parametrize("name", ["nowhere.csv", "a/nowhere.parquet", "./nowhere", "/nowhere/at/all", "a/b/c"])
def test_paths_that_lead_nowhere_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=name):
        check_task(name)


def test_files_of_other_types_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "own.xlsx").write_text("")
    with pytest.raises(DataError, match=r"own\.xlsx.*\.csv.*\.parquet"):
        check_task(tmp_path / "own.xlsx")


@pytest.mark.parametrize("name", ["dev", "val", "valid", "test"])
@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_another_split_serves_for_validation_and_is_named(tmp_path: Path, name: str, suffix: str) -> None:
    for split, count in (("train", 20), (name, 10)):
        if suffix == ".tsv":
            write_tsv(tmp_path / "own" / f"{split}.tsv", sentences(count))
        else:
            rows = [json.dumps({"sentence": text, "label": label}) for text, label in sentences(count)]
            (tmp_path / "own").mkdir(exist_ok=True)
            (tmp_path / "own" / f"{split}.jsonl").write_text("\n".join(rows))
    data = load_task(tmp_path / "own")
    assert (len(data.split("train")), len(data.split("validation"))) == (20, 10)
    assert f"{name} as validation" in data.source
    write_tsv(tmp_path / "own" / f"validation{suffix}", sentences(4)) if suffix == ".tsv" else None
    if suffix == ".tsv":
        assert len(load_task(tmp_path / "own").split("validation")) == 4


def test_a_hub_that_is_out_of_reach_is_said_for_own_data_too() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(DataError, match=r"nobody/nothing .*offline") as raised:
        load_task("nobody/nothing:config")
    assert "user/name:CONFIGURATION" in str(raised.value)
    assert "\n" not in str(raised.value)
