"""iCaRL (Rebuffi et al. 2017, arXiv 1611.07725): herding, distillation and nearest mean of exemplars."""

from sharc_core.common.deferred import normalize, one_hot, torch
from sharc_core.heads import Loss
from sharc_core.methods.base import METHODS, Method


@METHODS.register("icarl")
class ICaRL(Method):
    """Predict the class whose mean exemplar is nearest; train the head with sigmoid outputs.

    Exemplars are the stored samples, which herding chooses (`memory.selection`). A class's mean is that of
    its exemplars' embeddings, each scaled to length 1, and is scaled to length 1 again (algorithm 1). The
    embedding is what the head's last layer gets: the features for a linear head, so that training does not
    change predictions, and the hidden units for an MLP.

    The loss is the binary cross-entropy of each class seen so far, averaged over samples and classes. Its
    target is the label for the classes of the task, and for older classes the output of the head as it was
    before the task (algorithm 3). A minibatch is a current one joined with a replayed one.

    Differences to the paper: it trains the complete network for 70 epochs on the union of the task and all
    exemplars (CIFAR-100: minibatches of 128, learning rate 2, divided by 5 after epochs 49 and 63, momentum
    0.9, weight decay 1e-5); here the grid's `training` applies. A class has a fixed share of the memory,
    which later classes do not reduce. Herding sees the features, also for an MLP. The authors' code also
    trains the outputs of classes that were not seen yet, towards 0, and adds mirrored images to the means.
    """

    title = "iCaRL"
    selections = ("herding",)

    def __init__(self, *args):
        super().__init__(*args)
        head, device = self.head, self.head.vector.device
        self.previous = head.copy()
        self.means = torch.zeros(head.replicas, head.classes, head.embedding_width, device=device)
        self.has_mean = torch.zeros(head.replicas, head.classes, dtype=torch.bool, device=device)
        self.own, self.seen = (torch.zeros(head.classes, dtype=torch.bool, device=device) for _ in range(2))

    def begin_task(self, task, memory):
        """Keep the head as it is, and note which classes are in the task and which were seen so far."""
        self.task = task
        self.previous.vector.copy_(self.head.vector)
        for mask, labels in ((self.own, task.classes), (self.seen, task.seen)):
            mask.zero_()
            mask[list(labels)] = True

    def observe(self, batch, memory):
        """Take one step on the loss of current and replayed samples."""
        if memory:
            batch = batch.joined(memory.sample(self.replay_batch_size))
        labels = one_hot(batch.y, self.head.classes).to(batch.x)
        target = torch.where(self.own, labels, sigmoid(self.previous.logits(batch.x)))
        # dL/dlogits of a binary cross-entropy is sigmoid(logits) - target
        slope = (sigmoid(self.head.logits(batch.x)) - target) * self.seen
        terms = batch.y.shape[1] * len(self.task.seen)
        self.head.descend(Loss([(batch.x, slope, 1 / terms)]), self.lr)

    def filled(self, memory):
        """Set the means of all classes that have exemplars."""
        past = memory.tasks()
        x, y = torch.cat([task.x for task in past], 1), torch.cat([task.y for task in past], 1)
        member = one_hot(y, self.head.classes).double()
        self.flops.product(self.head.classes, y.shape[1], self.head.embedding_width)
        self.means.copy_(normalize(member.mT @ self._embedded(x).double(), dim=2))  # as of the sums
        self.has_mean.copy_(member.sum(1) > 0)

    def predict(self, x):
        """Return the cosine of each sample and mean, (R, B, C): the nearest has the largest.

        A class without exemplars scores -inf.
        """
        scores = self._embedded(x) @ self.means.mT
        return scores.masked_fill(~self.has_mean.unsqueeze(1), -torch.inf)

    def _embedded(self, x: torch.Tensor) -> torch.Tensor:
        """Return embeddings (R, B, F) of length 1."""
        return normalize(self.head.embed(x), dim=2)

    @property
    def extra_bytes(self) -> int:
        """Bytes of the previous head, of a mean per class, and of what is known of each class."""
        known = (self.has_mean[0], self.own, self.seen)
        return self.head.bytes_per_replica + self.means[0].nbytes + sum(mask.nbytes for mask in known)


def sigmoid(logits: torch.Tensor) -> torch.Tensor:
    """Return 1 / (1 + exp(-z)) of logits z (R, B, C), as the softmax of (z, 0).

    `torch.sigmoid` may round the last elements of a tensor differently, so the bits of a replica would depend
    on the number of replicas. A softmax treats each row alike.
    """
    return torch.stack([logits, torch.zeros_like(logits)], -1).softmax(-1)[..., 0]
