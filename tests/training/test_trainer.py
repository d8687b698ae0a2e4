"""What the recovery trainer takes from transformers' Trainer."""

from pathlib import Path
from typing import Any, ClassVar

from transformers import Trainer, TrainingArguments

from builders import ARCHITECTURES, batches


def test_the_private_methods_of_the_trainer_run_once_an_epoch_and_once_a_checkpoint(tmp_path: Path) -> None:
    class Counting(Trainer):
        calls: ClassVar[list[str]] = []

        def _run_epoch(self, *arguments: Any, **settings: Any) -> None:
            self.calls.append("_run_epoch")
            super()._run_epoch(*arguments, **settings)

        def _save_checkpoint(self, *arguments: Any, **settings: Any) -> None:
            self.calls.append("_save_checkpoint")
            super()._save_checkpoint(*arguments, **settings)

    arguments = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        save_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Counting(ARCHITECTURES["gpt2"].build(), arguments, train_dataset=batches())
    trainer.train()
    assert trainer.calls == ["_run_epoch", "_save_checkpoint"] * 2, (
        "transformers calls Trainer._run_epoch or Trainer._save_checkpoint differently: RecoveryTrainer in "
        "aerogel.training.trainer overrides them, to end where a resumed training had ended and to explain full disks"
    )
    assert "TrainerControl" in trainer.state.stateful_callbacks, (
        "transformers keeps the state of TrainerControl elsewhere: RecoveryTrainer._run_epoch reads from it whether "
        "training had ended"
    )
