"""Several processes that compute one model together, each on its own device; `launch` starts them.

Conventions
    A batch is the whole batch, however many processes share it: each is given all of its rows, computes its own ones, and
    gets everyone's logits. So losses, metrics and decisions are the same in all of them, and N processes give what one
    gives, up to rounding: the draws of augmentation and dropout and the statistics of BatchNorm are the whole batch's.
    Only gradients differ: a process has those by way of its own rows, and `ProcessGroup.all_reduce_gradients` sums them.
    What travels is kilobytes a step: logits, sums of BatchNorm, gradients of what learns. There is nothing to overlap with
    the backward pass, and rows may be shared unevenly, so one plain sum stands where one might expect
    DistributedDataParallel, which averages the gradients of equal shares.
    Rank 0 prints, shows progress and writes files, which all processes must be able to read.
"""

from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of one run; by default one process alone, for which nothing here does anything.

    Attributes:
        rank, size: which of how many this one is.
        local_world_size: how many there are on this machine, those of other runs at the same time included.
    """

    rank: int = 0
    size: int = 1
    local_world_size: int = 1

    def rows(self, count):
        """The slice of `count` rows that this process computes; sizes differ by one at most, and may be 0."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce_gradients(self, parameters):
        """Sum the gradients of the parameters over the processes; the same ones must have a gradient in each."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        if self.size == 1 or not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        for gradient, total in zip(
            gradients, flat.split([gradient.numel() for gradient in gradients])
        ):
            gradient.copy_(total.view_as(gradient))

    def broadcast(self, value):
        """Rank 0's `value`, in each process; all of them wait for each other."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told, src=0)
        return told[0]

    def barrier(self):
        """Until every process is here: what rank 0 has written before can then be read."""
        self.broadcast(None)


SINGLE_PROCESS = ProcessGroup()


class BatchSharder:
    """The batch that a model is computing: the model's hooks, and what those of its modules ask that couple rows.

    Attributes:
        whole: number of the batch's rows.
        taken: slice of them that is computed here.
        counted: how many of these count, all or none: a process without a share takes part with a row of another's.
    """

    def __init__(self, group):
        self.group = group

    def take(self, model, args):
        """Before the model runs: of the rows that it is given, those of this process."""
        (x,) = args
        own = self.group.rows(len(x))
        self.whole, self.counted = len(x), own.stop - own.start
        self.taken = own if self.counted else slice(0, 1)
        return x[self.taken]

    def gather(self, model, args, logits):
        """After it ran: everyone's logits, in the order of the rows."""
        start = self.taken.start
        return AllGather.apply(
            logits[: self.counted].float(), self.whole, slice(start, start + self.counted)
        )


def shard_batch(model, group):
    """Share the rows of whatever `model` is given among the processes of the team, from now on; nothing where there is one.

    Its copies do so too. Its parameters stay the same objects, under the same names.
    """
    if group.size == 1:
        return
    sharder = BatchSharder(group)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(parent, name, BatchNorm(child, sharder))
            elif isinstance(child, nn.Dropout):
                setattr(parent, name, Dropout(child, sharder))
    model.register_forward_pre_hook(sharder.take)
    model.register_forward_hook(sharder.gather)


def bytes_per_step(model, rows, n_classes):
    """Bytes that each process of a team hands over in a training step of `rows` rows, all in float32: gradients of what
    learns, logits, and four sums a channel of each BatchNorm that counts. (A mean teacher's logits and sums come on top.)"""
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    channels = sum(
        m.num_features for m in model.modules() if isinstance(m, _BatchNorm) and m.training
    )
    return 4 * (learned + rows * n_classes + 4 * channels)


class BatchNorm(_BatchNorm):
    """BatchNorm over the rows of all processes, in the place of `own`, whose parameters, buffers and mode it takes over.

    (torch's SyncBatchNorm, which needs a GPU, is the same in one kernel.)
    """

    def __init__(self, own, sharder):
        super().__init__(own.num_features, own.eps, own.momentum)
        self._parameters, self._buffers, self.training, self.sharder = (
            own._parameters,
            own._buffers,
            own.training,
            sharder,
        )

    def _check_input_dim(self, x):
        """Whatever `own` took."""

    def forward(self, x):
        """(B, C, ...) -> the same shape."""
        if not self.training:
            return super().forward(x)
        dims, shape = [0, *range(2, x.ndim)], [-1, *[1] * (x.ndim - 2)]
        count, wide = self.sharder.whole * x.shape[2:].numel(), x.float()
        mean = AllReduceSum.apply(wide[: self.sharder.counted].sum(dims)) / count
        centred = wide - mean.view(shape)
        variance = AllReduceSum.apply(centred[: self.sharder.counted].square().sum(dims)) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / max(count - 1, 1), self.momentum)
        gain = self.weight * (variance + self.eps).rsqrt()
        return (centred * gain.view(shape) + self.bias.view(shape)).to(x.dtype)


class Dropout(nn.Dropout):
    """Dropout that draws for the whole batch, alike in all processes, and uses what it drew for its own rows."""

    def __init__(self, own, sharder):
        super().__init__(own.p)
        self.training, self.sharder = own.training, sharder

    def forward(self, x):
        """(B, ...) -> the same shape."""
        if not self.training:
            return x
        drawn = functional.dropout(x.new_ones(self.sharder.whole, *x.shape[1:]), self.p)
        return x * drawn[self.sharder.taken]


class AllReduceSum(torch.autograd.Function):
    """The sum of a tensor over the processes. All of them use it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx, tensor):
        """The sum, in each process."""
        total = tensor.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        """The sum of everyone's gradient."""
        return AllReduceSum.apply(gradient)


class AllGather(torch.autograd.Function):
    """Everyone's rows (whole, K) from one's own (n, K). Each process computes the same from them, so it knows its rows' gradient."""

    @staticmethod
    def forward(ctx, rows, whole, own):
        """The rows in order, in each process."""
        ctx.own = own
        everyones = rows.new_zeros(whole, *rows.shape[1:])
        everyones[own] = rows
        distributed.all_reduce(everyones)
        return everyones

    @staticmethod
    def backward(ctx, gradient):
        """The gradient of one's own rows."""
        return gradient[ctx.own], None, None
