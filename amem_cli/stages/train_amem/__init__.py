"""Stage 4: train AMEM end to end (Fig. 1, eq. 6): identity and triplet loss, AEM, MEM.

Features: the rows of Table 3 (`--modules`), validation by retrieval on separate people with the best weights kept,
gradient accumulation, activation checkpointing, exact resume, time limit, several processes (torchrun).

`stage` has the stage and its loop, `step` one training step, `inputs` data and networks.
"""

from amem_cli.stages.train_amem.inputs import build_networks
from amem_cli.stages.train_amem.stage import train_amem
from amem_cli.stages.train_amem.step import Batch, Networks, train_step

__all__ = ["Batch", "Networks", "build_networks", "train_amem", "train_step"]
