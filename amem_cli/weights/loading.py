"""Load a weight file into a network. Every key must fit; the weights set the network's input normalisation.

Around the network, a file may have a prefix (`module.`, `backbone.`, `base.`) and heads; both are found and reported.
"""

import dataclasses
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from amem_cli.errors import BadData, listing
from amem_cli.weights.files import WeightFile, read_weight_file
from amem_cli.weights.key_mappings import MappedWeights, map_keys
from amem_cli.weights.names import weight_file

BATCH_COUNTER = "num_batches_tracked"  # of batch norm, an integer, absent in old files
_OTHER_PART = re.compile(r"(fc|classifier|heads?|logits|last_linear|bottleneck|bnneck|feat|feat_bn|embedding|NL_\d)\.")


def load_pretrained(network: Any, given: str | Path | None, architecture: str) -> None:
    """Load weights into `network`, a module with `head_keys`, and set its `normalisation` to what they expect.

    `given` is a file, a name (see `weight_file`), or empty for none. `architecture` is the name of a backbone, or
    resnet18 / resnet50. Keys of a head that the network lacks are left out, `num_batches_tracked` may be missing, and
    every floating-point type is converted to float32. What was loaded is the text of the network's attribute
    `pretrained`. Raises as `weight_file` and `read_weight_file`, and `BadData` if the weights do not fit.
    """
    path = weight_file(str(given or ""), architecture)
    if path is None:
        return
    file = read_weight_file(path)
    weights = weights_for(network, file, architecture)
    require_fit(network, weights, path, architecture)
    expected = network.state_dict().keys()
    network.load_state_dict({key: value for key, value in weights.tensors.items() if key in expected}, strict=False)
    network.normalisation = weights.normalisation or network.normalisation
    network.pretrained = "; ".join([f"loaded {file.path} as {weights.key_mapping}", *weights.notes])


def log_pretrained(model: nn.Module, log: Callable[[str], None]) -> None:
    """Log the weight files that the networks in `model` have loaded."""
    for module in model.modules():
        if pretrained := getattr(module, "pretrained", None):
            log(pretrained)


def weights_for(network: Any, file: WeightFile, architecture: str) -> MappedWeights:
    """The tensors of a file under the keys of `network`, without the prefix under which most fit, and without the
    heads of other projects and fast-reid's non-local blocks.

    Image convolutions are inflated where `network` has 3-D ones. The notes say what was removed.
    """
    expected = network.state_dict()
    starts = Counter(start for key in file.tensors for start in accumulate(re.findall(r"[^.]+\.", key)[:5]))
    candidates = {}
    for prefix in ("", *(start for start, keys in starts.items() if 2 * keys >= len(expected))):
        under = {key.removeprefix(prefix): tensor for key, tensor in file.tensors.items() if key.startswith(prefix)}
        candidates[prefix] = inflated(map_keys(dataclasses.replace(file, tensors=under), architecture), network)
    prefix = max(candidates, key=lambda prefix: matching(network, candidates[prefix].tensors))
    weights = candidates[prefix]
    others = {key for key in weights.tensors.keys() - expected if _OTHER_PART.match(key)}
    tensors = {key: tensor for key, tensor in weights.tensors.items() if key not in others or key in network.head_keys}
    left_out = [key for key in file.tensors if key.removeprefix(prefix) in others or not key.startswith(prefix)]
    parts = dict.fromkeys(key.rpartition(".")[0] or key for key in left_out)
    notes = {"prefix removed": [prefix], "left out": parts, "not opened": file.not_opened}
    rows = tuple(f"{title}: {', '.join(names)}" for title, names in notes.items() if any(names))
    return dataclasses.replace(weights, tensors=tensors, notes=rows)


def inflated(weights: MappedWeights, network: nn.Module) -> MappedWeights:
    """`weights` with each 2-D kernel (O, I, k, k) in the middle of a 3-D one, (O, I, frames, k, k), with zeros around,
    where `network` has one."""
    tensors = dict(weights.tensors)
    for key, expected in network.state_dict().items():
        if expected.dim() == 5 and key in tensors and tensors[key].dim() == 4:
            around = expected.shape[2] // 2
            tensors[key] = F.pad(tensors[key].unsqueeze(2), (0, 0, 0, 0, around, around))
    return dataclasses.replace(weights, tensors=tensors)


def matching(network: nn.Module, tensors: Mapping[str, Tensor]) -> int:
    """The number of tensors whose key and shape the network has."""
    expected = network.state_dict()
    return sum(key in expected and expected[key].shape == tensor.shape for key, tensor in tensors.items())


def require_fit(network: Any, weights: MappedWeights, path: Path, architecture: str) -> None:
    """Raise `BadData` with the keys that do not fit (see `listing`)."""
    if problems := misfits(network, weights.tensors):
        why = f"read as {weights.key_mapping}, it does not fit {architecture}: {listing(problems)}"
        remedy = f"Find the network that it fits: amem weights inspect {shlex.quote(str(path))}"
        raise BadData("weights", path, why=why, remedy=remedy)


def misfits(network: Any, tensors: Mapping[str, Tensor]) -> list[str]:
    """Every key that is missing, superfluous, of another shape or type, or not finite in float32."""
    expected = network.state_dict()
    rows = [f"missing {key}" for key in expected if key not in tensors and not key.endswith(BATCH_COUNTER)]
    rows += [f"left over {key}" for key in tensors if key not in expected and key not in network.head_keys]
    for key, tensor in tensors.items():
        if key in expected and tensor.shape != expected[key].shape:
            rows.append(f"{key} is {tuple(tensor.shape)}, not {tuple(expected[key].shape)}")
        if not tensor.is_floating_point() and not key.endswith(BATCH_COUNTER):
            rows.append(f"{key} is {tensor.dtype}, not floating point")
        elif not tensor.float().isfinite().all():
            rows.append(f"{key} has values that are NaN, infinite or beyond float32")
        elif key.endswith("running_var") and (tensor < 0).any():
            rows.append(f"{key} has negative variances")
    return rows


def head_classes(network: Any, tensors: Mapping[str, Tensor]) -> int | None:
    """The number of classes of the classification head in a file, None without one."""
    head = next((tensors[key] for key in network.head_keys if key in tensors), None)
    return head.shape[0] if head is not None and head.dim() else None
