"""Stage 6: CMC and mAP under a protocol. The result lists every convention that the figures depend on.

`stage` has the stage, `inputs` the features files, `score` the figures.
"""

from amem_cli.stages.evaluate.score import score
from amem_cli.stages.evaluate.stage import evaluate

__all__ = ["evaluate", "score"]
