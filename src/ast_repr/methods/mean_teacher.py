"""Mean teacher (Tarvainen and Valpola 2017), as Gururani and Lerch (2021) use it for partly observed labels.

loss = masked BCE(student) + weight * mean((sigmoid(student) - sigmoid(teacher))^2) over every output, observed or not.
Student and teacher see the same input; dropout and BatchNorm make the difference, so the teacher stays in train mode.
After each step the teacher's parameters, not its BatchNorm statistics, follow the student's:
teacher = a * teacher + (1 - a) * student, with a = min(1 - 1 / (step + 1), decay), step counted from 1.
"""

import torch

from ..losses import consistency
from .supervised import Supervised


class MeanTeacher(Supervised):
    """Works around any model; the frozen backbone is shared by student and teacher.

    The authors draw the teacher's first weights separately; here it starts as a copy of the student, which the first
    steps (a = 0.5, 0.67, ...) make a small difference. The teacher is the model that is used: their code reports the
    student under the teacher's name.

    Args:
        model: the student.
        weight: of the consistency.
        decay: largest a.
        targets: as for Supervised.

    Raises:
        ValueError: a weight below 0, or a decay outside 0..1.
    """

    def __init__(self, model, weight=3.0, decay=0.999, targets="hard"):
        super().__init__(model, targets)
        if weight < 0 or not 0 <= decay <= 1:
            raise ValueError(
                f"mean_teacher: weight {weight}, decay {decay}; expected a weight of at least 0 and a decay from 0 to 1"
            )
        self.weight, self.decay, self.steps = weight, decay, 0
        self.pairs = []
        self.teacher = model.copy_with_shared_backbone()
        student = dict(model.named_parameters())
        for name, own in self.teacher.named_parameters():
            if own.requires_grad:
                self.pairs.append((own.requires_grad_(False), student[name]))

    @property
    def model_for_eval(self):
        """The teacher."""
        return self.teacher

    def step(self, batch, epoch, whole=None):
        """{"loss": both, "bce": ..., "consistency": before its weight}"""
        with torch.no_grad():
            aim = self.teacher(batch.features).float().sigmoid()
        logits, whole = self.model(batch.features).float(), whole or batch
        bce, agreement = (
            self.bce(logits, batch, whole),
            consistency(logits.sigmoid(), aim, whole.mask.numel()),
        )
        return {"loss": bce + self.weight * agreement, "bce": bce, "consistency": agreement}

    @torch.no_grad()
    def after_step(self):
        """The teacher follows."""
        self.steps += 1
        a = min(1 - 1 / (self.steps + 1), self.decay)
        for teacher, student in self.pairs:
            teacher.lerp_(student, 1 - a)

    def learned_state(self):
        """Both models, and the number of steps."""
        return {
            "model": self.model.learned_state(),
            "teacher": self.teacher.learned_state(),
            "steps": self.steps,
        }

    def load_learned(self, state):
        """Go back to where `learned_state` was taken."""
        self.model.load_learned(state["model"])
        self.teacher.load_learned(state["teacher"])
        self.steps = state["steps"]
