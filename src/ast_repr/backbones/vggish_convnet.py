"""A convolutional network like VGGish (Hershey et al. 2017), on patches of about a second."""

import torch
from torch import nn

from .output import Output

PATCH = 96  # frames
POOLINGS = 4  # each by 2
EMBED_DIM = 128


class VGGishConvNet(nn.Module):
    """VGGish's six convolutions on each patch of 96 frames, then 128 values per patch.

    Two things differ from VGGish, since the network is trained from scratch: BatchNorm follows each
    convolution, and the mean over the map and one linear layer replace three linear layers of 67.6
    M parameters. The number of parameters does not depend on the input: 4,567,104 with the 64
    channels of VGGish.

    Args:
        frames, mels: size of the input (T, F). The frames after the last whole patch are left out.
        mean, std: statistics of the feature, for (x - mean) / (2 std).
        width: channels of the first convolution; the deepest have eight times as many.
        recurrent: add a bidirectional GRU over the patches.

    Raises:
        ValueError: the input is too small, or `width` is not positive.
    """

    n_source = None

    def __init__(
        self,
        frames: int = 998,
        mels: int = 64,
        mean: float = 0.0,
        std: float = 0.5,
        width: int = 64,
        recurrent: bool = False,
    ):
        super().__init__()
        if frames < PATCH or mels < 2**POOLINGS or width < 1:
            raise ValueError(
                f"vggish_convnet: input of {frames} frames and {mels} bands, width {width}; "
                f"expected at least {PATCH} frames, {2**POOLINGS} bands and a width of 1"
            )
        self.mean = mean
        self.std = std
        self.embed_dim = EMBED_DIM
        count = frames // PATCH
        self.segments = [(PATCH * n, PATCH * (n + 1)) for n in range(count)]
        self.convolutions = nn.Sequential(
            *_convolution(1, width),
            nn.MaxPool2d(2),
            *_convolution(width, 2 * width),
            nn.MaxPool2d(2),
            *_convolution(2 * width, 4 * width),
            *_convolution(4 * width, 4 * width),
            nn.MaxPool2d(2),
            *_convolution(4 * width, 8 * width),
            *_convolution(8 * width, 8 * width),
            nn.MaxPool2d(2),
        )
        self.dense = nn.Sequential(nn.Linear(8 * width, EMBED_DIM), nn.ReLU())
        self.gru = None
        if recurrent:
            self.gru = nn.GRU(EMBED_DIM, EMBED_DIM // 2, batch_first=True, bidirectional=True)
        self.to(memory_format=torch.channels_last)  # 1.4 times as fast on a CPU

    def forward(self, x: torch.Tensor) -> Output:
        """(B, 1, T, F) -> Output(embedding (B, 128, T // 96), None)."""
        patches = x.unfold(2, PATCH, PATCH)  # (B, 1, N, F, 96)
        patches = patches.permute(0, 2, 1, 4, 3)
        maps = self.convolutions(patches.flatten(0, 1))
        embeddings = self.dense(maps.mean(dim=(2, 3))).unflatten(0, patches.shape[:2])
        if self.gru is not None:
            embeddings, _ = self.gru(embeddings)
        return Output(embeddings.transpose(1, 2), None)


def _convolution(channels: int, out: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
