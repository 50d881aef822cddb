"""Students of a teacher: distillation and embeddings as teachers (Ding and Lerch 2023, EAsT).

loss = (1 - weight) * masked BCE + weight * regulariser
with one of these regularisers:

- KD: the divergence of the student's softened probabilities from those of the teacher's classifier.
- EAsT-Final: 1 - the distance correlation of the student's last frames with the teacher's embedding
  over time, or the difference of their cosine similarities. The dimensions may differ.
- EAsT-KD: 0.7 * EAsT-Final + 0.3 * KD.
"""

import torch
from torch import nn

from ..losses import align_frames, cosine_difference, distance_correlation, soft_binary_kl
from ..registry import unknown
from .supervised import Supervised

SIMILARITIES = ("distance", "cosine")
KD_SHARE = 0.3  # of the regulariser of EAsT-KD


class KD(Supervised):
    """Distillation of a classifier's probabilities.

    Args:
        model: the student.
        weight: of the regulariser.
        targets: as for Supervised.

    Raises:
        ValueError: a weight outside 0..1.
    """

    teacher_fields = ("teacher_logits",)

    def __init__(self, model: nn.Module, weight: float = 0.9, targets: str = "hard"):
        super().__init__(model, targets)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight {weight} of a teacher; expected from 0 to 1")
        self.weight = weight

    def losses(self, logits: torch.Tensor, batch, whole) -> dict[str, torch.Tensor]:
        """Compute {"loss": both, "bce": ..., "regulariser": before its weight}."""
        return self.combine(logits, self.distil(logits, batch, whole), batch, whole)

    def distil(self, logits: torch.Tensor, batch, whole) -> torch.Tensor:
        """Compute the soft binary KL, averaged over the observed cells of `whole`."""
        count = whole.mask.sum().item()
        return soft_binary_kl(logits.float(), batch.teacher_logits, batch.mask, count=count)

    def combine(
        self, logits: torch.Tensor, regulariser: torch.Tensor, batch, whole
    ) -> dict[str, torch.Tensor]:
        """Add the masked BCE to a regulariser."""
        bce = self.bce(logits, batch, whole)
        loss = (1 - self.weight) * bce + self.weight * regulariser
        return {"loss": loss, "bce": bce, "regulariser": regulariser}


class EastFinal(KD):
    """Regularisation of the student's last frames by the teacher's; clips need no labels for it.

    Clips are compared within a micro-batch, so that its size matters, as for BatchNorm.

    Args:
        model: the student, whose embedding has frames (B, D, T).
        weight, targets: as for KD.
        similarity: "distance" (correlation) or "cosine" (difference).

    Raises:
        ValueError: a weight outside 0..1, another similarity, or a model of which only the head is
            trained.
    """

    teacher_fields = ("teacher_frames",)

    def __init__(
        self,
        model: nn.Module,
        weight: float = 0.9,
        targets: str = "hard",
        similarity: str = "distance",
    ):
        super().__init__(model, weight, targets)
        if similarity not in SIMILARITIES:
            raise ValueError(unknown("similarity", similarity, SIMILARITIES))
        if not hasattr(model, "encode"):
            raise ValueError(
                "EAsT: only the head is trained; expected a student, backbone.finetune: true"
            )
        self.similarity = similarity

    def step(self, batch, epoch: int, whole=None) -> dict[str, torch.Tensor]:
        """Compute {"loss": both, "bce": ..., "regulariser": before its weight}.

        Raises:
            ValueError: the student's embedding has no frames.
        """
        whole = whole or batch
        output = self.model.encode(batch.features)
        logits = self.model.head(output)
        regulariser = self.regulariser(output.embedding, logits, batch, whole)
        return self.combine(logits, regulariser, batch, whole)

    def regulariser(self, frames: torch.Tensor, logits: torch.Tensor, batch, whole) -> torch.Tensor:
        """Compare the student's frames (B, D, T) with the teacher's; the mean over time."""
        if frames.ndim != 3:
            raise ValueError(
                f"EAsT: the student's embedding is {tuple(frames.shape)}; expected frames "
                "(B, D, T), as of backbone cp_resnet"
            )
        frames, teacher_frames = align_frames(frames, batch.teacher_frames)
        if self.similarity == "distance":
            per_frame = 1 - distance_correlation(frames, teacher_frames)
        else:
            per_frame = cosine_difference(frames, teacher_frames)
        return per_frame.mean() * len(batch.mask) / len(whole.mask)


class EastKD(EastFinal):
    """EAsT-Final and KD together; for the arguments see EastFinal."""

    teacher_fields = ("teacher_frames", "teacher_logits")

    def regulariser(self, frames: torch.Tensor, logits: torch.Tensor, batch, whole) -> torch.Tensor:
        """Mix the comparison of frames with the divergence of probabilities."""
        similarity = super().regulariser(frames, logits, batch, whole)
        return (1 - KD_SHARE) * similarity + KD_SHARE * self.distil(logits, batch, whole)
