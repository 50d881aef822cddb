"""Mean teacher (Tarvainen and Valpola 2017), as in Gururani and Lerch (2021) for partial labels.

loss = masked BCE(student) + weight * mean((sigmoid(student) - sigmoid(teacher))^2)
with the mean over every output, observed or not. Student and teacher get the same input; dropout
and BatchNorm make the difference, so the teacher stays in train mode. After each step the teacher's
parameters, not its BatchNorm statistics, follow the student's:
teacher = a * teacher + (1 - a) * student, with a = min(1 - 1 / (step + 1), decay) and steps counted
from 1.
"""

import torch
from torch import nn

from ..losses import consistency
from .supervised import Supervised


class MeanTeacher(Supervised):
    """Mean teacher around any model; student and teacher share the frozen backbone.

    The authors draw the teacher's initial weights separately; here it starts as a copy of the
    student, a small difference after the first steps (a = 0.5, 0.67, ...). The teacher is the
    evaluation model: the authors' code reports the student under the teacher's name.

    Args:
        model: the student.
        weight: of the consistency.
        decay: largest a.
        targets: as for Supervised.

    Raises:
        ValueError: a weight below 0, or a decay outside 0..1.
    """

    def __init__(
        self, model: nn.Module, weight: float = 3.0, decay: float = 0.999, targets: str = "hard"
    ):
        super().__init__(model, targets)
        if weight < 0 or not 0 <= decay <= 1:
            raise ValueError(
                f"mean_teacher: weight {weight}, decay {decay}; "
                "expected a weight of at least 0 and a decay from 0 to 1"
            )
        self.weight = weight
        self.decay = decay
        self.steps = 0
        self.teacher = model.copy_with_shared_backbone()
        self.pairs = []
        student = dict(model.named_parameters())
        for name, parameter in self.teacher.named_parameters():
            if parameter.requires_grad:
                self.pairs.append((parameter.requires_grad_(False), student[name]))

    @property
    def model_for_eval(self) -> nn.Module:
        """The teacher."""
        return self.teacher

    def step(self, batch, epoch: int, whole=None) -> dict[str, torch.Tensor]:
        """Compute {"loss": both, "bce": ..., "consistency": before its weight}."""
        whole = whole or batch
        with torch.no_grad():
            targets = self.teacher(batch.features).float().sigmoid()
        logits = self.model(batch.features).float()
        bce = self.bce(logits, batch, whole)
        difference = consistency(logits.sigmoid(), targets, whole.mask.numel())
        return {"loss": bce + self.weight * difference, "bce": bce, "consistency": difference}

    @torch.no_grad()
    def after_step(self) -> None:
        """Move the teacher towards the student."""
        self.steps += 1
        a = min(1 - 1 / (self.steps + 1), self.decay)
        for teacher, student in self.pairs:
            teacher.lerp_(student, 1 - a)

    def resumable_state(self) -> dict:
        """Return the states of both models, and the number of steps."""
        teacher = self.teacher.trainable_state_dict()
        return super().resumable_state() | {"teacher": teacher, "steps": self.steps}

    def load_resumable_state(self, state: dict) -> None:
        """Load a `resumable_state`."""
        super().load_resumable_state(state)
        self.teacher.load_trainable_state_dict(state["teacher"])
        self.steps = state["steps"]
