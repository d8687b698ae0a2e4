"""The time that an executor adds to a trial, and whether its results are the same to the bit.

A study of many tiny models, the weights of each analysed, runs on this machine and on a Ray cluster of one and of two
nodes, simulated on this machine with two CPUs each. Columns: `a trial`, the time of a window of trials divided by their
number, times the number of trials at a time, the median of all windows; `inside`, the median time that trials measured
for themselves; `overhead`, the difference; `same results`, as on this machine.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import click
from transformers import BertConfig, BertForMaskedLM

import aerogel as ag
from aerogel.study import StudyProgress
from aerogel.study.results import Done, Outcome

COLUMNS = "{:24} {:>10} {:>10} {:>10}  {}"
CPUS = 2  # of a node
WINDOW = 20  # trials


@click.command(help=__doc__.partition("\n")[0])
@click.option("--trials", default=200, show_default=True)
def main(trials: int) -> None:
    from ray.cluster_utils import Cluster  # not at the top: each trial's process runs the script's imports again

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_OFFLINE": "1"}
    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=64)
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # a short path, for Ray's sockets
        models = [str(Path(folder) / "models" / str(index)) for index in range(trials)]
        for model in models:
            BertForMaskedLM(config).save_pretrained(model)
        spec = ag.StudySpec(
            name="overhead", models=models, processes=CPUS, benchmark=None, resources={"cpus": 1}, sparsities=(0.5,)
        )
        click.echo(COLUMNS.format("executor", "a trial", "inside", "overhead", "same results"))
        expected = report(spec, Path(folder), "local", CPUS, None)
        for nodes in (1, 2):
            cluster = Cluster()
            for index in range(nodes):
                cluster.add_node(num_cpus=CPUS, node_name=str(index), include_dashboard=False, temp_dir=f"{folder}/ray")
            report(spec, Path(folder), f"ray:{cluster.address}", CPUS * nodes, expected)
            cluster.shutdown()


def report(spec: ag.StudySpec, folder: Path, executor: str, at_a_time: int, expected: list | None) -> list:
    ends: list[float] = []
    outcomes: list[Outcome] = []

    def watch(state: StudyProgress) -> None:
        ends.extend(time.perf_counter() for _ in state.ended)
        outcomes.extend(outcome for _, outcome in state.ended)

    store = ag.run_study(spec, folder / f"{executor.partition(':')[0]}-{at_a_time}", watch=watch, executor=executor)
    assert all(isinstance(outcome, Done) for outcome in outcomes), outcomes
    whole = at_a_time / WINDOW * median(end - start for start, end in zip(ends, ends[WINDOW:], strict=False))
    inside = median(outcome.seconds for outcome in outcomes)
    results = [outcome.result for _, outcome in store.outcomes() if isinstance(outcome, Done)]
    name = "local" if expected is None else f"ray, {at_a_time // CPUS} x {CPUS} CPUs"
    times = (f"{seconds:.3f} s" for seconds in (whole, inside, whole - inside))
    click.echo(COLUMNS.format(name, *times, "" if expected is None else "yes" if results == expected else "NO"))
    return results


if __name__ == "__main__":
    main()
