"""The network under the attention baseline (Gururani, Sharma and Lerch 2019): each frame is embedded by itself."""

from torch import nn
from torch.nn import functional

from .output import Output
from .padding import heard

DEEPEST = 1_000  # layers


class FrameNetwork(nn.Module):
    """Frames of F dimensions to as many embedded frames: BatchNorm, `layers` of [1 x 1 convolution, BatchNorm, ReLU, dropout], plus the input.

    50,176 parameters for 128 dimensions and three layers. A longer input is first averaged to `steps` frames, its
    padding left out.

    Args:
        frames, mels: size of the input (T, F); F is the width throughout.
        mean, std: of the feature, for (x - mean) / (2 std).
        steps: frames that the network sees (VGGish: the ten that there are).
        layers: number of convolutions.
        dropout: probability.

    Raises:
        ValueError: the input is shorter than `steps`, or `layers` is out of range.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 10,
        mels: int = 128,
        mean: float = 0.0,
        std: float = 127.5,
        steps: int = 10,
        layers: int = 3,
        dropout: float = 0.6,
    ):
        super().__init__()
        if not 1 <= steps <= frames:
            raise ValueError(
                f"frame_network: steps {steps}; expected from 1 to the input's {frames} frames"
            )
        if not 0 <= layers <= DEEPEST:
            raise ValueError(f"frame_network: layers {layers}; expected from 0 to {DEEPEST}")
        self.embed_dim, self.steps, self.mean, self.std = mels, steps, mean, std
        self.norm = nn.BatchNorm1d(mels)
        self.layers = nn.Sequential(*(layer(mels, dropout) for _ in range(layers)))

    def forward(self, x):
        """(B, 1, T, F) -> Output(embedding (B, F, steps), None)."""
        weight = heard(x, self.mean, self.std)
        share = functional.adaptive_avg_pool2d(
            weight, (self.steps, 1)
        )  # of each step's frames that are sound
        frames = functional.adaptive_avg_pool2d(
            weight * x, (self.steps, self.embed_dim)
        ) / share.where(share > 0, 1.0)
        frames = frames.squeeze(1).transpose(
            1, 2
        )  # (B, F, steps); a step of padding alone is zeros
        return Output(self.layers(self.norm(frames)) + frames, None)


def layer(width, dropout):
    convolution = nn.Conv1d(width, width, 1, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout))
