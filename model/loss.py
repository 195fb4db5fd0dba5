"""Weighted cross-entropy over a large vocabulary, in chunks, and its sums per objective and corpus.

Logits are the largest tensor of a training step: [targets, vocabulary] in float32, several times over. Here
they exist for `chunk` targets at a time. Each chunk's gradient is known as soon as its logits are (softmax
minus one-hot), so it is pushed through the projection at once, and nothing is kept or computed a second time
for the backward pass, which only multiplies by the incoming scalar. The price is that the gradients of the
selected hidden states and of the table are held from the forward pass on.

All sums are float32 whatever the dtype of the model. The loss is a sum, not a mean: the weights of the
targets carry the normalisation, which depends on the whole batch and is not this room's business.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Terms(NamedTuple):
    """Σ weight·(cross-entropy + z_loss·lse²), 0-dim; without gradient: cross-entropy, correct (bool), [n]."""

    loss: Tensor
    entropy: Tensor
    correct: Tensor


def cross_entropy(
    hidden: Tensor, table: Tensor, targets: Tensor, weights: Tensor, z_loss: float, chunk: int
) -> Terms:
    """Terms of hidden [n, d] against targets [n] under logits hidden·tableᵀ, table [V, d]; n may be 0.

    z_loss · lse² (lse the log of the softmax's denominator) keeps logits from drifting (PaLM, Chowdhery et
    al. 2022, §5).
    """
    needed = torch.is_grad_enabled() and (hidden.requires_grad or table.requires_grad)
    return Terms(*_CrossEntropy.apply(hidden, table, targets.long(), weights, z_loss, chunk, needed))


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, table, targets, weights, z_loss, chunk, needed):  # type: ignore[no-untyped-def]
        dtype = hidden.dtype
        to_table = torch.zeros(table.shape, dtype=torch.float32, device=table.device) if needed else None
        to_hidden = torch.empty_like(hidden) if needed else None
        entropy = torch.empty(len(targets), device=hidden.device)
        square = torch.empty_like(entropy)
        correct = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        for a in range(0, len(targets), chunk):
            part = slice(a, a + chunk)
            x, target = hidden[part], targets[part, None]
            logits = (x @ table.t()).float()
            right = logits.gather(1, target)
            if not needed:
                correct[part] = (logits.argmax(1, keepdim=True) == target)[:, 0]
            logs = F.log_softmax(logits, dim=1)
            lost = logs.gather(1, target).neg_()
            lse = right + lost
            entropy[part], square[part] = lost[:, 0], lse[:, 0].square()
            if to_table is None or to_hidden is None:
                continue
            weight = weights[part, None]
            slope = logs.exp_().mul_(weight * (1 + 2 * z_loss * lse) if z_loss else weight)
            slope.scatter_add_(1, target, -weight)
            slope = slope.to(dtype)
            to_hidden[part] = slope @ table
            if dtype == torch.float32:
                to_table.addmm_(slope.t(), x)
            else:
                to_table += slope.t() @ x
        loss = weights @ entropy
        if z_loss:
            loss = loss + z_loss * (weights @ square)
        ctx.save_for_backward(to_hidden, to_table)
        ctx.dtype = table.dtype
        ctx.mark_non_differentiable(entropy, correct)
        return loss, entropy, correct

    @staticmethod
    def backward(ctx, grad, *_):  # type: ignore[no-untyped-def]
        to_hidden, to_table = ctx.saved_tensors
        return to_hidden * grad, (to_table * grad).to(ctx.dtype), None, None, None, None, None


def sums(values: Tensor, objective: Tensor, corpus: Tensor, objectives: int, corpora: int) -> Tensor:
    """float32 [objectives, corpora]: the sum of values [n] by who made the target and whence it came.

    By a product of two tables of who belongs where, for on a GPU index_add_ adds in another order each time.
    """
    made = objective == torch.arange(objectives, device=values.device)[:, None]
    came = corpus[:, None] == torch.arange(corpora, device=values.device)
    return (made * values.float()) @ came.float()
